"""One shard, read through: its samples, where they lie, and whether they can be used.

The chain: the tar's members are grouped into samples as webdataset groups them (the name up to the first dot
is the key, the rest, in lower case, the extension), and each sample's offset, length and CRC32C are kept.

What would later cost samples is refused here, with shard, key and byte: members of a sample that do not
follow one another, keys that come twice, samples without exactly one image and one label, links. Names that
webdataset skips (no extension, `__meta__`) are skipped and counted. Images are not decoded: `verify` and
`pack` do that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import google_crc32c
import numpy as np

from data_pipeline.errors import BadDataset
from data_pipeline.shards.format import IMAGE_EXTS, MAX_SPAN_BYTES, Contents, SampleTable, Shard
from data_pipeline.shards.labels import BadLabel, LabelRule
from data_pipeline.shards.tars import LINKS, REGULAR, SPARSE, Member, ShardReader, members
from data_pipeline.storage.types import ObjectInfo, Store

NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's rule: key, extension
META = re.compile(r"__[^/]*__($|/)")


@dataclass
class ScannedShard:
    """A shard's facts for the index, its table, and what its samples are made of."""

    shard: Shard
    table: SampleTable
    idx: bytes
    contents: Contents

    def with_etag(self, etag: str) -> ScannedShard:
        """The same, for the copy of the shard that has this ETag."""
        return replace(self, shard=replace(self.shard, etag=etag))


@dataclass
class _Sample:
    """A sample while its members are read. `gap` holds skipped members until one of its own follows them."""

    key: str
    start: int
    length: int = 0
    crc: int = 0
    labels: int = 0
    exts: list[str] = field(default_factory=list)
    gap: bytes = b""

    def add(self, ext: str, member: Member) -> None:
        raw = self.gap + member.raw
        self.exts.append(ext)
        self.crc = google_crc32c.extend(self.crc, raw)
        self.length += len(raw)
        self.gap = b""


def scan_shard(
    store: Store,
    info: ObjectInfo,
    rule: LabelRule = LabelRule(),  # noqa: B008  (frozen)
    on_bytes: Callable[[int], None] = lambda n: None,
) -> ScannedShard:
    """Reads one shard through. Raises BadDataset."""
    reader = ShardReader(store, info.key, info.size, on_bytes)
    scan = _Scan(reader.where, rule)
    samples = list(scan.samples(members(reader)))
    table = SampleTable(
        np.array([sample.start for sample in samples], np.int64),
        np.array([sample.length for sample in samples], np.int64),
        np.array([sample.crc for sample in samples], np.uint32),
    )
    facts: dict[str, Any] = {"size": info.size, "crc32c": reader.crc, "label": str(rule)}
    idx = table.to_bytes(facts | {"contents": scan.contents.to_json()})
    sha256 = hashlib.sha256(idx).hexdigest()
    shard = Shard(info.key, info.size, len(samples), info.etag, reader.crc, sha256)
    return ScannedShard(shard, table, idx, scan.contents)


class _Scan:
    """The samples of one shard, grouped and checked."""

    def __init__(self, where: str, rule: LabelRule) -> None:
        self.where = where
        self.rule = rule
        self.contents = Contents()
        self._seen: dict[str, frozenset[str]] = {}

    def samples(self, entries: Iterator[Member]) -> Iterator[_Sample]:
        current: _Sample | None = None
        for member in entries:
            named = self._key_and_ext(member)
            if named is None:
                self.contents.skipped += 1
                if current:
                    current.gap += member.raw
                continue
            key, ext = named
            if current is None or key != current.key:
                if current:
                    yield self._finished(current)
                self._check_new(key, ext, member)
                current = _Sample(key, member.start)
            self._add(current, ext, member)
        if current:
            yield self._finished(current)

    def _key_and_ext(self, member: Member) -> tuple[str, str] | None:
        match = None if META.match(member.name) else NAME.match(member.name)
        if match is None or member.name.endswith("/"):
            return None
        if member.kind in LINKS + SPARSE:
            kind = "a sparse file" if member.kind == SPARSE else "a link"
            raise self._bad(member.name, member.start, f"the member is {kind}, which readers of shards skip")
        return (match[1], match[2].lower()) if member.kind in REGULAR else None

    def _check_new(self, key: str, ext: str, member: Member) -> None:
        if ext in self._seen.get(key, ()):
            raise self._bad(key, member.start, "the key comes twice in this shard; keys must be unique")
        if key in self._seen:
            raise self._bad(
                key, member.start, "the members of a sample do not follow one another; sort the shard"
            )

    def _add(self, sample: _Sample, ext: str, member: Member) -> None:
        if ext in sample.exts:
            raise self._bad(
                sample.key, member.start, f"two members with the extension {ext!r}; keys must be unique"
            )
        if ext == self.rule.ext:
            sample.labels = self._note_labels(sample.key, member)
        sample.add(ext, member)

    def _note_labels(self, key: str, member: Member) -> int:
        """How many labels the member holds."""
        try:
            labels = self.rule.raw(member.data)
        except BadLabel as error:
            raise self._bad(key, member.start, str(error)) from None
        for label in labels:
            if isinstance(label, str):
                self.contents.names.add(label)
            else:
                self.contents.max_label = max(self.contents.max_label, label)
        if self.contents.names and self.contents.max_label >= 0:
            some = f"numbers (up to {self.contents.max_label}) and names (as {min(self.contents.names)!r})"
            raise self._bad(
                key, member.start, f"labels are {some} by now; they must be all one or all the other"
            )
        self.contents.labels_per_sample = max(self.contents.labels_per_sample, len(labels))
        return len(labels)

    def _finished(self, sample: _Sample) -> _Sample:
        images = [ext for ext in sample.exts if ext in IMAGE_EXTS]
        have = f"its members are {', '.join(sample.exts)}"
        if len(images) != 1:
            wanted = f"one of {', '.join(IMAGE_EXTS)}"
            raise self._bad(
                sample.key, sample.start, f"a sample with {len(images)} images; {have}; {wanted} is needed"
            )
        if not sample.labels:
            raise self._bad(
                sample.key, sample.start, f"a sample without label; {have}; {self.rule.ext} is needed"
            )
        if sample.length > MAX_SPAN_BYTES:
            raise self._bad(
                sample.key, sample.start, f"a sample of {sample.length} bytes; {MAX_SPAN_BYTES} are allowed"
            )
        self.contents.image_exts.update(images)
        self._seen[sample.key] = frozenset(sample.exts)
        return sample

    def _bad(self, key: str, start: int, what: str) -> BadDataset:
        return BadDataset(f"{self.where}, sample {key!r} at byte {start}: {what}")
