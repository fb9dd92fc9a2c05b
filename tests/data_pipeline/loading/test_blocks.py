"""Bytes are proven before anybody decodes them: what arrives wrong is fetched again, then refused by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from data_pipeline.loading import blocks
from data_pipeline.loading.blocks import BlockFetcher, CorruptBlock
from data_pipeline.pixels.decode import decode
from data_pipeline.shards.dataset import Dataset


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def numbers(samples: list[blocks.Sample]) -> list[int]:
    pixels = [decode(sample.image)[0, 0].tolist() for sample in samples]
    return [high * 256 + low for high, low, _ in pixels]


def test_samples_come_in_order_across_shards(make_set: Callable[..., Dataset]) -> None:
    fetcher = BlockFetcher(make_set(31))
    samples = fetcher.fetch(5, 20)
    assert numbers(samples) == list(range(5, 25))
    assert [sample.labels[0] for sample in samples] == [n % 10 for n in range(5, 25)]
    assert (fetcher.gets, fetcher.retries) == (3, 0)


def test_long_runs_are_read_in_parts(
    make_set: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_set(31, shards=1)
    monkeypatch.setattr(blocks, "LARGEST_GET", int(4.5 * dataset.mean_bytes))
    fetcher = BlockFetcher(dataset)
    assert numbers(fetcher.fetch(0, 31)) == list(range(31))
    assert fetcher.gets == 8
    monkeypatch.setattr(blocks, "LARGEST_GET", 1)
    assert numbers(fetcher.fetch(0, 3)) == [0, 1, 2]


@pytest.mark.parametrize("place", [0, 700, -1])  # a tar header, an image, padding
def test_a_byte_that_arrives_wrong_once_is_fetched_again(
    make_set: Callable[..., Dataset], through: Callable[..., Any], place: int
) -> None:
    dataset = make_set(31)
    store: Any = through(
        dataset, lambda k, s, data: flipped(data, place % len(data)) if len(store.reads) == 1 else data
    )
    fetcher = BlockFetcher(dataset)
    assert numbers(fetcher.fetch(0, 8)) == list(range(8))
    assert (fetcher.gets, fetcher.retries) == (2, 1)


def test_a_line_that_flips_bits_for_a_second_is_outwaited(
    make_set: Callable[..., Dataset], through: Callable[..., Any]
) -> None:
    dataset, began = make_set(31), time.monotonic()
    through(dataset, lambda k, s, data: flipped(data, 40) if time.monotonic() < began + 0.6 else data)
    fetcher = BlockFetcher(dataset)
    assert numbers(fetcher.fetch(0, 4)) == [0, 1, 2, 3]
    assert fetcher.retries > 0


@pytest.mark.parametrize("place", [0, 700, -1])
def test_a_byte_that_stays_wrong_is_refused_by_name(
    make_set: Callable[..., Dataset], through: Callable[..., Any], place: int
) -> None:
    dataset = make_set(31)
    span = dataset.spans(11, 8)[0]
    at = int(span.offsets[3]) + place % int(span.lengths[3])
    through(
        dataset,
        lambda k, s, data: flipped(data, at - s) if k == span.key and s <= at < s + len(data) else data,
    )
    where = f"{span.key}, sample 14 at byte {int(span.offsets[3])}: CRC32C"
    fetcher = BlockFetcher(dataset)
    with pytest.raises(CorruptBlock, match=where):
        fetcher.fetch(11, 8)
    assert fetcher.gets == 5
    assert numbers(fetcher.fetch(11, 3)) == [11, 12, 13]  # its neighbours are still good


def test_a_short_answer_is_refused(make_set: Callable[..., Dataset], through: Callable[..., Any]) -> None:
    dataset = make_set(31)
    through(dataset, lambda k, s, data: data[:-512])
    with pytest.raises(CorruptBlock, match="bytes instead of"):
        BlockFetcher(dataset).fetch(0, 8)
