"""The learning rate of each update, by the paper's words: up in a line, down in a line or a cosine, to nothing."""

from __future__ import annotations

import math

import pytest

from orchestrator.training.schedule import due, learning_rate


def rates(schedule: str, *, warmup: int = 4, steps: int = 12) -> list[float]:
    return [learning_rate(n, peak=2.0, warmup=warmup, steps=steps, schedule=schedule) for n in range(steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_it_rises_in_a_line_to_the_peak_and_no_update_is_lost_to_a_rate_of_zero(schedule: str) -> None:
    assert rates(schedule)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates(schedule, warmup=0)[0] == 2.0


def test_it_falls_in_a_line_to_zero_at_the_last_step() -> None:
    assert rates("linear")[4:] == [2.0 * (8 - n) / 8 for n in range(8)]
    assert learning_rate(12, peak=2.0, warmup=4, steps=12, schedule="linear") == 0.0


def test_or_along_half_a_cosine() -> None:
    assert rates("cosine")[4:] == pytest.approx([1 + math.cos(math.pi * n / 8) for n in range(8)])
    assert learning_rate(8, peak=2.0, warmup=4, steps=12, schedule="cosine") == pytest.approx(1.0)


def test_or_not_at_all() -> None:
    assert set(rates("constant")[3:]) == {2.0}


def test_what_is_due_every_few_steps_is_not_due_at_the_start_or_without_them() -> None:
    assert [n for n in range(10) if due(n, 3)] == [3, 6, 9]
    assert not due(6, None)
