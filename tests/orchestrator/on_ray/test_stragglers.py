"""Who is slow: a judgement over pulses."""

from __future__ import annotations

from orchestrator.on_ray.stragglers import SAMPLES, Stragglers


def fed(times: dict[int, float], steps: int = SAMPLES) -> Stragglers:
    """Stragglers that have seen `steps` steps in which each rank took its time."""
    seen = Stragglers()
    for step in range(1, steps + 1):
        seen.note({rank: {"step": step, "busy_s": busy} for rank, busy in times.items()})
    return seen


def test_a_rank_half_as_fast_as_the_others_is_told_once() -> None:
    seen = fed({0: 0.2, 1: 0.21, 2: 0.4})
    found = seen.find()
    assert list(found) == [2]
    assert "0.400 s" in found[2]
    assert seen.find() == {}


def test_equal_ranks_are_not_slow() -> None:
    assert fed({0: 0.2, 1: 0.25}).find() == {}


def test_some_milliseconds_are_the_machine_not_the_node() -> None:
    assert fed({0: 0.012, 1: 0.006}).find() == {}


def test_a_few_slow_steps_are_not_enough() -> None:
    assert fed({0: 0.2, 1: 0.6}, steps=SAMPLES - 1).find() == {}


def test_one_slow_step_among_many_is_not_enough() -> None:
    seen = fed({0: 0.2, 1: 0.2})
    seen.note({0: {"step": 99, "busy_s": 0.2}, 1: {"step": 99, "busy_s": 5.0}})
    assert seen.find() == {}


def test_a_pulse_seen_twice_counts_once() -> None:
    seen = Stragglers()
    for _ in range(SAMPLES):
        seen.note({0: {"step": 1, "busy_s": 0.2}, 1: {"step": 1, "busy_s": 0.9}})
    assert seen.find() == {}


def test_a_world_of_one_has_no_straggler() -> None:
    assert fed({0: 0.2}).find() == {}
