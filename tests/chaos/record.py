"""What happened: one Record per fault, filled in afterwards from the run's own log and events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from orchestrator.run_log import ENDS, Entry

NAMED = ("attempt ended", "taken over", "checkpoint damaged", "notice", "batch left out", *ENDS)
CALM = "went on"
STALL_S = 30.0  # a stall longer than this must stand somewhere
TROUBLE = ("error", "save failed", "flush failed", "slow", "hung", "stall")  # kinds of events that name one


@dataclass
class Record:
    """One fault. `at` is Unix seconds; `step` and `phase` what the run had last said; `later` how the fault itself went on."""

    number: int
    kind: str
    target: str
    at: float
    attempt: int
    step: int
    phase: str
    later: list[str] = field(default_factory=list)
    next: str = ""
    recovered_s: float | None = None
    silent: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def missed(self) -> bool:
        """Whether it touched nothing after all."""
        return any(line.startswith("MISSED") for line in self.later)


def fill_in(
    records: list[Record], entries: Sequence[Entry], events: Sequence[dict[str, Any]], until: float
) -> None:
    """What the run did after each fault, how long it took to the first new step, and whether it said a word."""
    steps = sorted(float(e["t"]) for e in events if e["kind"] == "step")
    ends = [*(record.at for record in records[1:]), until][: len(records)]
    for record, end in zip(records, ends, strict=True):
        record.next = _next(record, entries, end)
        record.silent = _silent(record, entries, events, steps, end)
    for number, record in enumerate(records):
        rest = (later.at for later in records[number + 1 :] if later.next != CALM)
        record.recovered_s = _recovered(record, entries, events, next(rest, until))


def _next(record: Record, entries: Sequence[Entry], end: float) -> str:
    """The first thing of note in the log between the fault and the next one."""
    for entry in entries:
        if record.at <= entry.time <= end and (_names_trouble(entry) or entry.kind == "attempt started"):
            said = entry.facts.get("outcome") or entry.facts.get("why") or ""
            cause = str(entry.facts.get("cause", "")).splitlines()
            return f"{entry.kind} {said}: {cause[0][:120]}" if cause else f"{entry.kind} {said}".strip()
    return CALM


def _names_trouble(entry: Entry) -> bool:
    return entry.kind in NAMED and "finished" not in (entry.kind, entry.facts.get("outcome"))


def _over(record: Record, entries: Sequence[Entry]) -> Entry | None:
    """The attempt that took over from the one it hit, if one did."""
    return next((e for e in entries if e.kind == "attempt started" and e.n > record.attempt), None)


def _recovered(
    record: Record, entries: Sequence[Entry], events: Sequence[dict[str, Any]], end: float
) -> float | None:
    """Seconds to the first step of a later attempt. None when it needed none, or the next fault came before."""
    after = [e for e in entries if e.kind == "attempt started" and e.time >= record.at]
    if not after or after[0].time > end:
        return None
    numbers = {entry.n for entry in after}
    times = [float(e["t"]) for e in events if e["kind"] == "step" and e["attempt"] in numbers]
    return min(times) - record.at if times and min(times) <= end else None


def _silent(
    record: Record,
    entries: Sequence[Entry],
    events: Sequence[dict[str, Any]],
    steps: Sequence[float],
    end: float,
) -> bool:
    """Whether it harmed something and nobody said so: an attempt that vanished, a long stall, a rank nobody missed."""
    if any(line.startswith("UNSEEN") for line in record.later):
        return True
    over = _over(record, entries)
    if over is not None and record.attempt and record.at <= over.time <= end:
        return not any(record.attempt < e.n < over.n and _names_trouble(e) for e in entries)
    window = [
        record.at,
        *(t for t in steps if record.at < t < end),
        *((end,) if steps and end < steps[-1] else ()),
    ]
    stalled = any(b - a > STALL_S for a, b in pairwise(window))
    said = any(record.at <= e.time <= end and _names_trouble(e) for e in entries)
    said = said or any(record.at <= float(e["t"]) <= end and e["kind"] in TROUBLE for e in events)
    return stalled and not said
