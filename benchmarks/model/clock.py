"""Seconds of work, on a machine that others use too.

One thread of a CPU: the process's CPU time, which what else runs does not lengthen much. More threads, or a GPU: wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Clock:
    """Where work is done, and by how many threads."""

    device: torch.device
    threads: int

    @property
    def kind(self) -> str:
        """What is counted."""
        if self.device.type == "cuda":
            return "wall seconds, device synchronised"
        return "CPU seconds of one thread" if self.threads == 1 else f"wall seconds, {self.threads} threads"

    def seconds(self, act: Callable[[], Any]) -> float:
        """What `act()` takes."""
        began = self._now()
        act()
        return self._now() - began

    def race(self, acts: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Each of `acts` once a round, in reversed order every other round; seconds by name. Each has been done before."""
        spent: dict[str, list[float]] = {name: [] for name in acts}
        for turn in range(rounds):
            for name in list(acts)[:: -1 if turn % 2 else 1]:
                spent[name].append(self.seconds(acts[name]))
        return spent

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.threads == 1:
            return time.process_time()
        return time.perf_counter()
