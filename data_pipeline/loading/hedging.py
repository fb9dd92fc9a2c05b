"""GETs that do not wait for the slowest: one that takes longer than nearly all others is sent a second time.

Whoever answers first is taken (Dean and Barroso, "The Tail at Scale", 2013). At most a share of the GETs is doubled,
so a store that is slow as a whole is not asked for twice as much. A GET runs in a thread of its own that nobody has to
wait for: one that hangs delays neither its twin nor the end of the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

Get = Callable[[str, int, int], bytes]  # key, start, length
T = TypeVar("T")

HEDGED_SHARE = 0.05
QUANTILE = 0.95
SEEN = 200  # newest GETs that say what is slow
ENOUGH = 20  # of them to know it; before, UNKNOWN_S
UNKNOWN_S, SHORTEST_S = 2.0, 0.05
LONGEST_S = 20.0  # after which a GET is sent a second time in any case: its answer may be trickling
ALWAYS_ALLOWED = 3


class Closed(RuntimeError):
    """Nobody waits for this GET any more."""


class HedgedGets:
    """`get` with second tries. Safe to use from several threads. `hedges`: GETs sent a second time; `won`: those the second one decided."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._seconds: deque[float] = deque(maxlen=SEEN)
        self._lock = threading.Lock()
        self._closing: Future[bytes] = Future()
        self._gets = 0
        self.hedges, self.won = 0, 0

    def get(self, key: str, start: int, length: int) -> bytes:
        """What the first of at most two GETs brings; an error only when neither brings anything."""
        began = time.monotonic()
        first = self._start(self._get, key, start, length)
        futures = [first]
        if not self._comes(first, self._slow()) and (
            self._may_hedge() or not self._comes(first, LONGEST_S, force=True)
        ):
            futures.append(self._start(self._get, key, start, length))
        data = self._first_good(futures)
        with self._lock:
            self._gets += 1
            self._seconds.append(time.monotonic() - began)
            self.won += len(futures) == 2 and not (first.done() and first.exception() is None)
        return data

    def call(self, act: Callable[..., T], *given: object) -> T:
        """`act(*given)`, in a thread of its own, so that closing does not wait for it. Not tried twice."""
        return self._first_good([self._start(act, *given)])

    def close(self) -> None:
        """Everybody who waits gets Closed. Harmless when repeated."""
        with self._lock:
            if not self._closing.done():
                self._closing.set_exception(Closed("the reader is closed"))

    def _comes(self, future: Future[bytes], seconds: float, *, force: bool = False) -> bool:
        """Whether it is done, or nobody waits any more, within `seconds`. `force`: the second GET then counts, whatever the share."""
        come = bool(wait([future, self._closing], seconds, FIRST_COMPLETED).done)
        with self._lock:
            self.hedges += force and not come
        return come

    def _start(self, act: Callable[..., T], *given: object) -> Future[T]:
        future: Future[T] = Future()
        if self._closing.done():
            raise Closed("the reader is closed")
        threading.Thread(target=_run, args=(future, act, *given), name="mixer-get", daemon=True).start()
        return future

    def _first_good(self, futures: list[Future[T]]) -> T:
        left: set[Future[Any]] = set(futures)
        while True:
            done = wait({*left, self._closing}, return_when=FIRST_COMPLETED).done
            good = [future for future in done & left if future.exception() is None]
            left -= done
            if good or not left or self._closing in done:
                found: T = (good or [*(done - {self._closing}), self._closing])[0].result()
                return found

    def _slow(self) -> float:
        """Seconds after which a GET is later than nearly all others."""
        with self._lock:
            seen = sorted(self._seconds)
        return UNKNOWN_S if len(seen) < ENOUGH else max(SHORTEST_S, seen[int(QUANTILE * len(seen))])

    def _may_hedge(self) -> bool:
        with self._lock:
            allowed = not self._closing.done() and self.hedges < ALWAYS_ALLOWED + HEDGED_SHARE * self._gets
            self.hedges += allowed
            return allowed


def _run(future: Future[T], act: Callable[..., T], *given: object) -> None:
    try:
        future.set_result(act(*given))
    except BaseException as error:
        future.set_exception(error)
