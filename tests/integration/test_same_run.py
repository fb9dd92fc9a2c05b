"""Promise 1 and 2: the same run, whatever happens; the batch is the batch."""

from __future__ import annotations

from collections import Counter

import pytest

from data_pipeline.order import Order
from orchestrator.accounts.proof import delivered_once
from orchestrator.accounts.status import Book
from orchestrator.run_store import Run
from orchestrator.watch import newest_progress
from tests import killing
from tests.gang import GangMachines
from tests.runs import Small, wait_for

pytestmark = pytest.mark.timeout(300)


def losses(book: Book) -> list[float]:
    return [line.facts["loss"] for line in book.history]


def digests(book: Book) -> list[str]:
    return [str(line.as_json()["id_digest"]) for line in book.history]


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_killed_run_has_the_losses_of_an_unbroken_one_bit_by_bit(small: Small, zero: int) -> None:
    overrides = (f"train.zero={zero}", "train.steps=42", "workers.min=2")
    code, broken = small.lead("broken", *overrides, fn=killing.main, env=killing.at_step(14))
    assert code == 0
    assert [e.facts["outcome"] for e in broken.entries if e.kind == "attempt ended"] == ["died", "finished"]
    restarted = broken.entries[[e.kind for e in broken.entries].index("attempt ended") + 1]
    assert restarted.facts["step"] >= 10, "the second attempt started from a checkpoint"
    code, whole = small.lead("whole", *overrides)
    assert code == 0
    assert len(losses(broken)) == 42
    assert losses(broken) == losses(whole)
    assert digests(broken) == digests(whole)
    assert 42 - restarted.facts["step"] >= 30
    assert delivered_once(broken) == (0, 0)


def test_every_world_size_trains_on_the_same_batches_with_the_same_losses(small: Small) -> None:
    books = {}
    for world in (1, 2, 3):  # M = 8 is no multiple of 3
        code, books[world] = small.lead(
            f"world{world}", f"workers.min={world}", f"workers.max={world}", "train.steps=24"
        )
        assert code == 0
        assert {line.facts["world_size"] for line in books[world].history} == {world}
    assert digests(books[1]) == digests(books[2]) == digests(books[3])
    for world in (2, 3):
        for one, other in zip(losses(books[1])[:20], losses(books[world])[:20], strict=True):
            assert other == pytest.approx(one, rel=1e-5)
    batch = books[1].frozen.spec.train.global_batch
    order = Order(books[1].frozen.geometry)
    for line in books[3].history:
        delivered = [i for slot in sorted(line.ids) for i in line.ids[slot]]
        expected = order.sample_ids(order.step_items((line.step - 1) * batch, batch)).tolist()
        assert delivered == expected
        assert sorted(line.ids) == list(range(8))
    assert (
        max(Counter(i for line in books[2].history[:22] for s in line.ids.values() for i in s).values()) == 1
    )


def test_the_world_may_change_in_the_middle(small: Small) -> None:
    """Stopped at world 2, resumed at world 3: the same ids, the losses to rounding."""
    code, whole = small.lead("whole", "workers.min=2", "train.steps=60")
    assert code == 0
    steady = {"fn": killing.main, "env": killing.hold(12)}  # so that the stop finds it in the middle
    code, first = small.lead("moved", "workers.min=2", "train.steps=60", during=_stop_soon, **steady)
    assert code == 3
    assert first.state() == "stopped"
    assert 0 < first.history[-1].step < 60
    code, moved = small.lead("moved", "workers.min=3", "workers.max=3", "train.steps=60")
    assert code == 0
    assert {line.facts["world_size"] for line in moved.history} == {2, 3}
    assert digests(moved) == digests(whole)
    assert losses(moved)[:20] == pytest.approx(losses(whole)[:20], rel=1e-5)


def _stop_soon(run: Run, machines: GangMachines) -> None:
    wait_for(lambda: newest_progress(run).get("step", 0) >= 1)
    run.request("stop")
