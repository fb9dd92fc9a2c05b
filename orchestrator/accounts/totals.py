"""A led run's figures as they stand, kept up to date by reading only what is new.

Parts of events are immutable, so each is read once, and only rank 0's: the timeline is its. What lies before the newest committed step
does not change any more: it is folded into sums, its events are dropped, and the ledger is built of the rest. A checkpoint found
damaged undoes such sums; then everything is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_pipeline.storage import Store
from orchestrator.accounts import ledger, loading
from orchestrator.run_log import Entry, live_checkpoints
from orchestrator.training.events import read_parts


class Totals:
    """The ledger's sums of one run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._forget()

    def _forget(self) -> None:
        self._parts: set[str] = set()
        self._events: list[dict[str, Any]] = []
        self._sums: dict[str, float] = dict.fromkeys(ledger.NAMES, 0.0)
        self._until = 0.0  # the sums hold what lies before
        self.loader: dict[str, float] = {}  # what rank 0's has done, as it said last
        self._damaged = 0

    def seconds(self, entries: Sequence[Entry], now: float) -> dict[str, float]:
        """Seconds by name since the run's first driver; they add up to the wall time. `entries` is the whole log."""
        damaged = sum(entry.kind == "checkpoint damaged" for entry in entries)
        if damaged > self._damaged:
            self._forget()
            self._damaged = damaged
        attempts = [entry.n for entry in entries if entry.kind == "attempt started"]
        for attempt in attempts if not self._parts else attempts[-2:]:
            new = read_parts(self._store, attempt, 0, self._parts)
            if told := loading.figures(new, attempt):
                self.loader = {name: value for name, value in told.items() if name != "ranks"}
            self._events += new
        line = ledger.build(entries, self._events, now)
        found = self._add(dict(self._sums), line, line.end)
        self._fold(entries, line)
        return found

    def _add(self, sums: dict[str, float], line: ledger.Ledger, end: float) -> dict[str, float]:
        for span in line.spans:
            sums[span.name] += max(0.0, min(span.end, end) - max(span.start, self._until))
        return sums

    def _fold(self, entries: Sequence[Entry], line: ledger.Ledger) -> None:
        """Everything up to the end of the newest committed step is settled, except its event: the next ones follow it."""
        live = live_checkpoints(entries)
        anchor = next(
            (event for event in reversed(self._events) if live and _is_step_of(event, live[-1])), None
        )
        if anchor is None or anchor["t"] <= self._until:
            return
        self._sums = self._add(self._sums, line, anchor["t"])
        self._until = anchor["t"]
        self._events = [event for event in self._events if event is anchor or event["t"] > anchor["t"]]


def _is_step_of(event: dict[str, Any], committed: Entry) -> bool:
    path, step = str(committed.facts["path"]), committed.facts["step"]
    return event["kind"] == "step" and event["step"] == step and path.endswith(f"-{event['attempt']}")
