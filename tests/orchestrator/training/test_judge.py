"""What a step is judged by: finite numbers, and the median of the steps before."""

from __future__ import annotations

import json
import math
import pickle

import pytest

from orchestrator.errors import Diverged
from orchestrator.spec import Spike
from orchestrator.training.judge import FEWEST, Judge
from orchestrator.training.schedule import batches_to_skip

USUAL = [(2.0 + 0.01 * (n % 7), 1.0 + 0.1 * (n % 5)) for n in range(40)]  # medians 2.03 and 1.2


def after(count: int, spike: Spike | None = None) -> Judge:
    judge = Judge(spike or Spike(loss=3.0, norm=10.0, window=30))
    assert [judge.judge(*each) for each in USUAL[:count]] == [None] * count
    return judge


@pytest.mark.parametrize(
    ("loss", "norm"),
    [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf), (2.0, -1.0), (math.nan, None)],
)
def test_what_is_not_finite_is_never_used(loss: float, norm: float | None) -> None:
    for judge in (Judge(None), after(40)):
        why = judge.judge(loss, norm)
        assert why is not None
        assert why.startswith("not finite: loss")


@pytest.mark.parametrize(
    ("seen", "loss", "norm", "found"),
    [
        (40, 6.0, 1.0, None),
        (40, 6.2, 1.0, "loss is 3.05 times the median of the last 30 steps, 3 is allowed"),
        (40, 2.0, 11.9, None),
        (40, 2.0, 12.1, "gradient norm is 10.1 times"),
        (40, 2.0, None, None),
        (FEWEST - 1, 600.0, 600.0, None),
        (FEWEST, 600.0, 1.0, "the last 20 steps"),
    ],
)
def test_a_spike_is_far_above_the_median(
    seen: int, loss: float, norm: float | None, found: str | None
) -> None:
    why = after(seen).judge(loss, norm)
    assert (why is None) == (found is None)
    assert found is None or (why is not None and why.startswith("spike: ") and found in why)


def test_without_the_option_a_spike_passes_and_nothing_is_kept() -> None:
    judge = Judge(None)
    assert [judge.judge(*each) for each in [*USUAL, (1e9, 1e9)]] == [None] * 41
    assert judge.state == {}


def test_one_of_the_two_may_be_off() -> None:
    assert after(40, Spike(loss=None, norm=10.0, window=30)).judge(1e9, 1.0) is None
    assert after(40, Spike(loss=3.0, norm=None, window=30)).judge(2.0, 1e9) is None


def test_a_spike_does_not_become_usual() -> None:
    judge = after(40)
    before = judge.state
    for _ in range(40):
        assert judge.judge(100.0, 1.0) is not None
    assert judge.state == before


def test_its_state_survives_json_bit_by_bit() -> None:
    spike = Spike(loss=3.0, norm=10.0, window=30)
    whole, broken = after(40, spike), after(25, spike)
    broken = Judge(spike, json.loads(json.dumps(broken.state)))
    for each in USUAL[25:]:
        assert broken.judge(*each) is None
    assert broken.state == whole.state
    assert whole.state["loss"] == [loss for loss, _ in USUAL[-30:]]


def test_diverged_travels_between_processes() -> None:
    found = pickle.loads(pickle.dumps(Diverged(12, 15, "not finite: loss nan")))
    assert (type(found), found.step, found.batch, str(found)) == (
        Diverged,
        12,
        15,
        "step 12, batch 15: not finite: loss nan",
    )


def test_batches_to_skip() -> None:
    assert batches_to_skip([], [], 640, 64) == []
    assert batches_to_skip([12, 10], [], 640, 64) == [10, 12]
    assert batches_to_skip([3, 9, 10], [4], 640, 64) == [4, 10], "3 and 9 were trained on, 4 was not"
