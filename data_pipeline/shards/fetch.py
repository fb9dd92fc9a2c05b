"""Small objects that prove themselves: fetched again while they arrive wrong."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import TypeVar

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.storage.types import FETCH_AGAIN_S, Store

T = TypeVar("T")

PLAN = "pack.json"  # of a pack, beside its index or above its sets


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


def pack_is_unfinished(store: Store) -> bool:
    """Whether a pack was begun in this place and has not ended: what lies there is no whole data set."""
    try:
        plan = json.loads(store.get(PLAN))
    except (NotFound, ValueError):
        return False
    return isinstance(plan, dict) and "sets" in plan and not plan.get("finished", False)
