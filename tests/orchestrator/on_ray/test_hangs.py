"""Who has stopped: a table over pulses."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.on_ray.hangs import Limits, find_hang


def beat(
    phase: str, age: float, step: int = 50, *, stopped: float = 0.0, at: float = 1000.0
) -> dict[str, Any]:
    return {"phase": phase, "step": step, "age_s": age, "at": at, "stopped_s": stopped}


def steady(pace: float = 0.1) -> Limits:
    """Limits of an attempt that has done 50 steps of `pace` seconds."""
    limits = Limits()
    for step in range(51):
        limits.note({0: beat("compute", 0.0, step)}, step * pace)
    return limits


CASES = {
    "all move": ({0: beat("compute", 0.1), 1: beat("collective", 0.1)}, None),
    "a process is stopped": ({0: beat("collective", 5.0), 1: beat("compute", 5.0, stopped=4.0)}, (1,)),
    "stopped for a moment only": ({0: beat("collective", 9.0), 1: beat("compute", 9.0, stopped=0.5)}, None),
    "one computes for ever, its peer waits": ({0: beat("collective", 20.0), 1: beat("compute", 20.0)}, (1,)),
    "one waits for the store, within what a store is given": (
        {0: beat("collective", 60.0), 1: beat("read", 60.0)},
        None,
    ),
    "one waits for the store beyond that": ({0: beat("collective", 120.0), 1: beat("read", 120.0)}, (1,)),
    "a peer waits in its backward pass for one that reads": (
        {0: beat("compute", 60.0), 1: beat("read", 60.0)},
        None,
    ),
    "a peer steps on while one saves for long": ({0: beat("save", 500.0), 1: beat("compute", 500.0)}, None),
    "a peer waits for one that has stopped reading": (
        {0: beat("compute", 150.0), 1: beat("read", 150.0)},
        (1,),
    ),
    "all wait for one another": ({0: beat("collective", 40.0), 1: beat("collective", 45.0)}, (0, 1)),
    "a long save": ({0: beat("save", 300.0), 1: beat("save", 300.0)}, None),
    "an evaluation of a minute": ({0: beat("evaluate", 60.0), 1: beat("evaluate", 60.0)}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_who_has_stopped(name: str) -> None:
    pulses, ranks = CASES[name]
    found = find_hang(pulses, steady(), 1000.0)
    assert (found.ranks if found else None) == ranks


def test_what_has_not_been_heard_since_counts_too() -> None:
    pulses = {0: beat("collective", 0.0, at=1000.0), 1: beat("compute", 0.0, at=1000.0)}
    assert find_hang(pulses, steady(), 1005.0) is None
    found = find_hang(pulses, steady(), 1015.0)
    assert found is not None
    assert found.ranks == (1,)
    assert "compute of step 51" in found.why
    assert "15 s" in found.why


def test_a_first_step_may_compile_for_long() -> None:
    limits = Limits()
    limits.note({0: beat("compute", 0.0, 0)}, 0.0)
    assert not limits.steady
    assert find_hang({0: beat("compute", 600.0, 0)}, limits, 1000.0) is None
    assert find_hang({0: beat("compute", 1900.0, 0)}, limits, 1000.0) is not None


def test_slow_steps_get_more_time() -> None:
    pulses = {0: beat("compute", 60.0), 1: beat("collective", 60.0)}
    assert find_hang(pulses, steady(pace=20.0), 1000.0) is None
    assert find_hang(pulses, steady(pace=0.1), 1000.0) is not None


def test_a_resumed_attempt_is_not_steady_before_its_own_first_step() -> None:
    limits = Limits()
    limits.note({0: beat("data", 0.0, 40)}, 0.0)
    limits.note({0: beat("compute", 0.0, 40)}, 1.0)
    assert not limits.steady
    limits.note({0: beat("compute", 0.0, 41)}, 2.0)
    assert limits.steady
