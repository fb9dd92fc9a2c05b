"""Curves for TensorBoard while a run goes on: event files under `tensorboard/` in the run's folder, written by rank 0.

Objects cannot be appended to, so each file holds what was noted since the one before; their names sort in the order of attempt and part.
The first of an attempt tells TensorBoard to forget what earlier attempts noted of the steps that are done again.
"""

from __future__ import annotations

import json
import time

from data_pipeline.storage import Store
from orchestrator.tensorboard import FILE, Curves, Point, event_file

LONGEST_S, SHARE = 300.0, 0.02


class Board:
    """The curves of one attempt, which begins after `step` steps of `batch` images."""

    def __init__(self, store: Store, attempt: int, *, batch: int, step: int) -> None:
        self._store, self._attempt, self._restart = store, attempt, step + 1
        self._curves = Curves(batch, step)
        self._points: list[Point] = []
        self._part = 0
        self._began = self._wrote = time.monotonic()

    def take(self, lines: list[str]) -> None:
        """Events that are in the bucket now."""
        for line in lines:
            self._points += self._curves.points(json.loads(line))

    @property
    def due(self) -> bool:
        """Whether to write without being asked to: a long run writes less often, so that its files stay hundreds, not thousands."""
        now = time.monotonic()
        return now - self._wrote >= min(LONGEST_S, SHARE * (now - self._began))

    def write(self) -> None:
        """Write what was taken since. StoreError when the store does not take it; it is written with the next then."""
        if not self._points:
            return
        data = event_file(self._points, restart=None if self._part else self._restart, time=time.time())
        self._store.put(f"tensorboard/{FILE}.{self._attempt:010d}.{self._part:06d}", data)
        self._points.clear()
        self._part += 1
        self._wrote = time.monotonic()
