"""Small objects that prove themselves: fetched again while they arrive wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from data_pipeline.errors import BadDataset
from data_pipeline.storage.types import FETCH_AGAIN_S, Store

T = TypeVar("T")


class Damaged(BadDataset):
    """Bytes that are not those that were written; they may be, when they are fetched again."""


def fetch_proven(store: Store, key: str, prove: Callable[[bytes], T]) -> T:
    """What `prove` makes of an object. While it raises Damaged the object is fetched again, a few times within seconds."""
    began = time.monotonic()
    for pause in FETCH_AGAIN_S if store.remote else FETCH_AGAIN_S[:1]:
        try:
            return prove(store.get(key))
        except Damaged:
            if time.monotonic() - began > store.patience_s > 0:
                raise
            time.sleep(pause * random.uniform(0.75, 1.25))
    return prove(store.get(key))
