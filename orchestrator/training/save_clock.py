"""When it is time to save by the clock: every so many seconds, or as often as loses least (`checkpoint.every: auto`)."""

from __future__ import annotations

import statistics
import time
from collections import deque

from orchestrator.durations import Duration
from orchestrator.intervals import save_every

BELIEVED_COST_S = 0.5  # of a save, until one has been seen


class SaveClock:
    """Rank 0's clock. `every` in steps is none of its business: then it is never time."""

    def __init__(self, every: Duration | None = None, loss_every_s: float | None = None) -> None:
        self._every, self._loss_every_s = every, loss_every_s
        self._costs: deque[float] = deque(maxlen=5)
        self._at = time.monotonic()

    def saved(self, cost_s: float) -> None:
        """A save has just begun its way to the store; the step waited `cost_s` for it."""
        self._costs.append(cost_s)
        self._at = time.monotonic()

    def seconds(self, upload_s: float) -> float | None:
        """The interval now, when a save takes `upload_s` until it is whole; None: not by the clock."""
        if self._every is None or not self._every.auto:
            return self._every.seconds if self._every else None
        cost = statistics.median(self._costs) if self._costs else BELIEVED_COST_S
        return save_every(cost, self._loss_every_s, upload_s)

    def due(self, upload_s: float) -> bool:
        """Whether to save after this step."""
        seconds = self.seconds(upload_s)
        return seconds is not None and time.monotonic() - self._at >= seconds
