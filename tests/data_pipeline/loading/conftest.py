"""Small data sets in plain WebDataset shards, good and damaged."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_pipeline.shards.dataset import Dataset, build_index
from data_pipeline.storage import Store

MakeSet = Callable[..., Dataset]


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    """A small picture that tells its number: its first pixel is (number // 256, number % 256, 7)."""
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    pixels[0, 0] = number // 256, number % 256, 7
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """make_set(samples, shards=3, bad=(ids,)): sample n has label n % 10; those in `bad` do not decode."""

    def make(samples: int, shards: int = 3, bad: tuple[int, ...] = ()) -> Dataset:
        folder = tmp_path / "set"
        folder.mkdir()
        for shard, numbers in enumerate(np.array_split(np.arange(samples), shards)):
            with webdataset.TarWriter(str(folder / f"s-{shard:06d}.tar"), mtime=0) as writer:
                for number in numbers.tolist():
                    image = b"not an image" if number in bad else image_bytes(number)
                    writer.write({"__key__": f"{number:06d}", "png": image, "cls": number % 10})
        build_index(str(folder))
        return Dataset.open(str(folder))

    return make


class FlippingStore:
    """A store over another whose ranged GETs go wrong: `damage(key, start, data)` returns what arrives."""

    def __init__(self, store: Store, damage: Callable[[str, int, bytes], bytes]) -> None:
        self._store, self._damage = store, damage
        self.reads: list[tuple[str, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.reads.append((key, start, length))
        return self._damage(key, start, self._store.get_range(key, start, length))


@pytest.fixture
def through() -> Callable[..., FlippingStore]:
    """through(dataset, damage): puts a FlippingStore between a data set and its store; returns it."""

    def put(
        dataset: Dataset, damage: Callable[[str, int, bytes], bytes] = lambda k, s, d: d
    ) -> FlippingStore:
        store = FlippingStore(dataset.store, damage)
        dataset.store = store
        return store

    return put
