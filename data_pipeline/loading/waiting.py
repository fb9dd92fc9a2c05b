"""Waiting for work that threads do, aloud: while it is late, somebody is told what the store still owes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

from data_pipeline.loading.blocks import Asked, BlockFetcher

PATIENCE_S = 10.0  # before it is said what is waited for; then again after twice as long, and so on

Tell = Callable[[dict[str, Any]], None]


def wait_for(work: Sequence[Future[Any]], fetcher: BlockFetcher, tell: Tell | None, **facts: Any) -> None:
    """Until all of `work` is done; raises the first error that any of it met.

    While it is late, `tell` gets `facts` and {"seconds" waited, "object" url, "start", "length" in bytes, "asked_s" ago};
    "object" is empty where the store owes nothing.
    """
    began, patience = time.monotonic(), PATIENCE_S
    while True:
        late = wait(work, patience, FIRST_EXCEPTION).not_done
        for each in work:
            if each.done():
                each.result()
        if not late:
            return
        patience *= 2
        if tell:
            now = time.monotonic()
            asked = fetcher.oldest() or Asked("", 0, 0, now)
            what = {"object": asked.url, "start": asked.start, "length": asked.length}
            tell({**facts, "seconds": now - began, **what, "asked_s": now - asked.since})
