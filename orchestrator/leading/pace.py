"""What a driver knows of a run's pace: how often work is lost (from the log), what a restart takes and how fast steps go (seen)."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from orchestrator.leading.growth import RESTART_S, loss_every
from orchestrator.leading.policy import hurts
from orchestrator.run_log import ENDS, Entry


def losses(entries: Sequence[Entry]) -> list[float]:
    """When attempts ended by anything that what follows recovers from, a driver's death among them. Unix seconds."""
    found: list[float] = []
    open_attempt = False
    for entry in entries:
        if entry.kind == "attempt started":
            open_attempt = True
        elif entry.kind == "attempt ended":
            open_attempt = False
            if hurts(entry.facts["outcome"], entry.facts["cause"]):
                found.append(entry.time)
        elif entry.kind == "taken over" and open_attempt:
            open_attempt = False
            found.append(entry.time)
    return found


def worked(entries: Sequence[Entry], now: float) -> float:
    """Seconds in which an attempt was at work, as far as the log knows."""
    total, since = 0.0, None
    marks = ("attempt started", "attempt ended", "taken over", *ENDS)
    for entry in entries:
        if entry.kind in marks and since is not None:
            total, since = total + entry.time - since, None
        if entry.kind == "attempt started":
            since = entry.time
    return total + (now - since if since is not None else 0.0)


class Pace:
    """One driver's stopwatch."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries
        self._restarts: deque[float] = deque(maxlen=5)
        self._since = time.monotonic()
        self._first: tuple[int, float] | None = None

    def attempt_over(self) -> None:
        """The restart that follows begins now."""
        self._since, self._first = time.monotonic(), None

    def first_step(self) -> None:
        """The attempt that follows has done its first step."""
        self._restarts.append(time.monotonic() - self._since)

    @property
    def restart_s(self) -> float:
        """From the end of an attempt to the first step of the next: the median of the newest."""
        return statistics.median(self._restarts) if self._restarts else RESTART_S

    def loss_every_s(self) -> float:
        """Expected time between losses."""
        now = time.time()
        return loss_every(losses(self._entries), worked(self._entries, now), now)

    def step_s(self, progress: dict[str, Any], batch: int) -> float | None:
        """Seconds per step of this attempt, from what rank 0 said at two moments, or else of its last step."""
        if "images_per_s" not in progress:
            return None
        step, moment = int(progress["step"]), float(progress["time"])
        if self._first is None:
            self._first = step, moment
        steps = step - self._first[0]
        if steps > 0:
            return (moment - self._first[1]) / steps
        return batch / float(progress["images_per_s"])
