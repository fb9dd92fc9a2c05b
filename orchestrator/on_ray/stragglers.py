"""Which rank is slow: its own work per step (reading and the forward passes, where no rank waits for another) against the others'.

A pure judgement over pulses. In ZeRO stage 3 forward passes gather weights, so there a slow rank shows only in its reading.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAMPLES, FACTOR, FLOOR_S = 20, 1.5, 0.05


@dataclass
class Stragglers:
    """The last SAMPLES steps seen of each rank."""

    seen: dict[int, deque[float]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)

    def note(self, pulses: Mapping[int, Mapping[str, Any]]) -> None:
        """Take in pulses by rank: `step`, and `busy_s`, the seconds of its own work in that step."""
        for rank, facts in pulses.items():
            if facts["step"] != self.steps.get(rank) and facts["busy_s"] > 0:
                self.steps[rank] = facts["step"]
                self.seen.setdefault(rank, deque(maxlen=SAMPLES)).append(facts["busy_s"])

    def find(self) -> dict[int, str]:
        """Ranks that are slow and were not told before, each with its figures."""
        if len(self.seen) < 2 or any(len(times) < SAMPLES for times in self.seen.values()):
            return {}
        typical = {rank: statistics.median(times) for rank, times in self.seen.items()}
        found = {}
        for rank, own in typical.items():
            others = statistics.median(time for other, time in typical.items() if other != rank)
            if own > max(FACTOR * others, others + FLOOR_S) and rank not in self.told:
                self.told.add(rank)
                found[rank] = f"{own:.3f} s of its own work a step, the others {others:.3f} s"
        return found
