"""The ledger attempt by attempt: each attempt has the time from its start to the next one's, or to the run's end.

What comes before the first attempt is the driver's start-up; with it the attempts' seconds add up to the run's wall time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.accounts.ledger import Ledger
from orchestrator.run_log import Entry

SOURCES = ("here", "far", "bucket")


def attempts(
    entries: Sequence[Entry], events: Sequence[dict[str, Any]], ledger: Ledger
) -> list[dict[str, Any]]:
    """For each attempt: its number, world, first and last step, outcome, cause, `wall_s`, bytes `loaded` and seconds by name.

    `loaded`: from the memory of the rank's node ("here"), of another ("far"), from the "bucket". Names without any are left out.
    """
    starts = [entry for entry in entries if entry.kind == "attempt started"]
    ends = {entry.facts["attempt"]: entry.facts for entry in entries if entry.kind == "attempt ended"}
    untils = [*(entry.time for entry in starts[1:]), ledger.end]
    return [
        {
            "attempt": began.n,
            "world_size": began.facts["world"],
            "from_step": began.facts["step"],
            "to_step": ends.get(began.n, {}).get("step"),
            "outcome": ends.get(began.n, {}).get("outcome"),
            "cause": ends.get(began.n, {}).get("cause", ""),
            "wall_s": until - began.time,
            "loaded": loaded(events, began.n),
            "ledger": within(ledger, began.time, until),
        }
        for began, until in zip(starts, untils, strict=False)
    ]


def loaded(events: Sequence[dict[str, Any]], attempt: int) -> dict[str, int]:
    """Bytes of state that all ranks of an attempt loaded, by where from."""
    mine = [event for event in events if event["kind"] == "loaded" and event["attempt"] == attempt]
    sums = {where: sum(event.get(where, 0) for event in mine) for where in SOURCES}
    return {where: count for where, count in sums.items() if count}


def within(ledger: Ledger, start: float, end: float) -> dict[str, float]:
    """Seconds by name between two moments (Unix seconds), names without any left out."""
    sums: dict[str, float] = {}
    for span in ledger.spans:
        seconds = min(span.end, end) - max(span.start, start)
        if seconds > 0:
            sums[span.name] = sums.get(span.name, 0.0) + seconds
    return sums
