"""Curves for TensorBoard while a run goes on: event files under `tensorboard/` in the run's folder, written by rank 0.

Objects cannot be appended to, so each file holds what was noted since the one before. It is named after the attempt and the last part of
the events that is in it, so that TensorBoard reads them in order, and a later attempt sees what is missing. The first file of an attempt
makes TensorBoard forget the steps that are done again, and adds what the attempt before noted and did not live to show.
"""

from __future__ import annotations

import json
import time
from typing import Any

from data_pipeline.storage import Store
from orchestrator.tensorboard import FILE, Curves, Point, event_file
from orchestrator.training.events import read_parts

LONGEST_S, SHARE = (
    300.0,
    0.02,
)  # between files, and of the attempt's time: a run of days has hundreds of them, not thousands


class Board:
    """The curves of one attempt, which begins after `step` steps of `batch` images."""

    def __init__(self, store: Store, attempt: int, *, batch: int, step: int) -> None:
        self._store, self._attempt, self._batch, self._step = store, attempt, batch, step
        self._curves = Curves(batch, step)
        self._points: list[Point] = []
        self._last = 0  # part of the events
        self._first = True
        self._began = self._wrote = time.monotonic()

    def take(self, part: int, lines: list[str]) -> None:
        """The events of a part that is in the bucket now."""
        self._last = part
        for line in lines:
            self._points += self._curves.points(json.loads(line))

    def write(self, *, end: bool = False) -> None:
        """Write what was taken, at the end or when it is time to. StoreError when the store does not take it: it comes with the next."""
        if not self._points or not (end or self._is_due()):
            return
        restart = self._step + 1 if self._first else None
        points = [*(self._unshown() if self._first else ()), *self._points]
        data = event_file(points, restart=restart, time=time.time())
        self._store.put(f"tensorboard/{FILE}.{self._attempt:010d}.{self._last:06d}", data)
        self._points.clear()
        self._first, self._wrote = False, time.monotonic()

    def _is_due(self) -> bool:
        now = time.monotonic()
        return self._first or now - self._wrote >= min(LONGEST_S, SHARE * (now - self._began))

    def _unshown(self) -> list[Point]:
        """What the attempt that wrote the newest file noted later, of steps that this one builds on."""
        shown = [info.key.rsplit(".", 2)[1:] for info in self._store.list("tensorboard/")]
        earlier = [(int(attempt), int(part)) for attempt, part in shown if int(attempt) < self._attempt]
        if not earlier:
            return []
        attempt, last = max(earlier)
        seen = {f"events/{attempt:010d}-00000-{part:06d}.jsonl" for part in range(last + 1)}
        events: list[dict[str, Any]] = read_parts(self._store, attempt, 0, seen)
        curves = Curves(self._batch, 0)
        found = [point for event in events for point in curves.points(event)]
        return [point for point in found if 0 < point.step <= self._step]
