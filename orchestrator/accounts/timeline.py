"""Intervals of time with names, painted over one another, and the one line without gaps that they leave.

Each source paints what it knows as strokes; flatten() cuts them at each other's ends and keeps what is on
top. It knows nothing of runs: what is painted, and on which layer, is the ledger's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Stroke:
    """`name` (and `part` of it) from `start` to `end`, Unix seconds.

    A stroke of a higher `layer` covers lower ones. `attempt` is the one at work; of a recovery, the one whose
    fault it mends.
    """

    start: float
    end: float
    name: str
    part: str = ""
    attempt: int = -1
    layer: int = 0


def flatten(strokes: Iterable[Stroke], start: float, end: float) -> list[Stroke]:
    """The strokes cut at each other's ends, the highest layer (then the latest given) on top.

    In order, without gaps from the first start to the last end, and never beyond `start`..`end`.
    """
    inside = [
        (max(s.start, start), min(s.end, end), (s.layer, number), s)
        for number, s in enumerate(strokes)
        if min(s.end, end) > max(s.start, start)
    ]
    opens: dict[float, list[tuple[tuple[int, int], Stroke]]] = defaultdict(list)
    closes: dict[float, list[tuple[int, int]]] = defaultdict(list)
    for low, high, order, stroke in inside:
        opens[low].append((order, stroke))
        closes[high].append(order)
    edges = sorted({*opens, *closes})
    active: dict[tuple[int, int], Stroke] = {}
    spans: list[Stroke] = []
    for low, high in pairwise(edges):
        for order in closes[low]:
            active.pop(order, None)
        active.update(opens[low])
        top = active[max(active)]
        last = spans[-1] if spans else None
        if last and (last.name, last.part, last.attempt) == (top.name, top.part, top.attempt):
            spans[-1] = Stroke(last.start, high, top.name, top.part, top.attempt)
        else:
            spans.append(Stroke(low, high, top.name, top.part, top.attempt))
    return spans
