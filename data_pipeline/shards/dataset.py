"""A data set: shards under a url, opened by their index.

The chain: `Dataset.open` reads index.json; samples are numbered through the shards in order; `spans` says for
a run of samples which bytes of which shard hold them, reading a shard's idx file when it is first needed and
proving it by its SHA-256. `build_index` makes the index of shards that somebody else wrote. The shards lie
beside the index, or where it says.

Does not read shards: that is `blocks`' work, and `verify`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.shards.build import build_index
from data_pipeline.shards.fetch import fetch_proven, pack_is_unfinished
from data_pipeline.shards.format import INDEX, SampleTable, Shard, Shards, parse_index
from data_pipeline.shards.labels import Labels
from data_pipeline.shards.places import ALL_TARS
from data_pipeline.storage import Store, open_store

__all__ = ["BadDataset", "Dataset", "Shard", "Span", "build_index"]

TABLE_CACHE_BYTES = 64 << 20  # 4 million samples at 16 bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive samples of one shard: `first` is the number of the first one in the data set.

    offsets int64[n] and lengths int64[n] in bytes within the object `key`, crcs uint32[n] (CRC32C of each
    span).
    """

    shard: int
    key: str
    first: int
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    crcs: npt.NDArray[np.uint32]


class Dataset:
    """The samples under a url, numbered 0..samples-1. Safe to use from several threads.

    `store` is where the shards lie, `index_store` where the index does; mostly they are the same.
    """

    def __init__(self, store: Store, index: dict[str, Any], shards: Shards, labels: Labels) -> None:
        base = index.get("base")
        self.index_store = store
        self.store = open_store(base, patience_s=store.patience_s) if base else store
        self.where: dict[str, Any] = {key: index[key] for key in ("patterns", "base") if key in index}
        self.patterns: list[str] = index.get("patterns", [ALL_TARS])
        self.classes_given: bool = index["classes_given"]
        self.shards = shards
        self.labels = labels
        self.samples: int = index["samples"]
        self.bytes: int = index["bytes"]
        self.digest: str = index["digest"]
        self.max_label: int = index["max_label"]
        self.labels_per_sample: int = index["labels_per_sample"]
        self.image_exts: list[str] = index["image_exts"]
        self.unsound: list[int] | None = index.get("unsound")
        self._tables: OrderedDict[int, SampleTable] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str) -> Dataset:
        """The data set at `url`. Raises BadDataset when it has no usable index, or StoreError."""
        store = open_store(url)
        try:
            found = fetch_proven(store, INDEX, lambda data: parse_index(data, f"{store.url}/{INDEX}"))
        except NotFound:
            if pack_is_unfinished(store):
                raise BadDataset(
                    f"a pack was begun at {store.url} and did not end: run the same `mixer pack` again"
                ) from None
            raise BadDataset(
                f"there is no {INDEX} at {store.url}: correct the url, or run `mixer index {store.url}`"
            ) from None
        return cls(store, *found)

    @property
    def url(self) -> str:
        """Where the shards lie."""
        return self.store.url

    @property
    def index_url(self) -> str:
        """What `open` takes."""
        return self.index_store.url

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes in the order of their numbers, where they have names."""
        return None if self.labels.classes is None else list(self.labels.classes)

    @property
    def mean_bytes(self) -> float:
        """Bytes of a sample's span, on average."""
        return self.bytes / max(1, self.samples)

    def spans(self, first: int, count: int) -> list[Span]:
        """Where samples first..first+count-1 lie, one span per shard touched, in order. Raises IndexError."""
        if first < 0 or count < 0 or first + count > self.samples:
            raise IndexError(
                f"samples {first}..{first + count} were asked for; {self.url} has {self.samples}"
            )
        found, end = [], first + count
        while first < end:
            shard = self.shard_of(first)
            begin = self.first_of(shard)
            stop = min(end, self.first_of(shard + 1))
            part = slice(first - begin, stop - begin)
            table = self.table(shard)
            key = self.shards.names[shard]
            lengths = table.lengths[part].astype(np.int64)
            found.append(Span(shard, key, first, table.offsets[part], lengths, table.crcs[part]))
            first = stop
        return found

    def knows(self, first: int, count: int) -> bool:
        """Whether `spans` of these samples needs nothing from the store."""
        shards = range(self.shard_of(first), self.shard_of(first + max(count, 1) - 1) + 1)
        with self._lock:
            return all(shard in self._tables for shard in shards)

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample."""
        return int(np.searchsorted(self.shards.firsts, sample, side="right")) - 1

    def first_of(self, shard: int) -> int:
        """The number of a shard's first sample."""
        return int(self.shards.firsts[shard])

    def table(self, shard: int) -> SampleTable:
        """Where a shard's samples lie; fetched when first needed, the least used dropped when they grow."""
        with self._lock:
            if shard in self._tables:
                self._tables.move_to_end(shard)
                return self._tables[shard]
        table = self._fetch_table(self.shards[shard])
        with self._lock:
            if shard not in self._tables:
                self._tables[shard] = table
                self._cached_bytes += table.nbytes
            while self._cached_bytes > TABLE_CACHE_BYTES and len(self._tables) > 1:
                self._cached_bytes -= self._tables.popitem(last=False)[1].nbytes
        return table

    def _fetch_table(self, shard: Shard) -> SampleTable:
        store, name = self.index_store, shard.idx_name
        try:
            return fetch_proven(store, name, lambda data: SampleTable.from_bytes(data, shard))
        except NotFound:
            raise BadDataset(
                f"{store.url}/{name} is missing; run `mixer verify --fix-index {store.url}`"
            ) from None
