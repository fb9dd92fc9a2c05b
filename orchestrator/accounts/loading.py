"""What the loaders of an attempt have done, over its ranks: from the newest `loader` event of each.

Which figures there are is the loader's business: any number is taken. Those that count are added up; `queue` and `queue_limit` (steps
ready for the next `next`, and how many may be) stand for the rank that has the least.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GAUGES = ("queue", "queue_limit", "native")
_HEAD = ("t", "kind", "attempt", "rank")
_WORDS = {
    "bytes": "read", "gets": "requests", "retries": "retries", "hedges": "second tries", "hedges_won": "won by them",
    "cache_hits": "cache hits", "cache_misses": "cache misses", "cache_bytes": "from cache", "cache_failures": "cache failures",
    "native": "native crops", "bad": "bad samples", "wait_s": "waited", "queue": "steps ready", "data_wait_s": "data wait",
}  # fmt: skip


def figures(events: Iterable[dict[str, Any]], attempt: int) -> dict[str, float] | None:
    """`ranks`, and each figure over them; None where no rank of `attempt` has noted any yet."""
    newest = {e["rank"]: e for e in events if e["kind"] == "loader" and e["attempt"] == attempt}
    if not newest:
        return None
    names = dict.fromkeys(name for event in newest.values() for name in event if name not in _HEAD)
    found: dict[str, float] = {"ranks": len(newest)}
    for name in names:
        values = [event[name] for event in newest.values() if isinstance(event.get(name), int | float)]
        if values:
            found[name] = min(values) if name in GAUGES else sum(values)
    return found


def in_words(figures: dict[str, float]) -> list[tuple[str, str]]:
    """Name and value of each figure, for people; what did not happen is left out, and figures without a word have their own name."""
    shown = []
    for name, value in figures.items():
        if name in ("ranks", "queue_limit") or (not value and name not in ("bytes", "queue")):
            continue
        shown.append((_WORDS.get(name, name), _value(name, value, figures)))
    return shown


def _value(name: str, value: float, figures: dict[str, float]) -> str:
    if "bytes" in name:
        return f"{value / 1e6:,.1f} MB"
    if name.endswith("_s"):
        return f"{value:,.1f} s"
    if name == "queue" and "queue_limit" in figures:
        return f"{value:,.0f} of {figures['queue_limit']:,.0f}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
