"""What the proxy can do to the store's requests, as faults: a rule that stands for some seconds, and what it met."""

from __future__ import annotations

import time

from tests.chaos.proxy import Rule
from tests.chaos.schedule import Planned
from tests.chaos.stage import Stage, scaled

DATA, STATE = r"\.tar$", r"\.safetensors$"


def strike_store(stage: Stage, planned: Planned) -> str | None:
    if stage.front is None:
        return None
    rule, seconds = _rule(planned, planned.kind.removeprefix("store "))
    stage.front.add(rule)
    stage.after(seconds, planned, lambda: _answers(stage, planned.number))
    return f"{rule.method} {rule.path} for {seconds:.1f} s"


def _answers(stage: Stage, number: int) -> str:
    met = stage.front.end(number) if stage.front else 0
    return f"{met} requests" if met else "MISSED: no request met it"


def _rule(planned: Planned, deed: str) -> tuple[Rule, float]:
    """The rule of a fault and for how many seconds it stands."""
    longest = 20.0 if deed in ("lost", "cut", "flip") else 8.0  # of those that wait for a certain request
    seconds, share = scaled(planned, 2.0, longest), 0.2 + 0.8 * planned.pick
    until = time.time() + seconds
    match deed:
        case "503" | "reset":
            rule = Rule(deed, share=share)
        case "cut":
            rule = Rule(deed, method="PUT", path="/runs/", share=share, times=6)
        case "lost":
            rule = Rule(
                deed, method="PUT", path="/runs/", share=share, times=6, conditional=planned.pick < 0.5
            )
        case "truncate":
            rule = Rule(deed, method="GET", share=share, times=10)
        case (
            "flip"
        ):  # what has a checksum: a bit of a small object that flips behind TLS and TCP is not ours to catch
            rule = Rule(deed, method="GET", path=f"{DATA}|{STATE}", times=1 + int(3 * planned.pick))
        case "latency":
            rule = Rule(deed, seconds=scaled(planned, 0.05, 0.5))
        case _:
            rule = Rule(deed, until=until)
    rule.number = planned.number
    return rule, seconds
