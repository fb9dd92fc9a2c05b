"""A rank's pulse: what it is doing, in which step, and since when, where whoever watches the rank can read it without asking.

The rank writes a few numbers into a small file in shared memory (mark(), some microseconds); its shell reads them (read()). A rank that
is stopped, stuck in a read or in a collective cannot answer; its last mark still says where it was.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PHASES = (
    "start", "import", "join", "engine", "load", "data",
    "read", "compute", "collective", "save", "evaluate", "idle", "leave",
)  # fmt: skip
ENVIRONMENT = "MIXER_PULSE"
_LAYOUT = struct.Struct("<ddqqq")  # since (CLOCK_MONOTONIC), busy seconds of the last step, step, turn, phase


@dataclass(frozen=True)
class Beat:
    """One reading. `since` is when it was marked, on the host's monotonic clock; `busy_s` what the last step took before it met others."""

    phase: str
    step: int
    turn: int
    since: float
    busy_s: float

    def facts(self, now: float) -> dict[str, Any]:
        """As JSON takes it, with `age_s` in place of the clock of one host."""
        return {**asdict(self), "age_s": now - self.since}


class Pulse:
    """The writer's end. Without a path it writes where nobody looks."""

    def __init__(self, path: str | None = None) -> None:
        self._memory: Any = bytearray(_LAYOUT.size)
        if path:
            Path(path).write_bytes(bytes(_LAYOUT.size))
            with open(path, "r+b") as file:
                self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._busy_s = 0.0
        self.step = 0

    @classmethod
    def of_environment(cls) -> Pulse:
        """The pulse that whoever started this process wants to read."""
        return cls(os.environ.get(ENVIRONMENT))

    def mark(self, phase: str, step: int | None = None, turn: int = 0) -> None:
        """From now on this rank is in `phase` of the step after `step` completed ones."""
        self.step = self.step if step is None else step
        _LAYOUT.pack_into(
            self._memory, 0, time.monotonic(), self._busy_s, self.step, turn, PHASES.index(phase)
        )

    def busy(self, seconds: float) -> None:
        """What this rank's own part of the last step took; goes out with the next mark."""
        self._busy_s = seconds


def read(path: str) -> Beat | None:
    """The last mark in the file at `path`; None before the first."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    if len(data) != _LAYOUT.size:
        return None
    since, busy_s, step, turn, phase = _LAYOUT.unpack(data)
    return Beat(PHASES[phase], step, turn, since, busy_s) if since else None
