"""All that a fault may need: the arena, the driver's keeper, the run as it is seen, the proxy, and what is still to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from clusters.processes import Process
from tests.chaos.arena import Arena
from tests.chaos.disk import Disk
from tests.chaos.front import Front
from tests.chaos.keeper import Keeper
from tests.chaos.schedule import Planned
from tests.chaos.sight import Watch


@dataclass
class Later:
    """What a fault still has to do: at `at` (Unix seconds), its answer being a line for the record."""

    at: float
    number: int
    act: Callable[[], str]


@dataclass
class Stage:
    """All that a fault may need."""

    arena: Arena
    keeper: Keeper
    watch: Watch
    front: Front | None = None
    disk: Disk | None = None
    later: list[Later] = field(default_factory=list)

    def ranks(self) -> list[tuple[int, Process]]:
        """The living ranks of the newest attempt, with their numbers."""
        found = [(int(worker["rank"]), self.arena.rank(worker)) for worker in self.watch.workers()]
        return [(rank, process) for rank, process in found if process]

    def after(self, seconds: float, planned: Planned, act: Callable[[], str]) -> None:
        """Do `act` in so many seconds."""
        self.later.append(Later(time.time() + seconds, planned.number, act))


def scaled(planned: Planned, low: float, high: float) -> float:
    """The extent of a fault, between `low` and `high`."""
    return low + planned.size * (high - low)
