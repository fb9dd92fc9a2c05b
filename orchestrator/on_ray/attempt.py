"""One attempt: the ranks of one world size, from their order to the last one's report, over a placement.

poll() looks at the desk's board and tells when the attempt is over and how, in our own types. When one rank ends badly the others get
a moment to say what they saw, then they are ended; a rank that has stopped moving is found by its pulse, named, and ends the attempt too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from orchestrator.leading.policy import Outcome
from orchestrator.on_ray.desk import Board, DeskGone, Line
from orchestrator.on_ray.hangs import Hang, Limits, find_hang
from orchestrator.on_ray.placement import Placement
from orchestrator.on_ray.stragglers import Stragglers

GRACE_S = 1.0  # for the peers of a rank that ended badly
END_S = 5.0  # for shells to report ranks that were killed
SILENT_S = 10.0  # a shell tells its rank's pulse four times a second
DUMP_S = 2.0
COUNT_EVERY_S = 1.0  # the room, while shells are missing
ARRIVE_S = 120.0  # between the first shell and the last

STARTUP_LOST = "WorkerGroupStartupFailedError"  # a node went while a shell was being started on it
NO_ROOM = ("WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError", "PreemptionError")
OURS = ("damaged", "refused", "diverged", "failed")  # in the order in which they explain an end


class Attempt:
    """Attempt `number` of a run at the placement's world size."""

    def __init__(
        self,
        placement: Placement,
        number: int,
        config: dict[str, Any],
        *,
        line: Line,
        token: str,
        room: Callable[[], int],
    ) -> None:
        workers = placement.workers
        self._room, self._counted = room, 0.0
        self._placement, self._number, self._line, self._token = placement, number, line, token
        self._config = {**config, "cpus": workers.cpus, "gpus": workers.gpus}
        self._ordered = False
        self._ending: float | None = None  # since when the ranks have been told to end
        self._bad_since: float | None = None
        self._cause: Outcome | None = None  # why we ended it, when it was us
        self._outcome: Outcome | None = None
        self._version = 0
        self._first_arrival: float | None = None
        self._board = Board()
        self._limits, self._stragglers = Limits(), Stragglers()

    def start(self) -> None:
        """Begin; returns at once."""
        self._placement.start()

    def wait(self, seconds: float) -> None:
        """Until something is reported, at most so long."""
        if not self._placement.over:
            with suppress(DeskGone):  # poll() tells
                self._version = self._line.ask("changed", self._version, seconds)

    def nodes(self) -> set[str]:
        """The nodes its ranks are on."""
        return {facts["node"] for facts in self._board.arrivals.values()}

    def started(self) -> bool:
        """Whether a step has been completed in it."""
        return self._limits.steady

    def slow(self) -> dict[str, str]:
        """By node, what is known of ranks that were found slow since the last call."""
        return {
            self._board.arrivals[rank]["node"]: f"rank {rank}: {why}"
            for rank, why in self._stragglers.find().items()
        }

    def kill(self, why: str) -> None:
        """End it at once; poll() then tells "stopped"."""
        self._end(Outcome("stopped", why))

    def poll(self) -> Outcome | None:
        """How it ended, or None while it works. finished and stopped are told apart by what the workers wrote."""
        if self._outcome is None:
            try:
                self._board = self._placement.board()
                self._outcome = self._look()
            except DeskGone as error:
                self._outcome = self._cause or Outcome("died", str(error))
        return self._outcome

    def _look(self) -> Outcome | None:
        placement, board = self._placement, self._board
        mine = {rank: facts for rank, facts in board.reports.items() if "kind" in facts and self._ordered}
        if len(mine) == placement.world:
            return self._cause or explain(mine)
        if placement.over:
            return self._cause or classify(placement.error, mine)
        if not self._ordered:
            self._order_when_all_are_there()
            return self._cause  # it may have been ended before it began
        if self._ending is not None:
            return self._cause if time.monotonic() - self._ending > END_S else None
        if any(facts["kind"] != "ok" for facts in mine.values()):
            self._bad_since = self._bad_since or time.monotonic()
            if time.monotonic() - self._bad_since > GRACE_S:
                self._end(explain(mine))
            return None
        self._watch(mine)
        return None

    def _order_when_all_are_there(self) -> None:
        shells = self._board.arrivals
        if self._ending is not None:
            return
        if len(shells) < self._placement.world:
            self._watch_arrivals()
            return
        self._ordered = True
        first = shells[0]
        self._placement.order(
            "start",
            attempt=self._number,
            config=self._config,
            master=[first["ip"], first["port"]],
            warm=self._token,
        )

    def _watch_arrivals(self) -> None:
        """Shells arrive within seconds of one another, or something is wrong with a node."""
        board = self._board
        if board.arrivals and self._first_arrival is None:
            self._first_arrival = board.now
        if board.now - self._counted > COUNT_EVERY_S:
            self._counted = board.now
            if (room := self._room()) < self._placement.world:  # Ray would wait for it, a minute and more
                return self._end(
                    Outcome("lost", f"{self._placement.world} workers to place, room for {room}")
                )
        silent = self._silent()
        late = self._first_arrival is not None and board.now - self._first_arrival > ARRIVE_S
        if silent or late:
            missing = sorted(set(range(self._placement.world)) - board.arrivals.keys())
            late_ones = f"no shell of rank {', '.join(map(str, missing))} arrived in {ARRIVE_S:.0f} s"
            self._end(Outcome("vanished", silent or late_ones))
        return None

    def _silent(self) -> str | None:
        """Which shells have not been heard of for long."""
        board = self._board
        silent = [rank for rank, heard in board.heard.items() if board.now - heard > SILENT_S]
        names = ", ".join(f"rank {rank} on node {self._node(rank)}" for rank in silent)
        return f"nothing heard of {names} for {SILENT_S:.0f} s" if silent else None

    def _watch(self, ended: dict[int, dict[str, Any]]) -> None:
        """End the attempt when a rank, or a shell, has stopped moving."""
        board = self._board
        at_work = {rank: facts for rank, facts in board.pulses.items() if rank not in ended}
        self._limits.note(at_work, board.now)
        self._stragglers.note(at_work)
        if silent := self._silent():
            self._end(Outcome("vanished", silent))
        elif hang := find_hang(at_work, self._limits, board.now):
            self._end(Outcome("hung", self._explain_hang(hang)))

    def _explain_hang(self, hang: Hang) -> str:
        """Who, where, and the stacks of those to blame."""
        self._placement.order("dump", attempt=self._number)
        until = time.monotonic() + DUMP_S
        dumps: dict[int, str] = {}
        while time.monotonic() < until and not set(hang.ranks) <= dumps.keys():
            time.sleep(0.1)
            reports = self._placement.board().reports
            dumps = {rank: facts["dump"] for rank, facts in reports.items() if "dump" in facts}
        places = "; ".join(f"rank {rank}: node {self._node(rank)}" for rank in hang.ranks)
        stacks = "\n".join(f"rank {rank}:\n{dumps.get(rank, 'no answer')}" for rank in hang.ranks)
        return f"{hang.why} ({places})\n{stacks}"

    def _node(self, rank: int) -> str:
        facts = self._board.arrivals.get(rank, {})
        return f"{facts.get('node', '?')[:12]} ({facts.get('ip', '?')})"

    def _end(self, cause: Outcome) -> None:
        """Tell the shells to kill their ranks."""
        if self._ending is None:
            self._cause, self._ending = cause, time.monotonic()
            with suppress(DeskGone):
                self._placement.order("kill", attempt=self._number)


def explain(reports: dict[int, dict[str, Any]]) -> Outcome:
    """The Outcome of ranks whose shells live: what our own code said comes first, then who died, then who lost a peer."""
    for kind in OURS:
        for rank, facts in sorted(reports.items()):
            if facts["kind"] == kind:
                return _ours(kind, rank, facts)
    died = {rank: facts for rank, facts in sorted(reports.items()) if facts["kind"] == "died"}
    if died:
        return Outcome(
            "died", "; ".join(f"rank {rank} died: {facts['error']}" for rank, facts in died.items())
        )
    lost = [facts for _, facts in sorted(reports.items()) if facts["kind"] == "peer"]
    if lost:
        return Outcome("vanished", f"a peer is gone: {lost[0]['error']}")
    return Outcome("finished")


def _ours(kind: Any, rank: int, facts: dict[str, Any]) -> Outcome:
    if kind == "failed":
        return Outcome("failed", f"rank {rank}: {facts['error']}\n{facts['traceback']}")
    return Outcome(
        kind, facts.get("text") or facts["error"], **({"batch": facts["batch"]} if kind == "diverged" else {})
    )


def classify(error: BaseException | None, reports: dict[int, dict[str, Any]]) -> Outcome:
    """The Outcome when the placement itself has ended with `error`. Ray's exceptions end here."""
    told = explain({rank: facts for rank, facts in reports.items() if "kind" in facts})
    if told.kind in OURS:
        return told
    error = getattr(error, "controller_failure", error)
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    gone = sorted(rank for rank, failure in failures.items() if _of_ray(failure))
    if gone:
        text = "\n".join(str(failures[rank]) for rank in gone)
        # The raylet tells how a process ended; when it says nothing, its machine may be gone with it.
        kind: Literal["died", "vanished"] = "died" if "exit type" in text else "vanished"
        return Outcome(kind, f"rank {', '.join(map(str, gone))} died: {_first_line(failures[gone[0]])}")
    for rank, failure in sorted(failures.items()):
        text = getattr(failure, "_traceback_str", "") or repr(failure)
        return Outcome("failed", f"shell of rank {rank}: {_first_line(failure)}\n{text}")
    kind_of = type(error).__name__
    if kind_of in NO_ROOM:
        return Outcome("lost", f"{kind_of}: {_first_line(error)}")
    if kind_of == STARTUP_LOST:
        return Outcome("vanished", f"{kind_of}: {_first_line(error)}")
    if error is None:
        return Outcome("vanished", "the shells left without an order")
    return Outcome("failed", f"{kind_of}: {error}")


def _of_ray(failure: BaseException) -> bool:
    inner = getattr(failure, "_base_exc", failure)
    return type(inner).__module__.split(".")[0] == "ray"


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
