"""What an attempt owes to the notices that reach it: leave with the deadline, be ended before it, save, or nothing.

| notice                                  | its node has ranks, a step is done | its node has ranks, no step yet | other node |
|-----------------------------------------|------------------------------------|---------------------------------|------------|
| the machine goes (deadline, or a drain) | drain, leave at once; killed when  | drain, killed at once: nothing  | drain      |
|                                         | the deadline is MARGIN_S away      | to save                         |            |
| advice only (no deadline)               | save; the node stays in use        | nothing                         | nothing    |

Advice (a rebalance recommendation) often comes to nothing, a node that drains never comes back, and a save costs one copy to host
memory: so advice makes the run save, and takes no machine from it. A node that Ray itself drains takes no new work whatever its
deadline, so there the run leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from orchestrator.leading.policy import PREEMPTED

if TYPE_CHECKING:
    from clusters.notices import Notice

MARGIN_S = 1.0  # what it takes to end an attempt
Answer = Literal["leave", "kill", "save", "nothing"]


def going(notice: Notice) -> bool:
    """Whether the machine really goes, or somebody only thinks it might."""
    return notice.deadline is not None or notice.source == "ray"


def answer(notice: Notice, *, ours: bool, started: bool) -> Answer:
    """What the attempt does. `ours`: the node has ranks of it; `started`: a step of it is done."""
    if not ours:
        return "nothing"
    if not going(notice):
        return "save" if started else "nothing"
    return "leave" if started else "kill"


@dataclass
class Preemption:
    """The notices an attempt leaves by."""

    causes: list[str] = field(default_factory=list)
    deadline: float | None = None  # the earliest; Unix seconds

    def add(self, notice: Notice) -> None:
        """Leave by this one, too."""
        cause = f"node {notice.node[:12]}: {notice.cause}"
        if cause not in self.causes:
            self.causes.append(cause)
        known = [moment for moment in (self.deadline, notice.deadline) if moment is not None]
        self.deadline = min(known, default=None)

    @property
    def why(self) -> str | None:
        """The cause of the stop, in one line."""
        return f"{PREEMPTED}: {'; '.join(self.causes)}" if self.causes else None

    def overdue(self, now: float) -> bool:
        """Whether the deadline is about to pass."""
        return self.deadline is not None and now >= self.deadline - MARGIN_S
