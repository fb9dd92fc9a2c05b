"""Blocks come once, before their turn, and go after their last use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from data_pipeline.loading.reading import BlockReader, ResidentReader
from data_pipeline.shards.dataset import Dataset


def test_every_block_is_read_once(make_set: Callable[..., Dataset], through: Callable[..., Any]) -> None:
    dataset = make_set(60, shards=1)
    store = through(dataset)
    reader = BlockReader(dataset, block=5, room=4)
    ids = np.random.default_rng(0).permutation(60)
    for part in ids.reshape(4, 15):
        reader.expect(part)
    labels = [reader.take(int(i)).labels[0] for i in ids]
    reader.close()
    assert labels == (ids % 10).tolist()
    assert len(store.reads) <= 12 + 8  # a scattered order may push a block out at the hard limit
    assert not reader._held
    assert not reader._uses


def test_in_order_nothing_is_read_twice_and_little_is_held(
    make_set: Callable[..., Dataset], through: Callable[..., Any]
) -> None:
    dataset = make_set(60, shards=1)
    store = through(dataset)
    reader = BlockReader(dataset, block=5, room=3)
    reader.expect(np.arange(60))
    most = 0
    for i in range(60):
        reader.take(i)
        most = max(most, len(reader._held))
    reader.close()
    assert len(store.reads) == 12
    assert most <= 3


def test_what_is_coming_is_fetched_before_it_is_asked_for(
    make_set: Callable[..., Dataset], through: Callable[..., Any]
) -> None:
    dataset = make_set(60, shards=1)
    arrived = threading.Semaphore(0)

    def damage(key: str, start: int, data: bytes) -> bytes:
        arrived.release()
        return data

    through(dataset, damage)
    reader = BlockReader(dataset, block=5, room=3)
    reader.expect(np.arange(60))
    assert all(arrived.acquire(timeout=10) for _ in range(3))
    assert not arrived.acquire(timeout=0.1)
    reader.close()


def test_a_block_nobody_announced_is_read_all_the_same(make_set: Callable[..., Dataset]) -> None:
    reader = BlockReader(make_set(60), block=5, room=2)
    assert reader.peek(59).labels[0] == 9
    assert not reader._held
    assert [reader.take(i).labels[0] for i in (3, 41, 7, 3)] == [3, 1, 7, 3]
    reader.close()


def test_a_failure_reaches_everyone_who_waits(
    make_set: Callable[..., Dataset], through: Callable[..., Any]
) -> None:
    dataset = make_set(60, shards=1)

    def damage(key: str, start: int, data: bytes) -> bytes:
        raise RuntimeError("the cable is out")

    through(dataset, damage)
    reader = BlockReader(dataset, block=5, room=2)
    reader.expect(np.arange(10))
    for sample in (0, 3, 7):
        with pytest.raises(RuntimeError, match="cable"):
            reader.take(sample)
    reader.close()


@pytest.mark.parametrize("threads", [1, 8])
def test_many_threads_get_the_same(make_set: Callable[..., Dataset], threads: int) -> None:
    reader = BlockReader(make_set(60), block=7, room=2)
    ids = np.random.default_rng(1).permutation(60)
    reader.expect(ids)
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(lambda i: reader.take(int(i)).labels[0], ids)) == (ids % 10).tolist()
    reader.close()


def test_a_resident_set_is_read_once_and_kept(
    make_set: Callable[..., Dataset], through: Callable[..., Any]
) -> None:
    dataset = make_set(31)
    store = through(dataset)
    reader = ResidentReader(dataset)
    for _ in range(3):
        assert [reader.take(i).labels[0] for i in range(31)] == [i % 10 for i in range(31)]
    assert len(store.reads) == 3
    reader.close()
