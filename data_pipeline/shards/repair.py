"""An index brought into line with the shards that are there.

What `verify` found -> the shards that differ are read again, those that are gone are dropped if that was
said, all others are taken over from their idx files -> idx files, then index.json. All of it or nothing: one
shard that cannot be used leaves the index as it was. Shards are never changed; bytes that are wrong in a
shard are from then on what the index says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.errors import BadDataset
from data_pipeline.shards.build import THREADS, Progress, Teller
from data_pipeline.shards.dataset import Dataset
from data_pipeline.shards.format import INDEX, Shard, dump_index
from data_pipeline.shards.known import Entry
from data_pipeline.shards.scan import ScannedShard, scan_shard
from data_pipeline.shards.sums import Sums
from data_pipeline.shards.threads import in_order


@dataclass(frozen=True)
class Fixed:
    """What was done to the index: shards read again and dropped, digest and number of samples before and after."""

    read_again: list[str]
    dropped: list[str]
    digests: tuple[str, str]
    samples: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fix_index(
    url: str,
    differ: Collection[str],
    drop: Collection[str] = (),
    progress: Progress | None = None,
    *,
    threads: int = THREADS,
) -> Fixed:
    """Rewrites the index at `url`: shards in `differ` from their bytes, without those in `drop`. Raises BadDataset, StoreError."""
    dataset = Dataset.open(url)
    again = [shard.name for shard in dataset.shards if shard.name in differ and shard.name not in drop]
    dropped = [name for name in dataset.shards.names if name in drop]
    repair = _Repair(dataset, set(again), Teller(progress, 0, len(dataset.shards) - len(dropped)))
    sums = Sums(dataset.labels.rule, dataset.classes if dataset.classes_given else None)
    kept = (shard for shard in dataset.shards if shard.name not in drop)
    for entry in in_order(threads, repair.entry, kept):
        sums.add(entry.shard, entry.contents, entry.span_bytes)
    index = sums.index(dataset.where)
    repair.write(index)
    return Fixed(again, dropped, (dataset.digest, index["digest"]), (dataset.samples, index["samples"]))


class _Repair:
    """Entries of shards, old or read again; what was read is written when all of it is there."""

    def __init__(self, dataset: Dataset, again: set[str], tell: Teller) -> None:
        self._dataset, self._again, self._tell = dataset, again, tell
        self._scanned: list[ScannedShard] = []  # 16 bytes a sample

    def entry(self, shard: Shard) -> Entry:
        try:
            return self._read(shard) if shard.name in self._again else self._taken_over(shard)
        finally:
            self._tell.shard()

    def write(self, index: dict[str, Any]) -> None:
        store = self._dataset.index_store
        for one in self._scanned:
            store.put(one.shard.idx_name, one.idx)
        store.put(INDEX, dump_index(index))

    def _read(self, shard: Shard) -> Entry:
        store, labels = self._dataset.store, self._dataset.labels
        info = store.head(shard.name)
        if info is None:
            raise BadDataset(f"{store.url}/{shard.name} is missing; bring it back, or add --drop-missing")
        scanned = scan_shard(
            store, info, labels.rule, classes=labels.classes if self._dataset.classes_given else None
        )
        self._scanned.append(scanned)
        return Entry(scanned.shard, scanned.contents, scanned.span_bytes, read=True)

    def _taken_over(self, shard: Shard) -> Entry:
        store = self._dataset.index_store
        data = store.get(shard.idx_name)
        if hashlib.sha256(data).hexdigest() != shard.idx_sha256:
            raise BadDataset(f"{store.url}/{shard.idx_name} was changed just now; verify again")
        return Entry.of_idx(shard, data)
