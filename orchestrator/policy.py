"""What to do between two attempts: a pure function of what was observed.

observation -> Start | Wait | GiveUp | Done | Leave, with the reason in one line: decision, count and limit. Losses of machines and
failures (of our code, or of a process whose machine lives) have separate budgets, refilled when a newer checkpoint is committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_pipeline.order import useful_world
from orchestrator.errors import FAILED, USAGE


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    finished; stopped (asked to, saved); lost (a machine went); died (a process went, its machine lives); vanished (one of the two);
    failed (our code, with traceback); damaged (the checkpoint it should start from); refused (the user must mend something).
    """

    kind: Literal["finished", "stopped", "lost", "died", "vanished", "failed", "damaged", "refused"]
    cause: str = ""
    step: int = 0  # where it was

    @property
    def hurt(self) -> bool:
        """Whether what follows is a recovery."""
        return self.kind in ("lost", "died", "failed", "damaged")


@dataclass(frozen=True)
class Budget:
    """What has been used since the last newer checkpoint, and what may be."""

    failures: int
    max_failures: int
    losses: int
    max_losses: int | None  # None: unlimited


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
    if last and last.kind == "stopped" and not last.cause.startswith("resize"):
        return Leave(last.cause)
    if _repeated(seen.before, last):
        return GiveUp(f"the same failure twice without a new checkpoint: {last.cause if last else ''}")
    if budget.failures > budget.max_failures:
        return GiveUp(
            f"{budget.failures} failures without a new checkpoint, recovery.failures allows {budget.max_failures}"
        )
    if budget.max_losses is not None and budget.losses > budget.max_losses:
        return GiveUp(
            f"{budget.losses} losses without a new checkpoint, recovery.preemptions allows {budget.max_losses}"
        )
    return _place(seen)


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
