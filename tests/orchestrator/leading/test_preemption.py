"""What an attempt owes to a notice, as a table."""

from __future__ import annotations

import pytest

from clusters.notices import Notice
from orchestrator.leading.preemption import MARGIN_S, Preemption, answer

SPOT = Notice("a" * 40, 1000.0, "spot interruption", "aws")
SOONER = Notice("b" * 40, 990.0, "host error", "gcp")
ADVICE = Notice("a" * 40, None, "rebalance recommendation", "aws")
DRAIN = Notice("a" * 40, None, "the node is drained in Ray", "ray")


@pytest.mark.parametrize(
    ("notice", "ours", "started", "expected"),
    [
        (SPOT, True, True, "leave"),
        (SPOT, True, False, "kill"),
        (SPOT, False, True, "nothing"),
        (SPOT, False, False, "nothing"),
        (DRAIN, True, True, "leave"),
        (DRAIN, True, False, "kill"),
        (ADVICE, True, True, "save"),
        (ADVICE, True, False, "nothing"),
        (ADVICE, False, True, "nothing"),
    ],
)
def test_the_answer(notice: Notice, ours: bool, started: bool, expected: str) -> None:
    assert answer(notice, ours=ours, started=started) == expected


def test_two_notices_are_one_leave_by_the_nearer_deadline() -> None:
    preemption = Preemption()
    assert preemption.why is None
    assert not preemption.overdue(1e12)
    for notice in (SPOT, DRAIN, SOONER, SPOT):
        preemption.add(notice)
    assert preemption.deadline == 990.0
    assert preemption.why is not None
    assert preemption.why.startswith("preempted: ")
    assert preemption.why.count("spot interruption") == 1
    assert "host error" in preemption.why
    assert not preemption.overdue(990.0 - MARGIN_S - 0.1)
    assert preemption.overdue(990.0 - MARGIN_S)
