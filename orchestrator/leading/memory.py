"""What one driver remembers between decisions, and what it has charged. All that must survive it is in the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.leading.policy import FAILURES, Budget, Outcome
from orchestrator.run_log import Entry, left_out
from orchestrator.spec import Recovery

MOST_BACK_OFF_S = 60.0


@dataclass
class Memory:
    """Since the newest committed checkpoint."""

    last: Outcome | None = None
    before: Outcome | None = None
    failures: int = 0
    losses: int = 0
    preempted: int = 0  # losses that were announced: charged, but no reason to start more slowly
    waiting_since: float | None = None
    owes_pause: bool = False

    def refill(self) -> None:
        """A newer checkpoint is committed: a failure before it is not the same as one after it."""
        self.failures = self.losses = self.preempted = 0
        self.last = None

    def charge(self, outcome: Outcome, *, gained: bool) -> None:
        """An attempt has ended; `gained`: it came further than where it began."""
        if gained:
            self.waiting_since = None
        self.before, self.last = self.last, outcome
        self.owes_pause = True
        self.losses += outcome.kind == "lost"
        self.preempted += outcome.preempted
        self.failures += outcome.kind in FAILURES

    def budget(self, recovery: Recovery, entries: Iterable[Entry]) -> Budget:
        """What has been used, against what `recovery` allows."""
        return Budget(
            self.failures,
            recovery.failures,
            self.losses + self.preempted,
            None if recovery.preemptions == "unlimited" else int(recovery.preemptions),
            left_out(entries),
            recovery.left_out,
        )

    def take_back_off_s(self) -> float:
        """After several setbacks in a row, each start waits twice as long as the one before. Once per setback."""
        setbacks, owed = self.failures + self.losses, self.owes_pause
        self.owes_pause = False
        return min(MOST_BACK_OFF_S, 2.0 ** (setbacks - 1)) if owed and setbacks > 1 else 0.0
