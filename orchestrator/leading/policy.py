"""What to do between two attempts: a pure function of what was observed.

observation -> Start | Wait | GiveUp | Done | Leave, with the reason in one line: decision, count and limit. Losses of machines and
failures (of our code, or of a process whose machine lives) have separate budgets, refilled when a newer checkpoint is committed.
Batches left out have a budget of their own, for the whole run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_pipeline.order import useful_world
from orchestrator.errors import FAILED, USAGE

HURT = ("lost", "died", "hung", "failed", "damaged", "diverged")  # what follows these is a recovery
FAILURES = ("died", "hung", "failed", "damaged")  # charged to recovery.failures
PREEMPTED, RESIZE = "preempted", "resize"  # how the causes begin of a stop after which the run goes on


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    finished; stopped (told to); lost (a machine went); died (a process went, its machine lives); vanished (one of the two); hung (a rank
    stopped, so we ended it); failed (our code, with traceback); diverged (`batch` gave a loss or gradient that cannot be used); damaged
    (the checkpoint it should start from); refused (the user must mend something).
    """

    kind: Literal[
        "finished", "stopped", "lost", "died", "vanished", "hung", "failed", "diverged", "damaged", "refused"
    ]
    cause: str = ""
    step: int = 0  # where it was
    batch: int | None = None  # that diverged

    @property
    def preempted(self) -> bool:
        """Whether it stopped because a machine of its own was announced to go."""
        return self.kind == "stopped" and self.cause.startswith(PREEMPTED)

    @property
    def goes_on(self) -> bool:
        """Whether it stopped only to start again at once."""
        return self.preempted or (self.kind == "stopped" and self.cause.startswith(RESIZE))


def hurts(kind: str, cause: str) -> bool:
    """Whether what follows an attempt that ended so is a recovery."""
    return kind in HURT or (kind == "stopped" and cause.startswith(PREEMPTED))


@dataclass(frozen=True)
class Budget:
    """What has been used since the last newer checkpoint, and what may be."""

    failures: int
    max_failures: int
    losses: int
    max_losses: int | None  # None: unlimited
    left_out: tuple[int, ...] = ()  # batches, in the order they diverged, of the whole run
    max_left_out: int = 3


@dataclass(frozen=True)
class Observed:
    """What the decision rests on. `available` counts workers that the living nodes can hold; `slots` is M."""

    available: int
    minimum: int
    maximum: int
    slots: int
    wait_limit_s: float
    last: Outcome | None = None
    before: Outcome | None = None  # the outcome before `last`, when no checkpoint was committed between
    budget: Budget = Budget(0, 0, 0, None)
    waited_s: float = 0.0
    leaving: str | None = None
    bereft: bool = False  # checkpoints were committed, and every one that is left is damaged


@dataclass(frozen=True)
class Start:
    """Begin an attempt with `world` workers."""

    world: int
    why: str


@dataclass(frozen=True)
class Wait:
    """There are too few machines."""

    why: str


@dataclass(frozen=True)
class GiveUp:
    """The run has failed; `code` is its exit code, 2 where the user can mend it."""

    why: str
    code: int = FAILED


@dataclass(frozen=True)
class Done:
    """The run has finished."""


@dataclass(frozen=True)
class Leave:
    """Asked to stop; the run can be resumed."""

    why: str


Decision = Start | Wait | GiveUp | Done | Leave


def decide(seen: Observed) -> Decision:
    """The next thing to do."""
    last, budget = seen.last, seen.budget
    if last and last.kind == "finished":
        return Done()
    if last and last.kind == "refused":
        return GiveUp(last.cause, USAGE)
    if seen.bereft:
        return GiveUp(
            "no whole checkpoint is left; the damaged ones are kept, and `mixer verify` says what is wrong with them"
        )
    if seen.leaving:
        return Leave(seen.leaving)
    if last and last.kind == "stopped" and not last.goes_on:
        return Leave(last.cause)
    if _repeated(seen.before, last):
        return GiveUp(f"the same failure twice without a new checkpoint: {last.cause if last else ''}")
    return _overdrawn(budget, last) or _place(seen)


def _overdrawn(budget: Budget, last: Outcome | None) -> GiveUp | None:
    """The budget that is used up, if one is."""
    if last and last.kind == "diverged" and budget.left_out.count(last.batch or 0) > 1:
        return GiveUp(f"batch {last.batch} was left out and diverged again: {last.cause}")
    if len(budget.left_out) > budget.max_left_out:
        return GiveUp(
            f"{len(budget.left_out)} batches diverged ({', '.join(map(str, budget.left_out))}), "
            f"recovery.left_out allows {budget.max_left_out}; lower the rate or clip harder. Newest: {last.cause if last else ''}"
        )
    if budget.failures > budget.max_failures:
        return GiveUp(
            f"{budget.failures} failures without a new checkpoint, recovery.failures allows {budget.max_failures}"
        )
    if budget.max_losses is not None and budget.losses > budget.max_losses:
        return GiveUp(
            f"{budget.losses} losses without a new checkpoint, recovery.preemptions allows {budget.max_losses}"
        )
    return None


def _repeated(before: Outcome | None, last: Outcome | None) -> bool:
    """An error of our code that comes back with the same text, and no new checkpoint between, will come back forever."""
    if last is None or before is None or (last.kind, before.kind) != ("failed", "failed"):
        return False
    return last.cause.split("\n", 1)[0] == before.cause.split("\n", 1)[0]


def _place(seen: Observed) -> Decision:
    room = min(seen.available, seen.maximum)
    if room < seen.minimum:
        why = f"room for {seen.available} workers, workers.min is {seen.minimum}"
        if seen.waited_s > seen.wait_limit_s:
            return GiveUp(
                f"{why}; waited {seen.waited_s:.0f} s, recovery.wait allows {seen.wait_limit_s:.0f} s"
            )
        return Wait(why)
    world = max(useful_world(room, seen.slots), seen.minimum)
    return Start(
        world,
        f"room for {seen.available}, workers {seen.minimum}..{seen.maximum}, {seen.slots} micro-batches a step",
    )
