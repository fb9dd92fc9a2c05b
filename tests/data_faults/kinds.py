"""What can go wrong between a bucket and a loader, drawn by a seed.

A passing fault is a rule of the proxy with a number of hits: what it meets must be asked for again and come out equal. A
lasting one stands until it is healed, in the store itself (a shard deleted or replaced) or in the proxy: whoever needs
those bytes must be told the name of the shard, and nobody may get others in their place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.proxy import Rule

BLOCK = 512
SHARDS, INDEX, ROOT = r"\.tar$", r"\.idx$", r"index\.json$"
PASSING = (
    "cut before the body",
    "cut in a header",
    "cut in a member",
    "cut at a block edge",
    "cut one byte short",
    "cut with a reset",
    "body shorter than asked",
    "flipped bit in a header",
    "flipped bit in a member",
    "flipped bit at the end",
    "bytes of another place",
    "503 storm",
    "reset",
    "lost reply",
    "stall before the body",
    "stall in the body",
    "frozen",
    "late",
    "index cut",
    "index flipped",
    "index refused",
)
LASTING = (
    "shard deleted",
    "shard replaced",
    "shard replaced by a shorter one",
    "shard replaced by a longer one",
    "shard flips for ever",
    "shard is cut for ever",
    "shard is refused for ever",
    "shard resets for ever",
)
InStore = Literal["", "deleted", "other", "shorter", "longer"]


@dataclass(frozen=True)
class Fault:
    """Number and kind; a rule for the proxy, or what to do to `shard` in the store. `reopen`: it is about what is read at the start."""

    number: int
    kind: str
    rule: Rule | None = None
    shard: str = ""
    in_store: InStore = ""
    reopen: bool = False
    lasting: bool = field(default=False)


def draw(number: int, shards: list[str], dice: random.Random, lasting_share: float = 0.12) -> Fault:
    """Fault `number` of a schedule."""
    if dice.random() < lasting_share:
        return _lasting(number, dice.choice(LASTING), dice.choice(shards))
    kind = dice.choice(PASSING)
    rule = _rule(kind, dice)
    rule.number = number
    return Fault(number, kind, rule, reopen=kind.startswith("index"))


def _rule(kind: str, dice: random.Random) -> Rule:
    few: dict[str, Any] = {"method": "GET", "path": SHARDS, "times": dice.randint(1, 3)}
    edge, header, member = BLOCK * dice.randint(1, 20), dice.randint(100, 500), BLOCK + dice.randint(1, 6000)
    match kind:
        case "cut before the body":
            return Rule("truncate", **few, at=0)
        case "cut in a header":
            return Rule("truncate", **few, at=header)
        case "cut in a member":
            return Rule("truncate", **few, at=member)
        case "cut at a block edge":
            return Rule("truncate", **few, at=edge)
        case "cut one byte short":
            return Rule("truncate", **few, at=-1)
        case "cut with a reset":
            return Rule("truncate", **few, at=member, abrupt=True)
        case "body shorter than asked":
            return Rule("short", **few, at=dice.choice([edge, member, header]))
        case "flipped bit in a header":
            return Rule("flip", **few, at=header)
        case "flipped bit in a member":
            return Rule("flip", **few, at=member)
        case "flipped bit at the end":
            return Rule("flip", **few, at=-dice.randint(1, 400))
        case "bytes of another place":
            return Rule("swap", **few, at=dice.choice([0, edge]))
        case "503 storm":
            return Rule("503", **few | {"times": dice.randint(2, 5)})
        case "reset":
            return Rule("reset", **few)
        case "lost reply":
            return Rule("lost", **few)
        case "stall before the body":
            return Rule("stall", **few | {"times": 1}, at=0, seconds=4.0)
        case "stall in the body":
            return Rule("stall", **few | {"times": 1}, at=member, seconds=4.0)
        case "frozen":
            return Rule("latency", **few | {"times": 4}, seconds=0.8)
        case "late":
            return Rule("latency", **few, seconds=0.2)
        case "index cut":
            return Rule("truncate", **few | {"path": f"{INDEX}|{ROOT}"})
        case "index flipped":
            return Rule("flip", **few | {"path": f"{INDEX}|{ROOT}"})
        case "index refused":
            return Rule("503", **few | {"path": f"{INDEX}|{ROOT}"})
    raise ValueError(f"kind got {kind!r}; allowed are {', '.join(PASSING)}")


def _lasting(number: int, kind: str, shard: str) -> Fault:
    there: dict[str, InStore] = {
        "shard deleted": "deleted",
        "shard replaced": "other",
        "shard replaced by a shorter one": "shorter",
        "shard replaced by a longer one": "longer",
    }
    if kind in there:
        return Fault(number, kind, shard=shard, in_store=there[kind], lasting=True)
    deed = {"flips": "flip", "cut": "truncate", "refused": "503", "resets": "reset"}
    word = next(deed[word] for word in deed if word in kind)
    rule = Rule(word, method="GET", path=f"{shard}$", number=number)
    return Fault(number, kind, rule, shard=shard, lasting=True)
