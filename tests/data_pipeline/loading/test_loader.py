"""Batches are a function of (data, geometry, recipe, position): not of world size, threads or restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from data_pipeline.loading import loader as loader_module
from data_pipeline.loading.bad_samples import TooManyBadSamples
from data_pipeline.loading.blocks import CorruptBlock
from data_pipeline.loading.eval_loader import EvalLoader
from data_pipeline.loading.loader import Batch, Loader
from data_pipeline.order import Geometry, Order, owned_slots
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset, build_index
from tests.data_pipeline.loading.conftest import image_bytes

MakeSet = Callable[..., Dataset]
B, M_SIZE = 12, 2
M = B // M_SIZE
RECIPE = Recipe(8, scale=(0.3, 1.0))
GEOMETRIES = [Geometry(61, 1, M, 1, seed=5), Geometry(61, 4, M, 2, seed=5), Geometry(61, 3, 2 * M, 2, seed=5)]


def open_loader(dataset: Dataset, geometry: Geometry = GEOMETRIES[1], **options: Any) -> Loader:
    given = {"batch": B, "micro_batch": M_SIZE, "slots": range(M), "position": 0, **options}
    return Loader(dataset, Order(geometry), RECIPE, **given)


def take(loader: Loader, steps: int) -> list[Batch]:
    with loader:
        return [next(loader) for _ in range(steps)]


def whole(steps: list[list[Batch]]) -> list[dict[int, tuple[Any, ...]]]:
    """Of several ranks' batches: per step, what each slot holds."""
    return [
        {
            micro.slot: (
                micro.images.numpy().tobytes(),
                *(x.tolist() for x in (micro.labels, micro.items, micro.ids)),
            )
            for batch in ranks
            for micro in batch.micro_batches
        }
        for ranks in zip(*steps, strict=True)
    ]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_world_size_gets_the_same_pixels(make_set: MakeSet, geometry: Geometry) -> None:
    dataset = make_set(61)
    expected = whole([take(open_loader(dataset, geometry), 12)])
    assert [sorted(step) for step in expected] == [list(range(M))] * 12
    for world in range(2, M + 1):
        ranks = [open_loader(dataset, geometry, slots=owned_slots(r, world, M)) for r in range(world)]
        assert whole([take(rank, 12) for rank in ranks]) == expected


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_threads_and_prefetch_change_nothing(
    make_set: MakeSet, geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_set(61)
    expected = whole([take(open_loader(dataset, geometry, threads=1, prefetch=1), 8)])
    monkeypatch.setattr(loader_module, "SMALL_BYTES", 0)
    monkeypatch.setattr(loader_module, "CHUNK", 1)
    assert whole([take(open_loader(dataset, geometry, threads=7, prefetch=5), 8)]) == expected


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_seek_is_a_drop(make_set: MakeSet, geometry: Geometry) -> None:
    dataset = make_set(61)
    expected = whole([take(open_loader(dataset, geometry), 14)])
    for steps in (1, 5, 9):
        sought = open_loader(dataset, geometry, position=steps * B)
        assert sought.position == steps * B
        assert whole([take(sought, 14 - steps)]) == expected[steps:]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_epoch_delivers_every_sample_once(make_set: MakeSet, geometry: Geometry) -> None:
    batches = take(open_loader(make_set(61), geometry), 16)
    micro_batches = [micro for batch in batches for micro in batch.micro_batches]
    items = np.concatenate([micro.items for micro in micro_batches])
    ids = np.concatenate([micro.ids for micro in micro_batches])[np.argsort(items)]
    labels = torch.cat([micro.labels for micro in micro_batches]).numpy()[np.argsort(items)]
    for epoch in range(3):
        assert sorted(ids[epoch * 61 : (epoch + 1) * 61].tolist()) == list(range(61))
    assert (labels == ids % 10).all()


def test_shapes_and_types(make_set: MakeSet) -> None:
    (batch,) = take(open_loader(make_set(61), slots=range(2, 4)), 1)
    assert batch.position == 0
    assert [micro.slot for micro in batch.micro_batches] == [2, 3]
    for micro in batch.micro_batches:
        assert (micro.images.shape, micro.images.dtype) == ((M_SIZE, 8, 8, 3), torch.uint8)
        assert (micro.labels.shape, micro.labels.dtype) == ((M_SIZE,), torch.int64)
        assert micro.items.dtype == micro.ids.dtype == np.int64


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_every_block_is_read_once_at_any_world_size(
    make_set: MakeSet, through: Callable[..., Any], world: int
) -> None:
    dataset = make_set(120, shards=1)
    store = through(dataset)
    geometry = Geometry(120, 5, M, 2, seed=0)  # 24 blocks, 4 to a lane exactly: none has two lanes
    epochs = 12
    for rank in range(world):
        take(open_loader(dataset, geometry, slots=owned_slots(rank, world, M)), epochs * 120 // B)
    ahead = 3 * M + 4 * world  # what lies in memory at the end, of the next epoch
    assert epochs * 24 // 2 <= len(store.reads) <= epochs * 24 + ahead


BAD = (7, 8, 33)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_bad_samples_are_replaced_alike_at_any_world_size(make_set: MakeSet, geometry: Geometry) -> None:
    dataset = make_set(61, bad=BAD)
    told: dict[int, list[dict[str, Any]]] = {}
    seen = {}
    for world in (1, 2, 3, 6):
        told[world] = []
        ranks = [
            open_loader(
                dataset, geometry, slots=owned_slots(r, world, M), bad_share=0.1, on_bad=told[world].append
            )
            for r in range(world)
        ]
        seen[world] = whole([take(rank, 11) for rank in ranks])
        told[world].sort(key=lambda each: (each["item"], each["id"]))
    assert seen[2] == seen[1] == seen[3] == seen[6]
    assert told[2] == told[1] == told[3] == told[6]
    assert {each["id"] for each in told[1]} == set(BAD)
    order = Order(geometry)
    for each in told[1]:
        good = next(other for other in order.successors(each["item"]) if other not in BAD)
        assert each["substitute"] == good
        assert "cannot identify" in each["why"]


def test_delivered_ids_name_the_substitute(make_set: MakeSet) -> None:
    told: list[dict[str, Any]] = []
    batches = take(open_loader(make_set(61, bad=BAD), bad_share=0.1, on_bad=told.append), 6)
    delivered = {
        int(item): (int(sample), int(label))
        for batch in batches
        for micro in batch.micro_batches
        for item, sample, label in zip(micro.items, micro.ids, micro.labels, strict=True)
    }
    assert told
    for each in told:
        assert delivered[each["item"]] == (each["substitute"], each["substitute"] % 10)
    assert not {sample for sample, _ in delivered.values()} & set(BAD)


def test_one_bad_sample_is_always_allowed_and_two_are_not(make_set: MakeSet) -> None:
    told: list[dict[str, Any]] = []
    loader = open_loader(make_set(61, bad=(7,)), bad_share=0, on_bad=told.append)
    take(loader, 30)
    assert len(told) == loader.stats()["bad"] >= 5


def test_too_many_bad_samples_stop_the_run(make_set: MakeSet) -> None:
    loader = open_loader(make_set(61, bad=(7, 8)), bad_share=0.0001)
    with pytest.raises(TooManyBadSamples, match=r"2 of \d+ samples do not decode"):
        take(loader, 12)


def test_nothing_decodes(make_set: MakeSet) -> None:
    with pytest.raises(TooManyBadSamples, match="could stand in"):
        take(open_loader(make_set(61, bad=tuple(range(61)))), 1)


def test_a_lasting_flip_stops_the_run_by_name(make_set: MakeSet, through: Callable[..., Any]) -> None:
    dataset = make_set(61)
    through(dataset, lambda k, s, data: data[:-1] + bytes([data[-1] ^ 1]) if k.endswith("1.tar") else data)
    loader = open_loader(dataset)
    with pytest.raises(CorruptBlock, match=r"s-000001.tar, sample \d+ at byte \d+"):
        take(loader, 10)
    assert loader.stats()["retries"] >= 2


def test_a_flip_that_passes_is_counted_and_harmless(make_set: MakeSet, through: Callable[..., Any]) -> None:
    dataset = make_set(61)
    expected = whole([take(open_loader(dataset), 6)])
    store: Any = through(
        dataset, lambda k, s, d: d[:-1] + bytes([d[-1] ^ 1]) if len(store.reads) % 3 == 1 else d
    )
    loader = open_loader(dataset)
    assert whole([take(loader, 6)]) == expected
    stats = loader.stats()
    assert stats["retries"] > 0
    assert stats["gets"] == len(store.reads)
    assert stats["bytes"] == sum(length for *_, length in store.reads)


def test_close_joins_its_threads(make_set: MakeSet) -> None:
    before = set(threading.enumerate())
    loader = open_loader(make_set(61))
    next(loader)
    loader.close()
    loader.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slots": range(3, 3)}, "slots"),
        ({"slots": range(M + 1)}, "slots"),
        ({"position": -1}, "position"),
        ({"micro_batch": 5}, "does not divide"),
        ({"geometry": Geometry(60, 1, M, 1, 0)}, "61 samples"),
    ],
)
def test_arguments_are_checked(make_set: MakeSet, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_loader(make_set(61), **wrong)


def test_samples_with_several_labels_fill_rows(tmp_path: Path) -> None:
    names = [["cat", "dog"], ["eel"], ["dog", "eel", "cat"], ["cat"]]
    with webdataset.TarWriter(str(tmp_path / "s.tar"), mtime=0) as writer:
        for number, labels in enumerate(names):
            writer.write({"__key__": f"{number}", "png": image_bytes(number), "json": {"labels": labels}})
    build_index(str(tmp_path), label="json:labels")
    dataset = Dataset.open(str(tmp_path))
    assert (dataset.classes, dataset.labels_per_sample, dataset.max_label) == (["cat", "dog", "eel"], 3, 2)
    (batch,) = take(
        open_loader(dataset, Geometry(4, 1, 1, 1, seed=5), batch=4, micro_batch=4, slots=range(1)), 1
    )
    (micro,) = batch.micro_batches
    wanted = {0: [0, 1, -1], 1: [2, -1, -1], 2: [1, 2, 0], 3: [0, -1, -1]}
    assert micro.labels.tolist() == [wanted[i] for i in micro.ids.tolist()]
    whole_set = EvalLoader(dataset, RECIPE, rank=0, world=1, micro_batch=4)
    assert [b.labels.tolist() for b in whole_set] == [[wanted[i] for i in range(4)]]
