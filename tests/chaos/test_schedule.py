"""A schedule is pure: a function of its seed, with every kind in it, and with calm between its storms."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import CALM_STEPS, KINDS, LONGEST_ROW, plan


def test_a_schedule_is_a_function_of_its_seed() -> None:
    kinds = sorted(KINDS)
    assert plan(7, 100, kinds) == plan(7, 100, kinds[::-1])
    assert plan(7, 100, kinds) != plan(8, 100, kinds)
    assert [one.number for one in plan(7, 100, kinds)] == list(range(100))


def test_a_schedule_has_every_kind_and_calm_between() -> None:
    for seed in range(20):
        planned = plan(seed, 60, list(KINDS))
        assert {one.kind for one in planned} == set(KINDS)
        assert planned[0].when == "calm"
        rows = "".join("c" if one.when == "calm" else "x" for one in planned).split("c")
        assert max(map(len, rows)) == LONGEST_ROW
        calm = [one.after for one in planned if one.when == "calm"]
        assert all(CALM_STEPS[0] <= after <= CALM_STEPS[1] for after in calm)
    with pytest.raises(ValueError, match=r"kinds got \['flood'\]; allowed are kill rank"):
        plan(1, 5, ["flood"])
