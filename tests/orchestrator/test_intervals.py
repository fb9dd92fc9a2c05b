"""How often to save, as a table."""

from __future__ import annotations

import math

import pytest

from orchestrator.durations import parse_duration, parse_interval
from orchestrator.intervals import save_every
from orchestrator.training.save_clock import SaveClock


@pytest.mark.parametrize(
    ("cost", "loss_every", "upload", "expected"),
    [
        (0.5, 3600.0, 0.0, 60.0),  # sqrt(2 * 0.5 * 3600)
        (2.0, 3600.0, 0.0, 120.0),  # four times the cost, half as often
        (0.5, 900.0, 0.0, 30.0),  # four times the losses, twice as often
        (0.5, 3600.0, 200.0, 200.0),  # never before the save before is whole
        (0.5, 3600.0, 5000.0, 5000.0),
        (0.0, 3600.0, 0.0, 10.0),
        (0.001, 3600.0, 0.0, 10.0),
        (60.0, 1e6, 0.0, 3600.0),
        (0.5, None, 0.0, 60.0),
    ],
)
def test_the_interval(cost: float, loss_every: float | None, upload: float, expected: float) -> None:
    assert save_every(cost, loss_every, upload) == pytest.approx(expected)


def test_no_other_interval_loses_less() -> None:
    """Of an hour, cost/T goes into saves and T/2 into work done again at each loss: the sum is least at T."""
    cost, between = 1.5, 7200.0

    def lost(every: float) -> float:
        return cost / every + every / (2 * between)

    best = save_every(cost, between)
    assert all(lost(best) < lost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))
    assert best == pytest.approx(math.sqrt(2 * cost * between))


def test_the_clock_learns_what_a_save_costs() -> None:
    clock = SaveClock(parse_interval("auto"), 3600.0)
    assert clock.seconds(0.0) == pytest.approx(60.0), "half a second is believed before the first save"
    for cost in (2.0, 2.0, 9.0):
        clock.saved(cost)
    assert clock.seconds(0.0) == pytest.approx(120.0), "by the median: one slow save is chance"
    assert clock.seconds(500.0) == 500.0
    assert not clock.due(0.0)


@pytest.mark.parametrize(("every", "expected"), [("10 min", 600.0), ("500 steps", None), ("2 epochs", None)])
def test_an_interval_that_is_given_is_kept(every: str, expected: float | None) -> None:
    clock = SaveClock(parse_interval(every), 3600.0)
    assert clock.seconds(999.0) == expected
    assert clock.due(999.0) is False


def test_auto_is_for_checkpoints_only() -> None:
    with pytest.raises(ValueError, match="write a number"):
        parse_duration("auto")
    with pytest.raises(ValueError, match="or auto"):
        parse_interval("often")
    assert str(parse_interval("auto")) == "auto"
    assert parse_interval(parse_interval("auto")).auto
