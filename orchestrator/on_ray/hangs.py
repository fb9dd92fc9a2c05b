"""Whether a rank has stopped moving: a pure judgement over the ranks' pulses, with the rank, its node and what it was doing.

A rank that waits in a collective waits for another: the one to blame is a rank that is not waiting. While a rank is about something
that takes its time (the store, a save, an evaluation), the others wait for it and are not judged. A process that is stopped is told by
its state, the rest by how long it has been in one phase, against a limit that fits the phase and the pace of the run.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STOPPED_S = 3.0
STEADY_S, PACES = 10.0, 10.0  # a phase of a step: so long, and so many times a step as they are lately
MEETING_S = 30.0  # all wait in a collective: the network, or a rank that is elsewhere than it says
READ_S = 100.0  # a store is tried for 60 s
SAVE_S = 3700.0  # a rank's upload may be long, and a save waits half an hour for the parts of the others
PHASE_S = {"save": SAVE_S, "leave": SAVE_S, "evaluate": 1800.0, "load": 1800.0}
STARTING_S, COMPILING_S = 300.0, 1800.0
STARTING = ("start", "import", "join", "engine", "data", "idle")
STEPPING = ("compute", "collective")


@dataclass(frozen=True)
class Hang:
    """Who has stopped, and where."""

    ranks: tuple[int, ...]
    why: str


@dataclass
class Limits:
    """How long a phase may take, learnt from the attempt itself. note() each look, then ask."""

    first: int | None = None  # steps completed when the attempt began
    step: int = 0
    since: float = 0.0
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def note(self, pulses: Mapping[int, Mapping[str, Any]], now: float) -> None:
        """Take in how far the attempt has come at `now` (seconds on any clock)."""
        marked = [facts["step"] for facts in pulses.values() if facts["phase"] not in (*STARTING, "load")]
        if not marked:
            return
        step = min(marked)
        if self.first is None:
            self.first, self.step, self.since = step, step, now
        elif step > self.step:
            if self.step > self.first:  # the first one compiles
                self.paces.append((now - self.since) / (step - self.step))
            self.step, self.since = step, now

    @property
    def steady(self) -> bool:
        """Whether a step has been completed."""
        return self.first is not None and self.step > self.first

    def of(self, phase: str) -> float:
        """Seconds that a rank may be in `phase`."""
        if phase in STARTING:
            return STARTING_S
        if phase in PHASE_S:
            return PHASE_S[phase]
        if not self.steady:
            return STARTING_S if phase == "read" else COMPILING_S
        paces = PACES * statistics.median(self.paces) if self.paces else STARTING_S
        return {"read": READ_S, "collective": MEETING_S}.get(phase, STEADY_S) + paces


def find_hang(pulses: Mapping[int, Mapping[str, Any]], limits: Limits, now: float) -> Hang | None:
    """The ranks that have stopped, or None. `pulses` by rank: phase, step, age_s at `at`, stopped_s; `now` on the clock of `at`."""
    ages = {rank: facts["age_s"] + now - facts["at"] for rank, facts in pulses.items()}
    stopped = [rank for rank, facts in pulses.items() if facts["stopped_s"] > STOPPED_S]
    if stopped:
        return Hang(tuple(stopped), _tell("is stopped (SIGSTOP)", stopped, pulses, ages))
    elsewhere = [rank for rank, facts in pulses.items() if facts["phase"] not in STEPPING]
    free = elsewhere or [rank for rank, facts in pulses.items() if facts["phase"] != "collective"]
    late = [rank for rank in free if ages[rank] > limits.of(pulses[rank]["phase"])]
    if late:
        return Hang(tuple(late), _tell("does not move", late, pulses, ages))
    if pulses and not free and min(ages.values()) > limits.of("collective"):
        return Hang(tuple(pulses), _tell("waits for the others", list(pulses), pulses, ages))
    return None


def _tell(
    what: str, ranks: list[int], pulses: Mapping[int, Mapping[str, Any]], ages: Mapping[int, float]
) -> str:
    return "; ".join(
        f"rank {rank} {what}: in {pulses[rank]['phase']} of step {pulses[rank]['step'] + 1} for {ages[rank]:.0f} s"
        for rank in ranks
    )
