"""One shard, read through: its samples, where they lie, and whether they can be used.

The chain: the tar's members are grouped into samples as webdataset groups them (the name up to the first dot
is the key, the rest, in lower case, the extension), and each sample's offset, length and CRC32C are kept.

What would later cost samples is refused here, with shard, key and byte: members of a sample that do not
follow one another, keys that come twice, samples without exactly one image and one label, links, labels that
are none of the classes. Names that webdataset skips (no extension, `__meta__`) are skipped and counted.
Images are not decoded: `verify` and `pack` do that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np

from data_pipeline.errors import BadDataset
from data_pipeline.shards.format import IMAGE_EXTS, MAX_SPAN_BYTES, Contents, SampleTable, Shard
from data_pipeline.shards.headers import FOLDER, GLOBAL, REGULAR, SPARSE
from data_pipeline.shards.labels import BadLabel, LabelRule, Labels
from data_pipeline.shards.tars import Member, ShardReader, SpanSource, members
from data_pipeline.storage.types import ObjectInfo, Store

NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's rule: key, extension
PEEK_BYTES = 256 << 10
SCATTERED = "the members of a sample do not follow one another; write the shard again, sorted by name (tar --sort=name)"
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    SPARSE: "a sparse file",
    b"M": "the rest of a file from another volume",
}
META = re.compile(r"__[^/]*__($|/)")


class Incomplete(BadDataset):
    """A sample without an image or a label. `first`, `last`: it begins, or ends, its shard, so the rest may be in another."""

    def __init__(self, message: str, key: str, *, first: bool, last: bool) -> None:
        super().__init__(message)
        self.key, self.first, self.last = key, first, last


@dataclass
class ScannedShard:
    """A shard's facts for the index, its table, and what its samples are made of."""

    shard: Shard
    table: SampleTable
    idx: bytes
    contents: Contents

    @property
    def span_bytes(self) -> int:
        """Bytes of all its samples."""
        return int(self.table.lengths.sum(dtype=np.int64))


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
    classes: Sequence[str] | None = None,
) -> ScannedShard:
    """Reads one shard through; where `classes` are given every label must be one. Raises BadDataset."""
    reader = ShardReader(store, info.key, info.size, on_bytes)
    scan = _Scan(reader.where, Labels(rule, classes), check=classes is not None)
    samples = list(scan.samples(members(reader)))
    table = SampleTable(
        np.array([sample.start for sample in samples], np.int64),
        np.array([sample.length for sample in samples], np.uint32),
        np.array([sample.crc for sample in samples], np.uint32),
    )
    facts: dict[str, Any] = {"size": info.size, "crc32c": reader.crc, "samples": len(samples)}
    facts |= {"bytes": int(table.lengths.sum(dtype=np.int64)), "label": str(rule)}
    idx = table.to_bytes(facts | {"contents": scan.contents.to_json()})
    sha256 = hashlib.sha256(idx).hexdigest()
    shard = Shard(info.key, info.size, len(samples), info.etag, reader.crc, sha256)
    return ScannedShard(shard, table, idx, scan.contents)


def first_sample(store: Store, info: ObjectInfo) -> dict[str, bytes]:
    """The members of a shard's first sample by extension, in order; empty where it has none. Raises BadDataset.

    Also those that do not follow at once, if they are near: the scan says better what is wrong there.
    """
    reader = ShardReader(store, info.key, info.size, lambda n: None, window=min(info.size, PEEK_BYTES))
    scan, key, found = _Scan(reader.where, Labels(LabelRule())), None, dict[str, bytes]()
    for member in members(reader):
        named = scan.key_and_ext(member)
        key = key or (named and named[0])
        if named and named[0] == key:
            found.setdefault(named[1], member.data)
        elif named and reader.position > PEEK_BYTES:
            break
    return found


def first_key(store: Store, info: ObjectInfo) -> str | None:
    """The key of a shard's first sample. Raises BadDataset."""
    reader = ShardReader(store, info.key, info.size, lambda n: None, window=min(info.size, PEEK_BYTES))
    return next(filter(None, map(key_of, members(reader))), None)


def key_of_span(span: bytes) -> str | None:
    """The key of the sample in a span, where its first header can still be read."""
    try:
        return key_of(next(members(SpanSource(span, ""), whole=False)))
    except (BadDataset, StopIteration):
        return None


def key_of(member: Member) -> str | None:
    """The key of a member's sample; None for what webdataset skips."""
    match = None if META.match(member.name) else NAME.match(member.name)
    return match[1] if match else None


class _Scan:
    """The samples of one shard, grouped and checked; `check`: also whether labels are classes."""

    def __init__(self, where: str, labels: Labels, *, check: bool = False) -> None:
        self.where = where
        self.rule = labels.rule
        self.contents = Contents()
        self._labels = labels if check else None
        self._seen: dict[str, frozenset[str]] = {}

    def samples(self, entries: Iterator[Member]) -> Iterator[_Sample]:
        current: _Sample | None = None
        for member in entries:
            named = self.key_and_ext(member)
            if named is None:
                self.contents.skipped += member.kind not in (GLOBAL, FOLDER)
                if current:
                    current.gap += member.raw
                continue
            key, ext = named
            if current is None or key != current.key:
                if current:
                    yield self._finished(current, entries)
                self._check_new(key, ext, member)
                current = _Sample(key, member.start)
            self._add(current, ext, member)
        if current:
            yield self._finished(current, entries, last=True)

    def key_and_ext(self, member: Member) -> tuple[str, str] | None:
        match = None if META.match(member.name) else NAME.match(member.name)
        if match is None or member.name.endswith("/") or member.kind == FOLDER:
            return None
        if member.kind not in REGULAR:
            kind = KINDS.get(member.kind, f"of the kind {member.kind.decode('latin-1')!r}")
            raise self._bad(
                match[1], member.start, f"{member.name!r} is {kind}, which readers of shards skip"
            )
        return match[1], match[2].lower()

    def _check_new(self, key: str, ext: str, member: Member) -> None:
        if ext in self._seen.get(key, ()):
            raise self._bad(key, member.start, "the key comes twice in this shard; keys must be unique")
        if key in self._seen:
            raise self._bad(key, member.start, SCATTERED)

    def _refuse_scattered(self, key: str, following: Iterator[Member]) -> None:
        """BadDataset where members that an incomplete sample lacks come later in the shard."""
        found = None
        with suppress(BadDataset):
            starts = (member.start for member in following if key_of(member) == key)
            found = next(starts, None)
        if found is not None:
            raise self._bad(key, found, SCATTERED)

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
            if self._labels is not None:
                self._labels.of(labels)
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

    def _finished(self, sample: _Sample, following: Iterator[Member], *, last: bool = False) -> _Sample:
        images = [ext for ext in sample.exts if ext in IMAGE_EXTS]
        have, lacks = f"its members are {', '.join(sample.exts)}", ""
        if len(images) > 1:
            raise self._bad(
                sample.key, sample.start, f"a sample with {len(images)} images; {have}; one is needed"
            )
        if not images:
            lacks = f"a sample without image; {have}; one of {', '.join(IMAGE_EXTS)} is needed"
        elif not sample.labels:
            lacks = f"a sample without label; {have}; {self.rule.ext} is needed"
        if lacks:
            self._refuse_scattered(sample.key, following)
            message = str(self._bad(sample.key, sample.start, lacks))
            raise Incomplete(message, sample.key, first=not self._seen, last=last)
        if sample.length > MAX_SPAN_BYTES:
            raise self._bad(
                sample.key, sample.start, f"a sample of {sample.length} bytes; {MAX_SPAN_BYTES} are allowed"
            )
        self.contents.image_exts.update(images)
        self._seen[sample.key] = frozenset(sample.exts)
        return sample

    def _bad(self, key: str, start: int, what: str) -> BadDataset:
        return BadDataset(f"{self.where}, sample {key!r} at byte {start}: {what}")
