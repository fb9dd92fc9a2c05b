"""What others ask of a run: taken from the bucket, acknowledged in the log, and handed on if meant for this driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.run_log import Entry, RunLog, acknowledged
from orchestrator.run_store import Run


class Requests:
    """The requests of one run, as one driver sees them."""

    def __init__(self, run: Run, log: RunLog) -> None:
        self._run, self._log = run, log
        self._seen = acknowledged(log.entries)
        self._since = _addressed_from(log.entries)

    def take(self) -> Iterator[dict[str, Any]]:
        """New requests that are meant for this driver, oldest first. Every new one is written into the log."""
        for request in self._run.requests(self._seen):
            stale = request["time"] < self._since
            self._log.append(
                "request",
                **{key: value for key, value in request.items() if key not in ("kind", "time")},
                asks=request["kind"],
                stale=stale,
            )
            self._seen.add(request["id"])  # now, not before: the log may not have taken it
            if not stale:
                yield request


def _addressed_from(entries: list[Entry]) -> float:
    """From when on a request is meant for this driver: its claim, or the submission that led to it."""
    since = 0.0
    for entry in entries:
        if entry.kind in ("created", "submitted") or (
            entry.kind == "taken over" and entry.facts.get("why") != "submitted"
        ):
            since = entry.time
    return since
