"""Work done by several threads, taken in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
AHEAD = 4  # pieces of work begun or done, for each thread


def in_order(threads: int, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`work` of each item, in order; only a few are ahead of what was taken. What is left when the caller stops is not begun."""
    rest = iter(items)
    pool = ThreadPoolExecutor(threads, "mixer-shards")
    try:
        ahead = deque(pool.submit(work, item) for item in islice(rest, AHEAD * threads))
        while ahead:
            done = ahead.popleft().result()
            ahead.extend(pool.submit(work, item) for item in islice(rest, 1))
            yield done
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
