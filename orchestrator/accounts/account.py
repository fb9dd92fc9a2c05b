"""The account of a run: its attempts, faults, curve and evaluations as plain values, for a report to show.

A Book holds what was written; this is what it comes to. No HTML, no pictures, no torch.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.accounts import history
from orchestrator.accounts.status import Book
from orchestrator.leading.policy import hurts
from orchestrator.redact import first_line
from orchestrator.run_log import ENDS, Entry

WHAT_HAPPENED = {
    "died": "worker killed",
    "lost": "machine lost",
    "hung": "rank hung",
    "diverged": "batch left out",
    "preempted": "node preempted",
    "failed": "error",
    "damaged": "checkpoint damaged",
    "driver": "driver gone",
}


@dataclass(frozen=True)
class AttemptLine:
    """One attempt. `reached` is its last step, `kept` the last one of them that the run built on."""

    number: int  # 1, 2, ...
    n: int  # of its entry in the log
    world: int
    begin: int
    reached: int
    kept: int
    outcome: str  # of the log; "running"; "driver gone" when nobody was left to write it
    cause: str
    start: float
    end: float
    recovery: dict[str, float]  # seconds by part, after the fault that ended it
    back: bool  # whether that recovery led to a step

    @property
    def fault(self) -> str | None:
        """What happened, in two words, when a fault ended it."""
        if self.outcome == "stopped" and hurts(self.outcome, self.cause):
            return WHAT_HAPPENED["preempted"]
        return WHAT_HAPPENED.get("driver" if self.outcome == "driver gone" else self.outcome)

    @property
    def again(self) -> int:
        """Steps that had to be done again."""
        return self.reached - self.kept


@dataclass
class Account:
    """What a Book comes to."""

    book: Book

    @cached_property
    def attempts(self) -> list[AttemptLine]:
        """Every attempt, in order."""
        starts = [entry for entry in self.book.entries if entry.kind == "attempt started"]
        kept, after = None, None
        found: list[AttemptLine] = []
        for number, began in reversed(list(enumerate(starts, 1))):
            found.append(self._line(number, began, after, kept))
            kept, after = min(began.facts["step"], began.facts["step"] if kept is None else kept), began
        return found[::-1]

    @property
    def faults(self) -> list[AttemptLine]:
        """The attempts that a fault ended."""
        return [attempt for attempt in self.attempts if attempt.fault]

    @property
    def recovery_s(self) -> float | None:
        """Median seconds from a fault to the end of the first new micro-batch."""
        whole = [sum(fault.recovery.values()) for fault in self.faults if fault.back]
        return statistics.median(whole) if whole else None

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """(step, loss) of the steps that lead to where the run is now."""
        lines = history.lineage(self.book.entries, self.book.events)
        return [(line.step, line.facts["loss"]) for line in lines if "loss" in line.facts]

    @cached_property
    def lost(self) -> list[list[tuple[int, float]]]:
        """(step, loss) of the steps that were done again, for each attempt that lost any."""
        found = []
        for attempt in self.attempts:
            steps = [(e["step"], e["loss"]) for e in self._steps(attempt.n) if e["step"] > attempt.kept]
            if steps:
                found.append(sorted(steps))
        return found

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """What evaluations found, the newest of each step, by step."""
        by_step = {event["step"]: event for event in self.book.events if event["kind"] == "evaluated"}
        return [by_step[step] for step in sorted(by_step)]

    @cached_property
    def bad_samples(self) -> list[dict[str, Any]]:
        """Samples that could not be decoded, each once."""
        by_id = {event.get("id"): event for event in self.book.events if event["kind"] == "bad sample"}
        return list(by_id.values())

    @property
    def hosts(self) -> list[str]:
        """The hosts that worked."""
        return sorted({str(e.get("host")) for e in self.book.events if e["kind"] == "worker"})

    def _steps(self, n: int) -> list[dict[str, Any]]:
        return [e for e in self.book.events if e["attempt"] == n and e["kind"] == "step" and "loss" in e]

    def _line(self, number: int, began: Entry, after: Entry | None, kept: int | None) -> AttemptLine:
        later = self.book.entries[began.n + 1 :]
        ended = next((e for e in later if e.kind == "attempt ended" and e.facts["attempt"] == began.n), None)
        noted = [e["step"] for e in self.book.events if e["attempt"] == began.n and e["kind"] == "step"]
        said = [int(ended.facts["step"])] if ended else []
        begin = int(began.facts["step"])
        reached = max([begin, *noted, *said])
        recovery = self.book.ledger.faults().get(began.n, {})
        over = next((e.time for e in later if e.kind in ("taken over", "attempt started", *ENDS)), None)
        return AttemptLine(
            number=number,
            n=began.n,
            world=int(began.facts["world"]),
            begin=begin,
            reached=reached,
            kept=min(reached, self._pending(ended, reached) if kept is None else kept),
            outcome=str(ended.facts["outcome"]) if ended else "driver gone" if over else "running",
            cause=first_line(str(ended.facts.get("cause", ""))) if ended else "",
            start=began.time,
            end=ended.time if ended else min(over, self._heard(began)) if over else self.book.ledger.end,
            recovery=recovery,
            back="compile" in recovery
            or (after is not None and bool(self._steps(after.n)) and bool(recovery)),
        )

    def _pending(self, ended: Entry | None, reached: int) -> int:
        """What of the newest attempt counts: all of it, or after a fault what is committed."""
        if ended is None or not hurts(ended.facts["outcome"], ended.facts["cause"]):
            return reached
        return max(
            (e.facts["step"] for e in self.book.entries if e.kind == "checkpoint committed"), default=0
        )

    def _heard(self, began: Entry) -> float:
        return max([began.time, *(float(e["t"]) for e in self.book.events if e["attempt"] == began.n)])
