"""What the supervisor needs of the world: a cluster (Machines), an attempt on it (Work), and a place to show figures (Gauges).

Ray's are in orchestrator/on_ray, a test's are plain processes. Nothing here knows either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.leading.policy import Outcome
from orchestrator.run_log import Entry
from orchestrator.spec import Workers

if TYPE_CHECKING:
    from clusters.notices import Notice


class Work(Protocol):
    """One attempt at work."""

    def start(self) -> None:
        """Begin; returns at once."""

    def poll(self) -> Outcome | None:
        """How it ended, or None while it works."""

    def wait(self, seconds: float) -> None:
        """Until it ends or there is news, at most so long."""

    def nodes(self) -> set[str]:
        """Ids of the nodes its ranks are on, as far as they are placed."""

    def started(self) -> bool:
        """Whether a step has been completed in it: before, there is nothing to save."""

    def slow(self) -> dict[str, str]:
        """By node, what was found since the last call of ranks that are slower than the others."""

    def kill(self, why: str) -> None:
        """End it at once. The next poll() gives Outcome("stopped", why), unless it had ended otherwise."""


class Machines(Protocol):
    """The cluster."""

    def available(self, workers: Workers, without: str | None = None) -> int:
        """Workers that its living nodes can hold, or those but `without`. Nodes that drain hold none."""

    def nodes(self) -> set[str]:
        """Ids of the living nodes that do not drain."""

    def notices(self) -> list[Notice]:
        """What was announced since the last call."""

    def drain(self, notice: Notice) -> None:
        """Place nothing more on the node that `notice` names. May be told twice."""

    def ask_for(self, count: int, workers: Workers) -> None:
        """Say that room for `count` workers in all is wanted; 0 takes it back. Cheap; what comes of it shows in available()."""

    def attempt(self, name: str, world: int, workers: Workers, config: dict[str, Any]) -> Work:
        """An attempt, not started."""

    def release(self) -> None:
        """End every worker this driver started, and take back what was asked for."""


class Gauges(Protocol):
    """Where the run's figures are shown while it is led."""

    def show(self, entries: list[Entry], progress: dict[str, Any]) -> None:
        """Bring them up to date, from the log and from what rank 0 said last."""
