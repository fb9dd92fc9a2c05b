"""A run's log and its workers' notes as lines a person reads: what `mixer logs` prints.

entries + events -> by time -> one line each, with the time (UTC) and who says it: the driver, or
attempt/rank. Every step is in the report; here every 25th will do. Errors keep their first line: the whole
text is in the bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from orchestrator.redact import first_line
from orchestrator.run_log import Entry

STEP_EVERY = 25
Event = dict[str, Any]


def lines(
    book_entries: Iterable[Entry], events: Iterable[Event], *, step_every: int = STEP_EVERY
) -> Iterator[str]:
    """One line for each log entry and each notable event, in order of time.

    Of the steps: the first of each attempt, and every `step_every`-th; 0 leaves steps out.
    """
    said = [(entry.time, 0, "driver", _entry(entry)) for entry in book_entries]
    begun: set[int] = set()
    for event in events:
        if _notable(event, begun, step_every):
            said.append((event["t"], 1, f"{event['attempt']}/{event['rank']}", _event(event)))
    for moment, _, who, text in sorted(said, key=lambda item: item[:2]):
        yield f"{stamp(moment)}  {who:<8}  {first_line(text, 300)}"


def stamp(moment: float) -> str:
    """Unix seconds as 2026-05-17 08:03:21Z."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _notable(event: Event, begun: set[int], step_every: int) -> bool:
    if event["kind"] != "step":
        return event["kind"] in _EVENTS
    if "loss" not in event or not step_every:  # only rank 0 knows the loss
        return False
    first = event["attempt"] not in begun
    begun.add(event["attempt"])
    return first or event["step"] % step_every == 0


# -- the log -------------------------------------------------------------------------------------------------
def _entry(entry: Entry) -> str:
    facts = entry.facts
    say = _ENTRIES.get(entry.kind)
    try:
        return say(facts) if say else _plain(entry.kind, facts)
    except (KeyError, TypeError, ValueError):  # written by another version: say it as it stands
        return _plain(entry.kind, facts)


def _plain(kind: str, facts: dict[str, Any]) -> str:
    return f"{kind}: " + ", ".join(f"{key} {value}" for key, value in facts.items()) if facts else kind


def _resources(facts: dict[str, Any]) -> str:
    workers = facts["spec"]["workers"]
    return f"resources changed: workers {workers['min']}..{workers['max']}"


def _ended(facts: dict[str, Any]) -> str:
    cause = f": {first_line(facts['cause'])}" if facts.get("cause") else ""
    return f"attempt {facts['outcome']} at step {facts['step']}{cause}"


def _notice(facts: dict[str, Any]) -> str:
    by = "" if facts["deadline"] is None else f" by {stamp(facts['deadline'])}"
    return f"notice ({facts['source']}): node {facts['node'][:12]}{by}: {facts['cause']}"


def _because(text: str, facts: dict[str, Any]) -> str:
    return f"{text}: {facts['why']}" if facts.get("why") else text


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


_ENTRIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "created": lambda f: f"run {f['run']} created: {f['steps']} steps, fingerprint {f['fingerprint']}",
    "taken over": lambda f: _because("a driver leads the run", f),
    "resources changed": _resources,
    "attempt started": lambda f: _because(
        f"attempt starts at step {f['step']} with {_workers(f['world'])}", f
    ),
    "attempt ended": _ended,
    "checkpoint committed": lambda f: (
        f"checkpoint of step {f['step']} committed, {_size(f['bytes'])}: {f['path']}"
    ),
    "checkpoint deleted": lambda f: _because(f"checkpoint {f['path']} deleted", f),
    "checkpoint damaged": lambda f: _because(f"checkpoint {f['path']} is damaged", f),
    "batch left out": lambda f: _because(f"batch {f['batch']} is left out from now on", f),
    "notice": _notice,
    "straggler": lambda f: _because(f"node {f['node'][:12]} is slow", f),
    "compile cache": lambda f: f"compiled code kept, {_size(f['bytes'])}: {f['path']}",
    "request": lambda f: (
        f"asked to {f['asks']}" + (f": workers {f['min']}..{f['max']}" if f["asks"] == "scale" else "")
    ),
    "waiting": lambda f: _because("waiting for machines", f),
    "stopped": lambda f: _because("stopped, resumable", f),
    "gave up": lambda f: _because("gave up", f),
    "finished": lambda f: f"finished at step {f['step']}",
}


# -- the workers' notes --------------------------------------------------------------------------------------
def _event(event: Event) -> str:
    try:
        return _EVENTS[event["kind"]](event)
    except (KeyError, TypeError, ValueError):
        return _plain(event["kind"], {key: value for key, value in event.items() if key not in ("t", "kind")})


def _step(event: Event) -> str:
    world = f", {_workers(event['world_size'])}" if "world_size" in event else ""
    return f"step {event['step']}: loss {event['loss']:.4f}{world}"


def _evaluated(event: Event) -> str:
    top5 = f", top-5 {event['top5']:.2%}" if "top5" in event else ""
    return (
        f"step {event['step']}: accuracy {event['accuracy']:.2%}{top5}, loss {event['loss']:.4f} "
        f"on {event['samples']} samples"
    )


def _bad(event: Event) -> str:
    return (
        f"bad sample {event['id']} (item {event['item']}), {event['substitute']} in its place: {event['why']}"
    )


def _late(event: Event) -> str:
    what = f"{event['object']}, bytes {event['start']}+{event['length']}"
    where = f"{what}, asked for {event['asked_s']:.0f} s ago" if event["object"] else "the decoding"
    return f"rank {event['rank']} has waited {event['seconds']:.0f} s for its data: {where}"


_EVENTS: dict[str, Callable[[Event], str]] = {
    "step": _step,
    "worker": lambda e: f"rank {e['rank']} works on {e['host']}, process {e['pid']}",
    "evaluated": _evaluated,
    "bad sample": _bad,
    "data late": _late,
    "error": lambda e: f"error: {first_line(e['error'])}",
    "save waited": lambda e: (
        f"save of step {e['step']} waited {e['seconds']:.1f} s for the one of step {e['behind']}"
    ),
    "save failed": lambda e: f"save of step {e['step']} failed, the next one goes on: {e['error']}",
    "compile cache": lambda e: _because(f"compile cache {e['what']}", e),
    "diverged": lambda e: _because(f"step {e['step']}, batch {e['batch']} diverged", e),
    "step dropped": lambda e: (
        f"step {e['step']} dropped after {e['turn']} micro-batches: the deadline is nearer than its end"
    ),
    "flush failed": lambda e: f"notes could not be written, trying again: {e['error']}",
    "left": lambda e: f"rank {e['rank']} left at step {e['step']}: {e['outcome']}",
}
