"""Play a schedule on one run: wait for each fault's moment, strike, see the run come back, until the run or the schedule is over.

The chain: Keeper has `mixer train` at work -> Watch tells where the run is -> a Planned fault's moment comes -> strike() -> Record.
A run that makes no step for STUCK_S is lost, and so is one whose driver gives up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tests.chaos.faults import strike
from tests.chaos.keeper import Keeper
from tests.chaos.record import Record
from tests.chaos.scene import Scene
from tests.chaos.schedule import CALM_STEPS, Planned
from tests.chaos.sight import Sight, Watch
from tests.chaos.stage import Stage

LOOK_S = 0.2
STUCK_S = 240.0
SETTLE_S, SETTLE_STEPS = (
    2.0,
    6,
)  # progress is told once a second, so a step that a dead rank did may still arrive
SAVING_S = 20.0
TRIES = 25  # to find a target, one a look

Tell = Callable[[str, int], None]  # a line for whoever looks on, and how many faults it stands for


@dataclass
class Played:
    """One run and what was done to it."""

    name: str
    records: list[Record] = field(default_factory=list)
    left: list[Planned] = field(default_factory=list)  # faults whose moment never came
    code: int | None = None  # of the last driver; None when it never ended
    began: float = 0.0  # Unix seconds: when it was first seen in the store
    ended: float = 0.0  # when its last driver was gone
    unasked: list[str] = field(default_factory=list)

    @property
    def lost(self) -> str:
        """Why the run is lost; empty when it finished."""
        if self.code == 0:
            return ""
        return f"no step for {STUCK_S:.0f} s" if self.code is None else f"its driver left with {self.code}"


class Over(Exception):
    """The run has ended."""


class Player:
    """Plays on one run."""

    def __init__(self, stage: Stage, played: Played, tell: Tell) -> None:
        self._stage, self.played, self._tell = stage, played, tell
        self._moved_at, self._moved = time.monotonic(), (0, 0)

    def play(self, planned: Sequence[Planned]) -> None:
        """All of `planned`, as far as the run lasts, and then the run to its end."""
        left = list(planned)
        try:
            while left:
                self._await(left[0])
                coming = left.pop(0)
                if not self._strike(coming):
                    left.append(replace(coming, when="calm", after=CALM_STEPS[0]))
            self._rest()
        except Over:
            self.played.left = left
        for later in self._stage.later:
            self._act(later.number, later.act)

    def _strike(self, planned: Planned) -> bool:
        """Do it; whether there was anything to hit."""
        for _ in range(TRIES):
            sight, at = self._look(), time.time()
            if (target := strike(self._stage, planned)) is None:
                continue
            record = Record(planned.number, planned.kind, target, at, sight.attempt, sight.step, sight.phase)
            self.played.records.append(record)
            self._tell(f"{planned.kind}: {target}, at step {sight.step} ({sight.phase})", 1)
            return True
        self._tell(f"nothing to hit for {planned.kind} now; later", 0)
        return False

    # -- moments --------------------------------------------------------------------------------------------------------
    def _await(self, planned: Planned) -> None:
        if planned.when == "recovering":
            return self._pass(planned.after)
        if planned.when == "starting":
            self._until(lambda sight: sight.phase == "starting" or self._settled(sight))
            return self._pass(planned.after)
        self._until(self._settled)
        if planned.when == "saving":
            return self._save_begins(planned.after)
        begin = self._look()
        self._until(
            lambda sight: sight.training and self._settled(sight) and _gained(begin, sight) >= planned.after
        )
        return None

    def _settled(self, sight: Sight) -> bool:
        """Whether the run has got over what was done last."""
        if not self.played.records:
            return sight.training
        last = self.played.records[-1]
        if not sight.training or time.time() < last.at + SETTLE_S:
            return False
        return sight.attempt != last.attempt or sight.step >= last.step + SETTLE_STEPS

    def _save_begins(self, after: float) -> None:
        front = self._stage.front
        if front is None:
            return self._pass(after)
        before, deadline = front.asked("PUT checkpoints"), time.monotonic() + SAVING_S
        while front.asked("PUT checkpoints") == before and time.monotonic() < deadline:
            self._tend()
            time.sleep(0.01)
        return time.sleep(after)

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()

    def _until(self, true: Callable[[Sight], bool]) -> Sight:
        while not true(sight := self._look()):
            pass
        return sight

    def _rest(self) -> None:
        """To the end of the run."""
        while True:
            self._look()

    # -- one look -------------------------------------------------------------------------------------------------------
    def _look(self) -> Sight:
        time.sleep(LOOK_S)
        self._tend()
        sight = self._stage.watch.look()
        if not self.played.began and self._stage.watch.entries:
            self.played.began = time.time()
        if (moved := (sight.attempt, sight.step)) != self._moved and moved[1] != self._moved[1]:
            self._moved_at, self._moved = time.monotonic(), moved
        if time.monotonic() > self._moved_at + STUCK_S:
            raise Over
        return sight

    def _tend(self) -> None:
        due = [later for later in self._stage.later if later.at <= time.time()]
        self._stage.later = [later for later in self._stage.later if later not in due]
        for later in due:
            self._act(later.number, later.act)
        code = self._stage.keeper.tend(self._stage.watch.gave_up)
        if code is not None:
            self.played.code = code
            raise Over

    def _act(self, number: int, act: Callable[[], str]) -> None:
        line = act()
        for record in self.played.records:
            if record.number == number and line:
                record.later.append(line)
                self._tell(f"  {record.kind}: {line}", 0)


def _gained(begin: Sight, now: Sight) -> int:
    """Steps since, in the same attempt; a new attempt begins to count anew."""
    return now.step - (begin.step if begin.attempt == now.attempt else now.began)


def play(scene: Scene, name: str, planned: Sequence[Planned], tell: Tell) -> Played:
    """One run under as many of `planned` as it lasts for. Nothing of it is left running."""
    scene.arena.ready()
    with _keeping(scene, name) as keeper:
        stage = Stage(scene.arena, keeper, Watch(f"{scene.store}/runs/{name}"), scene.front, scene.disk)
        played = Played(name)
        Player(stage, played, tell).play(planned)
        played.ended = time.time()
        played.unasked = keeper.unasked
        return played


@contextmanager
def _keeping(scene: Scene, name: str) -> Iterator[Keeper]:
    keeper = Keeper(scene.arena, scene.folder, str(scene.spec), scene.store, name)
    try:
        yield keeper
    finally:
        keeper.end()
