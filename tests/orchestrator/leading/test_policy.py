"""The supervisor's decisions as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.leading.policy import (
    Budget,
    Done,
    GiveUp,
    Leave,
    Observed,
    Outcome,
    Start,
    Wait,
    decide,
    hurts,
)

SEEN = Observed(available=4, minimum=1, maximum=8, slots=8, wait_limit_s=100.0, budget=Budget(0, 5, 0, None))
DIED = Outcome("died", "rank 1 died", step=7)
FAILED = Outcome("failed", "rank 0: ValueError: x", step=7)
HUNG = Outcome("hung", "rank 1 does not move: in collective of step 8 for 31 s", step=7)
NAN = Outcome("diverged", "step 8, batch 7: the loss is nan", step=7, batch=7)
GONE = Outcome("stopped", "preempted: node abc: spot interruption", step=7)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Start(4, "")),
        ({"available": 100}, Start(8, "")),
        ({"available": 7}, Start(4, "")),  # ceil(8/7) = 2 rounds, and 4 workers need 2 rounds too
        ({"available": 3}, Start(3, "")),
        ({"available": 7, "minimum": 6}, Start(6, "")),  # never fewer than asked for
        ({"available": 2, "minimum": 3}, Wait("")),
        ({"available": 2, "minimum": 3, "waited_s": 101.0}, GiveUp("")),
        ({"last": Outcome("finished")}, Done()),
        ({"last": Outcome("finished"), "leaving": "SIGTERM"}, Done()),
        ({"leaving": "SIGTERM"}, Leave("SIGTERM")),
        ({"last": Outcome("stopped", "mixer stop")}, Leave("mixer stop")),
        ({"last": Outcome("stopped", "resize: 2 -> 4 workers")}, Start(4, "")),
        ({"last": Outcome("stopped", "asked to")}, Leave("asked to")),
        ({"last": GONE}, Start(4, "")),  # it stopped only to start again
        ({"last": GONE, "before": GONE}, Start(4, "")),
        ({"last": GONE, "leaving": "SIGTERM"}, Leave("SIGTERM")),
        ({"last": GONE, "available": 0}, Wait("")),
        ({"last": GONE, "budget": Budget(0, 5, 2, 2)}, Start(4, "")),
        ({"last": GONE, "budget": Budget(0, 5, 3, 2)}, GiveUp("")),
        ({"last": HUNG, "before": HUNG}, Start(4, "")),  # a network may fail twice alike
        ({"last": HUNG, "budget": Budget(6, 5, 0, None)}, GiveUp("")),
        ({"last": NAN, "budget": Budget(0, 5, 0, None, (7,))}, Start(4, "")),
        ({"last": NAN, "budget": Budget(0, 5, 0, None, (3, 9, 7))}, Start(4, "")),
        ({"last": NAN, "budget": Budget(0, 5, 0, None, (3, 9, 1, 7))}, GiveUp("")),
        ({"last": NAN, "budget": Budget(0, 5, 0, None, (3, 9, 1, 7), 4)}, Start(4, "")),
        ({"last": NAN, "budget": Budget(0, 5, 0, None, (7, 7))}, GiveUp("")),  # it was left out
        ({"last": DIED, "budget": Budget(0, 5, 0, None, (7, 7))}, Start(4, "")),
        ({"budget": Budget(0, 5, 0, None, (3, 9, 1, 7))}, GiveUp("")),  # a driver that comes later knows, too
        ({"last": Outcome("refused", "wrong data")}, GiveUp("wrong data", 2)),
        ({"last": Outcome("damaged", "bits"), "bereft": True}, GiveUp("")),
        ({"last": DIED}, Start(4, "")),
        ({"last": DIED, "before": DIED}, Start(4, "")),  # a process may be killed twice at one step
        ({"last": FAILED}, Start(4, "")),
        ({"last": FAILED, "before": FAILED}, GiveUp("")),  # code that fails twice alike will fail again
        ({"last": FAILED, "before": replace(FAILED, step=9)}, GiveUp("")),  # steps are known to a second only
        ({"last": FAILED, "before": replace(FAILED, cause="rank 1: OSError: y")}, Start(4, "")),
        ({"last": DIED, "budget": Budget(5, 5, 0, None)}, Start(4, "")),
        ({"last": DIED, "budget": Budget(6, 5, 0, None)}, GiveUp("")),
        ({"last": Outcome("lost"), "budget": Budget(0, 5, 99, None)}, Start(4, "")),
        ({"last": Outcome("lost"), "budget": Budget(0, 5, 3, 2)}, GiveUp("")),
    ],
)
def test_decide(change: dict[str, object], expected: object) -> None:
    decision = decide(replace(SEEN, **change))  # type: ignore[arg-type]
    assert type(decision) is type(expected), decision
    if isinstance(decision, Start) and isinstance(expected, Start):
        assert decision.world == expected.world
    if isinstance(decision, Leave | GiveUp) and isinstance(expected, Leave | GiveUp) and expected.why:
        assert decision.why == expected.why


def test_a_decision_says_count_and_limit() -> None:
    decision = decide(replace(SEEN, last=DIED, budget=Budget(6, 5, 0, None)))
    assert isinstance(decision, GiveUp)
    assert "6 failures" in decision.why
    assert "recovery.failures allows 5" in decision.why


def test_the_batches_left_out_are_named() -> None:
    decision = decide(replace(SEEN, last=NAN, budget=Budget(0, 5, 0, None, (3, 9, 1, 7))))
    assert isinstance(decision, GiveUp)
    assert "4 batches diverged (3, 9, 1, 7), recovery.left_out allows 3" in decision.why
    assert decision.code == 1


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (GONE, True), (DIED, True), (HUNG, True), (NAN, True), (FAILED, True), (Outcome("lost"), True),
        (Outcome("damaged"), True), (Outcome("finished"), False), (Outcome("refused"), False),
        (Outcome("stopped", "mixer stop"), False), (Outcome("stopped", "resize: 2 -> 4 workers"), False),
    ],
)  # fmt: skip
def test_what_follows_a_hurt_is_a_recovery(outcome: Outcome, expected: bool) -> None:
    assert hurts(outcome.kind, outcome.cause) is expected
