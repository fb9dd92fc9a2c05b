"""A step that is late says what it waits for; a loader that is closed meanwhile does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.loading import waiting
from data_pipeline.loading.eval_loader import EvalLoader
from data_pipeline.order import Geometry
from data_pipeline.shards.dataset import Dataset
from tests.data_pipeline.loading.test_loader import RECIPE, open_loader, take

PATIENCE_S = 20.0
SMALL = Geometry(61, 4, 6, 2, seed=5)


class StalledStore:
    """A remote store over another that answers nothing about `key` until `go`."""

    remote = True

    def __init__(self, store: Any, key: str) -> None:
        self._store, self._key, self.go = store, key, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> bytes:
        if key == self._key:
            self.go.wait(PATIENCE_S)
        data: bytes = self._store.get(key)
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if key == self._key:
            self.go.wait(PATIENCE_S)
        data: bytes = self._store.get_range(key, start, length)
        return data


@pytest.fixture
def stalled(make_set: Callable[..., Dataset]) -> Iterator[tuple[Dataset, StalledStore]]:
    """A data set, one of whose shards does not come."""
    dataset = make_set(61)
    store = StalledStore(dataset.store, dataset.shards[1].name)
    dataset.store = store  # type: ignore[assignment]
    yield dataset, store
    store.go.set()


def test_a_step_that_is_late_says_which_object_it_waits_for(
    stalled: tuple[Dataset, StalledStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
    dataset, store = stalled
    told: list[dict[str, Any]] = []

    def late(facts: dict[str, Any]) -> None:
        told.append(facts)
        if len(told) == 2:
            store.go.set()

    with open_loader(dataset, SMALL, on_late=late) as loader:
        batches = [next(loader) for _ in range(4)]
    expected = [b.micro_batches[0].images for b in take(open_loader(dataset, SMALL), 4)]
    assert all((b.micro_batches[0].images == e).all() for b, e in zip(batches, expected, strict=True))
    assert told[0]["object"] == f"{dataset.url}/{dataset.shards[1].name}"
    assert told[0]["length"] > 0
    assert 0.2 <= told[0]["asked_s"] <= told[1]["asked_s"]
    assert told[0]["seconds"] + 0.2 <= told[1]["seconds"]


def test_closing_does_not_wait_for_a_store_that_does_not_answer(
    stalled: tuple[Dataset, StalledStore],
) -> None:
    dataset, store = stalled
    loader = open_loader(dataset, SMALL)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(loader.close)
        closing.result(PATIENCE_S / 4)
    assert not store.go.is_set()


def test_a_queue_that_is_full_says_so(make_set: Callable[..., Dataset]) -> None:
    with open_loader(make_set(61), SMALL, prefetch=3) as loader:
        next(loader)
        for step in loader._steps:
            for work in step.work:
                work.result(PATIENCE_S)
        stats = loader.stats()
    assert (stats["queue"], stats["queue_limit"]) == (3, 3)


def test_a_bad_sample_ends_the_run_where_that_is_asked_for(make_set: Callable[..., Dataset]) -> None:
    dataset = make_set(61, bad=(7,))
    with pytest.raises(BadDataset, match=r"sample 7 does not decode: Unidentified.*mixer verify"):
        take(open_loader(dataset, SMALL, bad="raise"), 6)


def test_an_evaluation_that_is_late_says_so_too(
    stalled: tuple[Dataset, StalledStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
    dataset, store = stalled
    told: list[dict[str, Any]] = []

    def late(facts: dict[str, Any]) -> None:
        told.append(facts)
        store.go.set()

    batches = list(EvalLoader(dataset, RECIPE, rank=0, world=1, micro_batch=10, on_late=late))
    assert sum(int(batch.real.sum()) for batch in batches) == 61
    assert told[0]["object"] == f"{dataset.url}/{dataset.shards[1].name}"


@pytest.fixture
def stalled_index(make_set: Callable[..., Dataset]) -> Iterator[tuple[Dataset, StalledStore]]:
    """A data set, one of whose idx files does not come."""
    dataset = make_set(61)
    store = StalledStore(dataset.store, dataset.shards[1].idx_name)
    dataset.index_store = store  # type: ignore[assignment]
    yield dataset, store
    store.go.set()


def test_a_step_that_waits_for_the_index_names_it(
    stalled_index: tuple[Dataset, StalledStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
    dataset, store = stalled_index
    told: list[dict[str, Any]] = []

    def late(facts: dict[str, Any]) -> None:
        told.append(facts)
        store.go.set()

    with open_loader(dataset, SMALL, on_late=late) as loader:
        for _ in range(4):
            next(loader)
    assert told[0]["object"].endswith(dataset.shards[1].idx_name)


def test_closing_does_not_wait_for_an_index_that_does_not_come(
    stalled_index: tuple[Dataset, StalledStore],
) -> None:
    loader = open_loader(stalled_index[0], SMALL)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loader.close).result(PATIENCE_S / 4)
    assert not stalled_index[1].go.is_set()


def test_leaving_an_evaluation_does_not_wait_for_the_store(stalled: tuple[Dataset, StalledStore]) -> None:
    dataset, store = stalled
    batches = iter(EvalLoader(dataset, RECIPE, rank=0, world=1, micro_batch=10))
    next(batches)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(batches.close).result(PATIENCE_S / 4)  # type: ignore[attr-defined]
    assert not store.go.is_set()
