"""Steps passed over: what is left is the undisturbed order without them, and what is passed over is not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from data_pipeline.loading.loader import Loader
from data_pipeline.loading.reading import BlockReader
from data_pipeline.order import Geometry, Order, owned_slots
from data_pipeline.shards.dataset import Dataset
from tests.data_pipeline.loading.test_loader import (
    GEOMETRIES,
    M_SIZE,
    RECIPE,
    B,
    M,
    MakeSet,
    open_loader,
    take,
    whole,
)

STEPS = 16  # three epochs of 61 samples and a bit; epochs end inside steps 5, 10 and 15
SKIPS = [[0], [0, 1, 2], [5], [4, 5, 6, 10], [3, 7, 8, 12, 15], list(range(1, 14))]


def positions(steps: list[int]) -> list[int]:
    return [step * B for step in steps]


@pytest.mark.parametrize("skip", SKIPS, ids=str)
@pytest.mark.parametrize("geometry", [*GEOMETRIES, Geometry(61, 4, 2 * B, 2, seed=5)])
def test_what_is_left_is_the_order_without_it(make_set: MakeSet, geometry: Geometry, skip: list[int]) -> None:
    dataset = make_set(61)
    undisturbed = whole([take(open_loader(dataset, geometry), STEPS)])
    left = [step for number, step in enumerate(undisturbed) if number not in skip]
    for world in (1, 2, 4):
        ranks = [
            open_loader(dataset, geometry, slots=owned_slots(rank, world, M), skip=positions(skip))
            for rank in range(world)
        ]
        assert whole([take(rank, len(left)) for rank in ranks]) == left


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_seek_among_skipped_steps_is_a_drop(make_set: MakeSet, geometry: Geometry) -> None:
    dataset, skip = make_set(61), positions([0, 4, 5, 9, 12])
    batches = take(open_loader(dataset, geometry, skip=skip), 11)
    assert [batch.position for batch in batches] == positions([1, 2, 3, 6, 7, 8, 10, 11, 13, 14, 15])
    expected = whole([batches])
    for done in (1, 3, 5, 7):
        at = batches[done - 1].position + B  # where a run is after `done` steps; step 4 or 9 may be next
        sought = open_loader(dataset, geometry, skip=skip, position=at)
        assert sought.position == batches[done].position
        assert whole([take(sought, 11 - done)]) == expected[done:]


def test_threads_and_prefetch_change_nothing_among_skipped_steps(make_set: MakeSet) -> None:
    dataset, skip = make_set(61), positions([1, 2, 8])
    expected = whole([take(open_loader(dataset, skip=skip, prefetch=1), 9)])
    assert whole([take(open_loader(dataset, skip=skip, threads=4, prefetch=6), 9)]) == expected


def test_samples_of_a_skipped_step_are_not_read(make_set: MakeSet, through: Callable[..., Any]) -> None:
    dataset = make_set(600, shards=1)
    store = through(dataset)
    geometry = Geometry(600, 1, M, 50, seed=5)  # each sample a block of its own
    take(open_loader(dataset, geometry, skip=positions([2, 3])), 16)
    order = Order(geometry)
    offsets = {start for _, start, _ in store.reads}
    for step in range(18):
        samples = order.sample_ids(order.step_items(step * B, B)).tolist()
        read = [int(dataset.spans(sample, 1)[0].offsets[0]) in offsets for sample in samples]
        assert read == [step not in (2, 3)] * B


@pytest.mark.parametrize("every", [2, 3])
def test_blocks_of_skipped_steps_do_not_stay(make_set: MakeSet, every: int) -> None:
    """What is announced and never taken would fill the room for blocks, a little more with each skipped step."""
    dataset = make_set(120, shards=1)
    geometry = Geometry(120, 5, M, 2, seed=0)
    skip = [step for step in range(400) if step % every == 0]
    given: dict[str, Any] = {"batch": B, "micro_batch": M_SIZE, "slots": range(M), "position": 0}
    with Loader(dataset, Order(geometry), RECIPE, **given, skip=positions(skip)) as loader:
        for _ in range(120):
            next(loader)
        reader = loader._reader
        assert isinstance(reader, BlockReader)
        waiting = sum(reader._uses.values())
    ahead = (len(loader._scout._found) + 2) * B + geometry.lanes * geometry.window * geometry.block
    assert waiting <= ahead


def test_every_epoch_delivers_the_rest_once(make_set: MakeSet) -> None:
    dataset: Dataset = make_set(61)
    skip = [1, 5, 6, 14]
    batches = take(open_loader(dataset, skip=positions(skip)), STEPS - len(skip))
    items = sorted(int(i) for batch in batches for micro in batch.micro_batches for i in micro.items)
    passed = {item for step in skip for item in range(step * B, (step + 1) * B)}
    assert items == [item for item in range(STEPS * B) if item not in passed]
    order = Order(GEOMETRIES[1])
    for batch in batches:
        for micro in batch.micro_batches:
            assert micro.ids.tolist() == order.sample_ids(micro.items).tolist()


def test_a_skip_that_is_no_step_is_refused(make_set: MakeSet) -> None:
    with pytest.raises(ValueError, match="no step of 12 from position 24 on begins at 30"):
        open_loader(make_set(61), position=24, skip=[12, 30])
