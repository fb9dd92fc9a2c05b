"""What the run is doing right now, read from its bucket behind the proxy's back: how a schedule knows when its moment has come."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from data_pipeline.storage import NotFound
from orchestrator.run_log import ENDS, Entry, RunLog, standing
from orchestrator.run_store import Run
from orchestrator.training.events import read_events


@dataclass(frozen=True)
class Sight:
    """One look. `attempt` is the log number of the newest attempt, `step` what it says it has completed, `at` Unix seconds."""

    at: float
    phase: str  # none, starting, training, between, ended
    attempt: int = 0
    began: int = 0
    step: int = 0
    world: int = 0

    @property
    def training(self) -> bool:
        """Whether the newest attempt has completed a step and goes on."""
        return self.phase == "training"


class Watch:
    """Looks at one run, and remembers what it saw change."""

    def __init__(self, url: str) -> None:
        self.run = Run(url)
        self._log = RunLog(self.run.store, "onlooker")
        self.seen: list[Sight] = []

    def look(self) -> Sight:
        """The run now."""
        entries = self._log.refresh()
        began = next((entry for entry in reversed(entries) if entry.kind == "attempt started"), None)
        sight = self._attempt(began, entries) if began else Sight(time.time(), "none")
        if not self.seen or _facts(self.seen[-1]) != _facts(sight):
            self.seen.append(sight)
        return sight

    def _attempt(self, began: Entry, entries: list[Entry]) -> Sight:
        start = int(began.facts["step"])
        told = self.run.read_json(f"progress/{began.n}.json") or {}
        step = max(start, int(told.get("step", 0)))
        phase = "training" if step > start else "starting"
        later = {entry.kind for entry in entries[began.n + 1 :]}
        if later & {"attempt ended", "taken over"}:
            phase = "between"
        if standing(entries) in ENDS:
            phase = "ended"
        return Sight(time.time(), phase, began.n, start, step, int(began.facts["world"]))

    def gave_up(self) -> bool:
        """Whether the run has."""
        return standing(self._log.refresh()) == "gave up"

    @property
    def entries(self) -> list[Entry]:
        """The log as of the last look."""
        return self._log.entries

    def workers(self) -> list[dict[str, Any]]:
        """The "worker" events of the newest attempt, by rank; no more than have said so."""
        if not self.seen or not self.seen[-1].attempt:
            return []
        try:
            noted = [e for e in read_events(self.run.store, self.seen[-1].attempt) if e["kind"] == "worker"]
        except NotFound:  # put together while we read
            return []
        return sorted(noted, key=lambda event: int(event["rank"]))


def _facts(sight: Sight) -> tuple[str, int, int]:
    return sight.phase, sight.attempt, sight.step
