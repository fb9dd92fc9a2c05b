"""Which faults come, in which order, and when: a pure function of a seed.

A moment is not a time but a place in the run's life, since no two runs take the same seconds: after some steps of calm, or while the
run recovers from the fault before, or in the middle of a save, or while an attempt starts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

When = Literal["calm", "recovering", "saving", "starting"]

# Weights, not shares. What an arena cannot do is left out by its driver.
KINDS: Mapping[str, float] = {
    "kill rank": 4,
    "kill ranks": 1,
    "pause rank": 1.5,
    "hang rank": 1.5,
    "kill shell": 2,
    "kill raylet": 2,
    "kill gcs": 1,
    "cut head": 1,
    "kill driver": 2,
    "rival driver": 1,
    "cut power": 3,
    "cut cable": 2,
    "join": 1.5,
    "notice": 3,
    "drain": 1.5,
    "stop": 1,
    "scale": 1,
    "memory": 1,
    "store 503": 2,
    "store reset": 1.5,
    "store cut": 1.5,
    "store lost": 2,
    "store truncate": 1.5,
    "store flip": 1.5,
    "store latency": 1,
    "store freeze": 1.5,
    "full disk": 1.5,
}
MOMENTS: Mapping[When, float] = {"calm": 6, "recovering": 2, "saving": 2, "starting": 1}
CALM_STEPS = (12, 40)
RECOVERING_S, STARTING_S = (0.2, 6.0), (0.0, 3.0)
LONGEST_ROW = (
    2  # of faults without calm between: more of them than the run's budget of failures would rightly end it
)


@dataclass(frozen=True)
class Planned:
    """One fault to come. `after` is steps (calm) or seconds; `pick` and `size` in [0, 1) choose its target and its extent."""

    number: int
    kind: str
    when: When
    after: float
    pick: float
    size: float


def plan(seed: int, count: int, kinds: Sequence[str]) -> list[Planned]:
    """`count` faults of `kinds`. Every kind comes once before any comes by chance, as far as `count` goes."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise ValueError(f"kinds got {unknown or 'none'}; allowed are {', '.join(KINDS)}")
    dice = random.Random(seed)
    names = sorted(kinds, key=list(KINDS).index)
    dice.shuffle(names)
    drawn = dice.choices(names, [KINDS[name] for name in names], k=max(0, count - len(names)))
    order = [*names[:count], *drawn]
    dice.shuffle(order)
    row, planned = 0, []
    for number, kind in enumerate(order):
        when = _moment(dice, first=number == 0, row=row)
        row = 0 if when == "calm" else row + 1
        planned.append(Planned(number, kind, when, _after(dice, when), dice.random(), dice.random()))
    return planned


def _moment(dice: random.Random, *, first: bool, row: int) -> When:
    moment = dice.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    return "calm" if first or row >= LONGEST_ROW else moment


def _after(dice: random.Random, when: When) -> float:
    match when:
        case "calm":
            return float(dice.randint(*CALM_STEPS))
        case "recovering":
            return dice.uniform(*RECOVERING_S)
        case "starting":
            return dice.uniform(*STARTING_S)
        case "saving":
            return dice.uniform(0.0, 0.05)
