"""Batches that cannot be used: found alike by all ranks before anything is saved, then left out as if they had never been."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipeline.order import Order
from orchestrator.accounts.proof import delivered_once, samples_left_out
from tests.direct import Direct, stop_at
from tests.runs import Small
from tests.trouble import main, trouble

pytestmark = pytest.mark.timeout(240)
B = 64
SPIKE = "recovery.spike={loss: 3.0, norm: 10.0, window: 30}"


def order_without(direct: Direct, left_out: list[int], steps: int) -> list[list[int]]:
    """The sample ids of each step, straight from the order."""
    order = Order(direct.run.frozen().geometry)
    batches = [batch for batch in range(steps + len(left_out)) if batch not in left_out][:steps]
    return [order.sample_ids(order.step_items(batch * B, B)).tolist() for batch in batches]


def diverged(said: list[tuple[Any, ...]]) -> list[tuple[str, int | None]]:
    """Kind and batch of each rank's end."""
    return [tuple(each[3:5]) if each[0] == "error" else (each[0], None) for each in said]


@pytest.mark.parametrize("how", ["nan", "gradient"])
@pytest.mark.parametrize(
    ("zero", "precision"), [(0, "fp32"), (1, "bf16"), (2, "bf16"), (2, "fp32"), (3, "bf16")]
)
def test_all_ranks_name_the_batch_and_nothing_is_saved(
    small: Small, zero: int, precision: str, how: str
) -> None:
    given = (f"train.zero={zero}", f"train.precision={precision}", "checkpoint.every=4 steps")
    direct = Direct.begin(small, "nan", *given)
    said = direct.attempt(2, main, env=trouble(poison={11: how}))
    assert diverged(said) == [("diverged", 11)] * 2
    assert all("step 12, batch 11: not finite: loss" in each[1] for each in said)
    assert direct.saved() == [4, 8]
    assert not [info.key for info in direct.run.store.list("checkpoints/") if "0000000012" in info.key]
    noted = [event for event in direct.book().events if event["kind"] == "diverged"]
    assert {(event["rank"], event["step"], event["batch"]) for event in noted} == {(0, 12, 11), (1, 12, 11)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_left_a_batch_out_is_one_that_never_had_it(small: Small, precision: str) -> None:
    given = (f"train.precision={precision}", "train.steps=30", "checkpoint.every=5 steps")
    met = Direct.begin(small, "met", *given)
    assert diverged(met.attempt(2, main, env=trouble(poison={12: "nan"}))) == [("diverged", 12)] * 2
    assert met.saved() == [5, 10]
    met.leave_out(12)
    assert [each[1] for each in met.attempt(2, main, env=trouble(poison={12: "nan"}))] == ["finished"] * 2
    never = Direct.begin(small, "never", *given, left_out=[12])
    never.attempt(2)
    plain = Direct.begin(small, "plain", *given)
    plain.attempt(2)
    assert met.losses() == never.losses()
    assert len(met.losses()) == 30
    assert met.losses()[:12] == plain.losses()[:12]
    assert met.losses()[12] != plain.losses()[12]
    assert met.ids() == never.ids() == order_without(met, [12], 30)
    assert [line.batch for line in met.book().history] == [*range(12), *range(13, 31)]
    assert (met.newest().position, met.newest().state["skipped"]) == (31 * B, [12])
    assert (plain.newest().position, plain.newest().state["skipped"]) == (30 * B, [])
    assert [line.facts["lr"] for line in met.book().history] == [
        line.facts["lr"] for line in plain.book().history
    ]
    for direct in (met, never):
        assert (delivered_once(direct.book()), samples_left_out(direct.book())) == ((0, 0), B)


def test_the_save_under_way_is_not_lost(small: Small) -> None:
    direct = Direct.begin(small, "under-way", "checkpoint.every=10 steps")
    said = direct.attempt(2, main, env=trouble(poison={21: "nan"}, upload_s=3.0))
    assert diverged(said) == [("diverged", 21)] * 2
    assert direct.saved() == [10, 20]
    upload = [
        event for event in direct.book().events if event["kind"] == "span" and event["name"] == "upload"
    ][-1]
    noted = [event for event in direct.book().events if event["kind"] == "diverged"][-1]
    assert upload["t"] > noted["t"], "it ended after the divergence was seen"


@pytest.mark.parametrize("resident", [0, 64_000_000])
def test_several_batches_through_world_sizes_and_epochs(small: Small, resident: int) -> None:
    """The first, neighbours, and those around the ends of both epochs (1437 samples: in batches 22 and 44)."""
    left_out = [0, 5, 6, 21, 22, 44]
    given = ("train.steps=46", "checkpoint.every=100 steps", f"data.resident={resident}")
    whole = Direct.begin(small, "whole", *given, left_out=left_out)
    whole.attempt(2)
    moved = Direct.begin(small, "moved", *given, left_out=left_out)
    for world, step in ((2, 2), (3, 8), (1, 22)):
        said = moved.attempt(world, main, env=trouble(micro_s=0.05), during=stop_at(step))
        assert [each[:2] for each in said] == [("ok", "stopped")] * world
        assert step <= moved.saved()[-1] < 40
    moved.attempt(2)
    assert {line.facts["world_size"] for line in moved.book().history} == {1, 2, 3}
    assert moved.ids() == whole.ids() == order_without(whole, left_out, 46)
    assert moved.losses()[:20] == pytest.approx(whole.losses()[:20], rel=1e-5)
    assert delivered_once(moved.book()) == (0, 0)
    assert samples_left_out(moved.book()) == len(left_out) * B
    assert moved.newest().state["skipped"] == left_out


def test_a_batch_that_was_trained_on_is_not_left_out_later(small: Small) -> None:
    direct = Direct.begin(small, "late", "train.steps=20", "checkpoint.every=100 steps")
    direct.attempt(2, main, env=trouble(micro_s=0.05), during=stop_at(6))
    direct.leave_out(3)
    direct.leave_out(18)
    direct.attempt(2)
    assert [line.batch for line in direct.book().history] == [*range(18), 19, 20]
    assert direct.newest().state["skipped"] == [18]
    assert delivered_once(direct.book()) == (0, 0)


def test_what_is_missing_without_being_left_out_counts_as_skipped(small: Small) -> None:
    direct = Direct.begin(small, "gap", "train.steps=30", left_out=[7])
    direct.attempt(2)
    book = direct.book()
    book.entries = [entry for entry in book.entries if entry.kind != "batch left out"]
    assert (delivered_once(book), samples_left_out(book)) == ((B, 0), 0)


@pytest.mark.parametrize("how", ["loss", "norm"])
def test_a_spike_is_found_where_it_is_asked_for(small: Small, how: str) -> None:
    given = ("train.steps=32", "checkpoint.every=10 steps")
    through = Direct.begin(small, "through", *given)
    assert [each[1] for each in through.attempt(2, main, env=trouble(poison={27: how}))] == ["finished"] * 2
    direct = Direct.begin(small, "asked", *given, SPIKE)
    said = direct.attempt(2, main, env=trouble(poison={5: how, 27: how}))  # 5: before there is a median
    assert diverged(said) == [("diverged", 27)] * 2
    assert f"spike: {'loss' if how == 'loss' else 'gradient norm'} is" in said[0][1]
    assert direct.saved() == [10, 20]


def test_a_resumed_run_judges_as_an_unbroken_one(small: Small) -> None:
    given = ("train.steps=40", "checkpoint.every=100 steps", SPIKE)
    whole = Direct.begin(small, "whole", *given)
    whole.attempt(2)
    broken = Direct.begin(small, "broken", *given)
    broken.attempt(2, main, env=trouble(micro_s=0.1), during=stop_at(12))
    broken.attempt(2, main, env=trouble(micro_s=0.1), during=stop_at(22))
    before = broken.saved()[-1]
    assert 22 <= before < 34
    assert diverged(broken.attempt(2, main, env=trouble(poison={34: "loss"}))) == [("diverged", 34)] * 2
    assert before > 34 - 20, "this attempt alone has too few steps for a median"
    broken.attempt(2)
    assert broken.losses() == whole.losses()
    judged = whole.newest().state["judged"]
    assert broken.newest().state["judged"] == judged
    assert judged["loss"] == whole.losses()[-30:]


def test_the_supervisor_rolls_back_leaves_out_and_goes_on(small: Small) -> None:
    given = ("train.steps=30", "workers.min=2")
    code, met = small.lead("met", *given, fn=main, env=trouble(poison={12: "nan", 13: "gradient"}))
    assert code == 0
    ends = [entry.facts["outcome"] for entry in met.entries if entry.kind == "attempt ended"]
    assert ends == ["diverged", "diverged", "finished"]
    never = Direct.begin(small, "never", *given, left_out=[12, 13])
    never.attempt(2)
    assert [line.facts["loss"] for line in met.history] == never.losses()
    assert [line.batch for line in met.history] == [*range(12), *range(14, 32)]
    assert (delivered_once(met), samples_left_out(met)) == ((0, 0), 2 * B)
