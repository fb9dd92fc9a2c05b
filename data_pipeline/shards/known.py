"""What an earlier indexing left, and how far it may be believed.

The root index vouches for the idx file that it names, as long as the shard has its size and ETag and the rule is
the same. An idx file that it does not name (the indexing was killed before it came to the root) is believed
when it is whole and newer than the shard, has its size and rule, and the first and the last sample have their
CRC32C. All else is read again.

What lies in the way and is not ours (an index.json of another library, a foreign .idx) is never written over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import google_crc32c

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.shards.format import (
    IDX,
    INDEX,
    Contents,
    SampleTable,
    Shard,
    Shards,
    idx_facts,
    is_idx,
    parse_index,
)
from data_pipeline.shards.labels import LabelRule, Labels
from data_pipeline.storage import ObjectInfo, Store


@dataclass(frozen=True)
class Entry:
    """A shard as the root sums it up; `read`: it was read for that now."""

    shard: Shard
    contents: Contents
    span_bytes: int
    read: bool = False

    @classmethod
    def of_idx(cls, shard: Shard, data: bytes) -> Entry:
        """From an idx file. ValueError, KeyError or TypeError where it says too little."""
        facts = idx_facts(data)
        return cls(shard, Contents.from_json(facts["contents"]), int(facts["bytes"]))


@dataclass(frozen=True)
class OldIndex:
    """A root index that was there."""

    facts: dict[str, Any]
    shards: Shards
    labels: Labels

    @property
    def given_classes(self) -> list[str] | None:
        """The list of classes that it was made with, if it was."""
        return list(self.labels.classes or ()) if self.facts["classes_given"] else None


def old_index(store: Store, base: str | None) -> OldIndex | None:
    """The index at `store` for shards at `base` (None: beside it), where there is a sound one.

    BadDataset for one that is somebody else's, or that of shards elsewhere: it must not be written over.
    """
    try:
        data = store.get(INDEX)
    except NotFound:
        return None
    where = f"{store.url}/{INDEX}"
    try:
        facts = json.loads(data)
    except ValueError:
        return None
    if not isinstance(facts, dict) or not {"digest", "shards"} <= facts.keys():
        raise BadDataset(f"{where} is not ours and would be written over; put the index elsewhere: --out URL")
    if facts.get("base") != base:
        raise BadDataset(
            f"{where} is the index of the shards at {facts.get('base') or store.url}; put this one elsewhere "
            "(--out URL), or remove that one first"
        )
    try:
        return OldIndex(*parse_index(data, where))
    except BadDataset:
        return None


class Known:
    """Entries of shards that need not be read again. `out` holds the index, `base` the shards."""

    def __init__(
        self, out: Store, base: Store, prefixes: Iterable[str], rule: LabelRule, old: OldIndex | None
    ) -> None:
        self._out, self._base, self._rule = out, base, rule
        same = old is not None and old.labels.rule == rule
        self._old = {shard.name: shard for shard in old.shards} if old and same else {}
        self._ours = set(old.shards.names) if old else set()
        self._written = {
            info.key: info.modified
            for prefix in prefixes
            for info in out.list(prefix)
            if info.key.endswith(IDX)
        }

    def entry(self, info: ObjectInfo) -> Entry | None:
        """What is known of a shard; None: it must be read. BadDataset where a foreign file has the name of its idx file."""
        name = info.key + IDX
        if name not in self._written:
            return None
        try:
            data = self._out.get(name)
        except NotFound:
            return None
        try:
            return self._believed(info, data)
        except (ValueError, KeyError, TypeError, BadDataset):
            pass
        if info.key not in self._ours and not is_idx(data):
            raise BadDataset(
                f"{self._out.url}/{name} is not ours and would be written over; put the index elsewhere: --out URL"
            )
        return None

    def _believed(self, info: ObjectInfo, data: bytes) -> Entry | None:
        old, sha256 = self._old.get(info.key), hashlib.sha256(data).hexdigest()
        if old is None or not info.etag or sha256 != old.idx_sha256:
            return self._newer(info, data, sha256)
        return Entry.of_idx(old, data) if (old.size, old.etag) == (info.size, info.etag) else None

    def _newer(self, info: ObjectInfo, data: bytes, sha256: str) -> Entry | None:
        facts, written = idx_facts(data), self._written[info.key + IDX]
        if written <= info.modified or (facts["size"], facts["label"]) != (info.size, str(self._rule)):
            return None
        shard = Shard(info.key, info.size, facts["samples"], info.etag, facts["crc32c"], sha256)
        table = SampleTable.from_bytes(data, shard)
        ends = {0, len(table) - 1} if len(table) else set()
        if table.crc32c != facts["table_crc32c"]:
            return None
        return Entry.of_idx(shard, data) if all(self._proven(shard, table, row) for row in ends) else None

    def _proven(self, shard: Shard, table: SampleTable, row: int) -> bool:
        span = self._base.get_range(shard.name, int(table.offsets[row]), int(table.lengths[row]))
        return bool(google_crc32c.value(span) == table.crcs[row])
