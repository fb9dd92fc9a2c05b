"""Everything a data set's index says, held against the bytes that are there.

The chain: for each shard (several at once) its size, its idx file, the CRC32C of the whole file and of every
sample, and, if asked, that every image decodes and every label is a class. Nothing stops at the first
problem: each is listed with shard, sample and byte. A shard that was cut off is one problem that says how
many samples it took along.

Does not repair. Reads every byte once, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import google_crc32c

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.shards.build import READERS, ByteTeller, Progress
from data_pipeline.shards.dataset import Dataset
from data_pipeline.shards.format import SampleTable, Shard
from data_pipeline.shards.labels import BadLabel
from data_pipeline.shards.scan import NAME
from data_pipeline.shards.tars import WINDOW_BYTES, ShardReader, SpanSource, members


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; sample is its number in the data set, offset its first byte in the shard."""

    shard: str
    what: str
    sample: int | None = None
    key: str | None = None
    offset: int | None = None

    def __str__(self) -> str:
        sample = "" if self.sample is None else f", sample {self.sample}"
        key = "" if self.key is None else f" ({self.key})"
        offset = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.shard}{sample}{key}{offset}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was read, and what is wrong with it."""

    url: str
    shards: int
    samples: int
    bytes: int
    decoded: bool
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok} | asdict(self)


def verify(url: str, progress: Progress | None = None, *, decode: bool = True) -> Report:
    """Reads every shard under `url` and holds it against the index. `progress` is told (bytes read, in all).

    Raises BadDataset when there is no usable index, StoreError when the store cannot be read.
    """
    dataset = Dataset.open(url)
    tell = ByteTeller(progress, sum(shard.size for shard in dataset.shards))
    checks = [_ShardCheck(dataset, number, decode, tell) for number in range(len(dataset.shards))]
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda check: list(check.problems()), checks))
    listed = {shard.name for shard in dataset.shards}
    extra = [
        Problem(info.key, "is there, but the index does not name it; index again, or remove it")
        for info in dataset.store.list()
        if "/" not in info.key and info.key.endswith(".tar") and info.key not in listed
    ]
    read = sum(check.read for check in checks)
    problems = [problem for some in found for problem in some] + extra
    return Report(dataset.url, len(checks), sum(check.samples for check in checks), read, decode, problems)


class _ShardCheck:
    """One shard. `samples` and `read` (bytes) count what was looked at."""

    def __init__(self, dataset: Dataset, number: int, decode: bool, tell: ByteTeller) -> None:
        self.dataset = dataset
        self.shard: Shard = dataset.shards[number]
        self.number = number
        self.decode = decode
        self.samples = 0
        self.read = 0
        self._tell = tell

    def problems(self) -> Iterator[Problem]:
        shard = self.shard
        info = self.dataset.store.head(shard.name)
        if info is None:
            yield Problem(shard.name, f"is missing, and with it {shard.samples} samples")
            return
        if info.size != shard.size:
            yield Problem(shard.name, f"has {info.size} bytes; the index says {shard.size}")
        reader = ShardReader(self.dataset.store, shard.name, info.size, self._count)
        try:
            table = self.dataset.table(self.number)
        except (BadDataset, NotFound) as error:
            yield Problem(shard.idx_name, str(error))
        else:
            yield from self._samples(reader, table)
        while reader.position < reader.size:
            reader.read(WINDOW_BYTES)
        if info.size == shard.size and reader.crc != shard.crc32c:
            yield Problem(shard.name, f"has CRC32C {reader.crc:08x}; the index says {shard.crc32c:08x}")

    def _count(self, count: int) -> None:
        self.read += count
        self._tell.add(count)

    def _samples(self, reader: ShardReader, table: SampleTable) -> Iterator[Problem]:
        for row in range(len(table)):
            start, length = int(table.offsets[row]), int(table.lengths[row])
            if start + length > reader.size:
                gone = len(table) - row
                yield self._problem(
                    row, start, None, f"lies past the end at {reader.size}; {gone} samples are lost"
                )
                return
            reader.read(start - reader.position)
            span = reader.read(length)
            self.samples += 1
            crc = int(google_crc32c.value(span))
            if crc != table.crcs[row]:
                says = f"has CRC32C {crc:08x}; the index says {int(table.crcs[row]):08x}"
                yield self._problem(row, start, _key(span), says)
            elif self.decode:
                why = self._why_unusable(span)
                if why:
                    yield self._problem(row, start, _key(span), why)

    def _problem(self, row: int, start: int, key: str | None, what: str) -> Problem:
        return Problem(self.shard.name, what, self.dataset.first_of(self.number) + row, key, start)

    def _why_unusable(self, span: bytes) -> str:
        """Why the sample in a proven span cannot be trained on; empty where it can."""
        from data_pipeline.decode import Undecodable, decode

        images = labels = 0
        try:
            for member in members(SpanSource(span, self.shard.name), whole=False):
                match = NAME.match(member.name)
                ext = match[2].lower() if match else ""
                if ext == self.dataset.labels.rule.ext:
                    self.dataset.labels.numbers(member.data)
                if ext in self.dataset.image_exts:
                    decode(member.data)
                images += ext in self.dataset.image_exts
                labels += ext == self.dataset.labels.rule.ext
        except (BadDataset, BadLabel, Undecodable) as error:
            return str(error)
        return (
            ""
            if (images, labels) == (1, 1)
            else f"holds {images} images and {labels} labels; one of each is needed"
        )


def _key(span: bytes) -> str | None:
    """The key of the sample, where its first header can still be read."""
    try:
        match = NAME.match(next(members(SpanSource(span, ""), whole=False)).name)
    except (BadDataset, StopIteration):
        return None
    return match[1] if match else None
