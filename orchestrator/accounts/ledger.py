"""Every second of a run has a name: the log and the workers' events become a timeline without gaps.

Wall time runs from the run's first driver to its end (or to now). Each source paints intervals of that
line; where two overlap the more specific one wins; so the names add up to the wall time by construction.
Names, as the user reads them:

productive      steps that count            startup       driver, placement, imports, engine, load: the
                                                          first time and after a stop
compile         the first micro-batch       data wait     the step waited for its batch
save            the step waited for a save  evaluation    validation
recovery        after a fault or a preemption: detect, decide, place, import, engine, load, data, compile, first batch
lost work       steps done again later and the step a fault broke off, charged where they were lost
shutdown        after the last step         waiting       for machines          nobody      no driver alive
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orchestrator.accounts.timeline import Stroke, flatten
from orchestrator.leading.policy import hurts
from orchestrator.run_log import ENDS, Entry, live_checkpoints

NAMES = (
    "productive", "startup", "compile", "data wait", "save", "evaluation",
    "recovery", "lost work", "shutdown", "waiting", "nobody",
)  # fmt: skip
PARTS = ("detect", "decide", "place", "import", "engine", "load", "data", "first batch", "compile")
Event = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The timeline, in order and without gaps, and its sums."""

    start: float
    end: float
    spans: list[Stroke] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return self.end - self.start

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by name; they add up to `wall_s`."""
        sums: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        for span in self.spans:
            sums[span.name] += span.end - span.start
        return sums

    @property
    def goodput(self) -> float:
        """Share of the wall time that was productive."""
        return self.seconds["productive"] / self.wall_s if self.wall_s else 0.0

    def faults(self) -> dict[int, dict[str, float]]:
        """For each attempt that a fault ended, seconds of recovery by part.

        A recovery goes on to the end of the first new micro-batch; one whose attempt died before has fewer
        parts.
        """
        found: dict[int, dict[str, float]] = {}
        for span in self.spans:
            if span.name == "recovery":
                parts = found.setdefault(span.attempt, {})
                parts[span.part] = parts.get(span.part, 0.0) + span.end - span.start
        return found

    def recoveries(self) -> list[dict[str, float]]:
        """The parts of `faults`, in order of the faults."""
        return list(self.faults().values())


@dataclass(frozen=True)
class _Attempt:
    """What the log and its workers say of one attempt."""

    began: Entry
    ended: Entry | None
    events: list[Event]  # of all ranks, by time
    until: float
    hurt: bool  # a fault ended it: its own, or its driver died
    keeps: int | None  # steps beyond this one were done again, or must be; None: all of them count
    mends: int | None  # the attempt whose fault it recovers from

    @property
    def n(self) -> int:
        return self.began.n

    @cached_property
    def mine(self) -> list[Event]:
        """Rank 0's events: the timeline is its."""
        return [event for event in self.events if event["rank"] == 0]

    @cached_property
    def steps(self) -> list[Event]:
        return [event for event in self.mine if event["kind"] == "step"]

    @property
    def last_sign(self) -> float:
        """When it was last known to work."""
        return min(self.until, max([self.began.time, *_signs(self.events)]))

    @property
    def fault_at(self) -> float:
        """Our own errors are noted when they happen; the peers of a dead rank learn of it only later."""
        errors = [event["t"] for event in self.events if event["kind"] == "error"]
        own = self.ended is not None and self.ended.facts["outcome"] in ("failed", "diverged", "damaged")
        return min(errors) if own and errors else self.last_sign


def build(
    entries: Sequence[Entry], events: Iterable[Event], now: float, *, abandoned: bool = False
) -> Ledger:
    """The ledger of a run from its whole log and its events.

    `now` bounds what is still going on; `abandoned` says that no driver is alive, so that the time since the
    last sign of life is nobody's.
    """
    if not entries:
        return Ledger(now, now)
    by_attempt: dict[int, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event["t"]):
        by_attempt[event["attempt"]].append(event)
    start, over = entries[0].time, entries[-1].kind in ENDS
    end = max(start, entries[-1].time if over else max(now, entries[-1].time))
    attempts = _attempts(entries, by_attempt, end)
    strokes = [Stroke(start, end, "startup", "driver"), *_between(entries, by_attempt, end)]
    strokes += [stroke for attempt in attempts for stroke in _paint(attempt)]
    if abandoned and not over:
        strokes.append(Stroke(_heard(entries, by_attempt, end), end, "nobody", layer=6))
    return Ledger(start, end, flatten(strokes, start, end))


def _signs(events: Iterable[Event]) -> list[float]:
    """When these events show an attempt at work in the foreground: not by the uploads behind it."""
    kinds, behind = ("worker", "step", "span", "evaluated", "left"), ("upload", "copy")
    return [event["t"] for event in events if event["kind"] in kinds and event.get("name") not in behind]


def _heard(entries: Sequence[Entry], by_attempt: dict[int, list[Event]], before: float) -> float:
    """The last sign of life, of a driver or a worker, before `before`."""
    signs = [entry.time for entry in entries]
    signs += [sign for listed in by_attempt.values() for sign in _signs(listed)]
    return max((sign for sign in signs if sign < before), default=entries[0].time)


def _between(entries: Sequence[Entry], by_attempt: dict[int, list[Event]], end: float) -> Iterable[Stroke]:
    """Waiting, nobody, and what follows the end of an attempt."""
    for number, entry in enumerate(entries):
        until = next((e.time for e in entries[number:] if e.kind in ("attempt started", *ENDS)), end)
        if entry.kind == "waiting":
            yield Stroke(entry.time, until, "waiting", layer=5)
        elif entry.kind == "attempt ended":
            hurt = hurts(entry.facts["outcome"], entry.facts["cause"])
            name, part = ("recovery", "decide") if hurt else ("shutdown", "")
            yield Stroke(entry.time, until, name, part, entry.facts["attempt"], 1)
        elif entry.kind == "taken over" and number and entry.writer != entries[number - 1].writer:
            yield Stroke(_heard(entries[:number], by_attempt, entry.time), entry.time, "nobody", layer=6)
            marks = ("attempt started", "attempt ended", *ENDS)
            before = next((e for e in reversed(entries[:number]) if e.kind in marks), None)
            if before and before.kind == "attempt started":  # its driver died
                yield Stroke(entry.time, until, "recovery", "decide", before.n, 1)


def _attempts(entries: Sequence[Entry], by_attempt: dict[int, list[Event]], end: float) -> list[_Attempt]:
    starts = [entry for entry in entries if entry.kind == "attempt started"]
    ends = {entry.facts["attempt"]: entry for entry in entries if entry.kind == "attempt ended"}
    found: list[_Attempt] = []
    for began, after in zip(starts, [*starts[1:], None], strict=False):
        ended, events = ends.get(began.n), by_attempt.get(began.n, [])
        follows = any(e.kind in ("taken over", "attempt started", *ENDS) for e in entries[began.n + 1 :])
        heard = max([began.time, *_signs(events)])
        until = ended.time if ended else min(heard, after.time if after else end) if follows else end
        hurt = hurts(ended.facts["outcome"], ended.facts["cause"]) if ended else follows
        before = found[-1] if found else None
        mends = before.n if before and before.hurt and not _paused(entries, before.n, began.n) else None
        found.append(_Attempt(began, ended, events, until, hurt, _keeps(entries, began, hurt), mends))
    return found


def _paused(entries: Sequence[Entry], first: int, last: int) -> bool:
    """Whether the run came to an end between two entries, and was then taken up by a person."""
    return any(entry.kind in ENDS for entry in entries if first < entry.n < last)


def _keeps(entries: Sequence[Entry], began: Entry, hurt: bool) -> int | None:
    """The last step of an attempt that the attempts after it built on."""
    later = [e.facts["step"] for e in entries if e.kind == "attempt started" and e.n > began.n]
    if not later and hurt:
        later = [max((entry.facts["step"] for entry in live_checkpoints(entries)), default=0)]
    return min(later, default=None)


def _paint(a: _Attempt) -> Iterable[Stroke]:
    """One attempt's strokes: start-up parts, steps and what they waited for, the end."""
    start_name, number = ("startup", a.n) if a.mends is None else ("recovery", a.mends)
    first = a.steps[0]["start"] if a.steps else a.until
    yield Stroke(a.began.time, first, start_name, "place", number, 1)
    for event in (event for event in a.mine if event["kind"] == "span"):
        begin, done, name = event["start"], event["t"], event["name"]
        if name in ("import", "engine", "load", "data"):
            yield Stroke(begin, done, start_name, name, number, 2)
        elif name == "compile":
            kind = ("compile", "") if a.mends is None else ("recovery", "compile")
            yield Stroke(begin, done, *kind, number, 4)  # of a lost step, too
        elif name in ("save", "evaluation"):
            yield Stroke(begin, done, name, "", a.n, 3)
    if a.steps:
        yield from _steps(a, first)
    left = next((event["t"] for event in a.mine if event["kind"] == "left"), None)
    if left is not None:
        yield Stroke(left, a.until, "shutdown", "", a.n, 4)
        if a.steps:  # what is left after the last step, besides evaluating, is the wait for the last upload
            yield Stroke(a.steps[-1]["t"], left, "save", "", a.n, 2)
    if a.hurt:
        yield Stroke(a.fault_at, a.until, "recovery", "detect", a.n, 4)


def _steps(a: _Attempt, first: float) -> Iterable[Stroke]:
    yield Stroke(first, a.until, "productive", "", a.n, 1)
    for event in a.steps:
        begin = event["start"]
        if a.mends is not None and event is a.steps[0]:
            yield Stroke(begin, begin + event["wait"], "recovery", "first batch", a.mends, 4)
        else:
            yield Stroke(begin, begin + event["wait"], "data wait", "", a.n, 2)
    lost = _lost_from(a)
    if lost is not None:
        yield Stroke(lost, a.until, "lost work", "", a.n, 3)


def _lost_from(a: _Attempt) -> float | None:
    """When the first step that did not last began. Rank 0's notes may have died with it; then peers tell."""
    if a.keeps is None:
        return None
    lost = [event for event in a.events if event["kind"] == "step" and event["step"] > a.keeps]
    if not lost:
        return a.last_sign if a.hurt else None
    starts = [event["start"] for event in lost if "start" in event]
    if starts:
        return float(min(starts))
    kept = [event["t"] for event in a.events if event["kind"] == "step" and event["step"] <= a.keeps]
    return float(max(kept, default=lost[0]["t"]))
