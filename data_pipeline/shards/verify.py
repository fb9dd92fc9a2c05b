"""Everything a data set's index says, held against the bytes that are there.

The chain: for each shard (several at once) its size, its idx file, the CRC32C of the whole file and of every
sample, and, if asked, that every image decodes and every label is a class. Nothing stops at the first
problem: each is listed with shard, sample and byte. A shard that was cut off is one problem that says how
many samples it took along. Then what lies there and is in no index: shards by the patterns it was made with,
and idx files without shard.

Does not repair; `repair` does. Reads every byte once, in order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import google_crc32c

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.shards.build import THREADS, Progress, Teller
from data_pipeline.shards.dataset import Dataset
from data_pipeline.shards.format import IDX, SampleTable, Shard
from data_pipeline.shards.labels import BadLabel
from data_pipeline.shards.places import Place
from data_pipeline.shards.scan import NAME, key_of_span
from data_pipeline.shards.tars import WINDOW_BYTES, ShardReader, SpanSource, members
from data_pipeline.shards.threads import in_order

Kind = Literal["missing", "differs", "unusable", "extra", "orphan"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; sample is its number in the data set, offset its first byte in the shard.

    kind: the shard is `missing`; it `differs` from the index; a sample is as indexed and yet `unusable`; a shard
    is `extra`; an idx file is an `orphan`.
    """

    shard: str
    what: str
    sample: int | None = None
    key: str | None = None
    offset: int | None = None
    kind: Kind = "differs"

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

    def shards_that(self, *kinds: Kind) -> set[str]:
        """Names of shards with such a problem."""
        return {problem.shard for problem in self.problems if problem.kind in kinds}

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok} | asdict(self)


def verify(
    url: str,
    progress: Progress | None = None,
    *,
    decode: bool = True,
    only: Collection[str] | None = None,
    threads: int = THREADS,
) -> Report:
    """Reads every shard under `url`, or those named in `only`, and holds it against the index.

    Raises BadDataset when there is no usable index, StoreError when the store cannot be read.
    """
    dataset = Dataset.open(url)
    names = dataset.shards.names
    numbers = [n for n in range(len(names)) if only is None or names[n] in only]
    tell = Teller(progress, sum(dataset.shards[n].size for n in numbers), len(numbers))
    problems, samples, read = list[Problem](), 0, 0
    for check in in_order(threads, lambda n: _ShardCheck(dataset, n, decode, tell).done(), numbers):
        problems += check.found
        samples, read = samples + check.samples, read + check.read
    if only is None:
        problems += _not_in_the_index(dataset)
    return Report(dataset.index_url, len(numbers), samples, read, decode, problems)


def _not_in_the_index(dataset: Dataset) -> Iterator[Problem]:
    """Shards that its patterns mean, and idx files in folders of its shards."""
    listed = set(dataset.shards.names)
    place = Place(dataset.store, tuple(dataset.patterns))
    extra = {info.key for info in place.present()} - listed
    for key in sorted(extra):
        yield Problem(
            key, "is there, but the index does not name it; index again, or remove it", kind="extra"
        )
    folders = {name.rpartition("/")[0] for name in listed}
    for prefix in sorted(place.prefixes()):
        for info in dataset.index_store.list(prefix):
            shard = info.key.removesuffix(IDX)
            if shard != info.key and shard not in listed | extra and shard.rpartition("/")[0] in folders:
                yield Problem(
                    info.key, "is an idx file of no shard of the index; it may be removed", kind="orphan"
                )


class _ShardCheck:
    """One shard. `samples` and `read` (bytes) count what was looked at; `found` is what is wrong."""

    def __init__(self, dataset: Dataset, number: int, decode: bool, tell: Teller) -> None:
        self.dataset = dataset
        self.shard: Shard = dataset.shards[number]
        self.number = number
        self.decode = decode
        self.samples = 0
        self.read = 0
        self.found: list[Problem] = []
        self._tell = tell

    def done(self) -> _ShardCheck:
        self.found = list(self._problems())
        self._tell.shard()
        return self

    def _problems(self) -> Iterator[Problem]:
        shard = self.shard
        info = self.dataset.store.head(shard.name)
        if info is None:
            yield Problem(shard.name, f"is missing, and with it {shard.samples} samples", kind="missing")
            return
        if info.size != shard.size:
            yield Problem(shard.name, f"has {info.size} bytes; the index says {shard.size}")
        reader = ShardReader(self.dataset.store, shard.name, info.size, self._count)
        try:
            table = self.dataset.table(self.number)
        except (BadDataset, NotFound) as error:
            yield Problem(shard.name, str(error))
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
                yield self._problem(row, start, key_of_span(span), says)
            elif self.decode:
                why = self._why_unusable(span)
                if why:
                    yield self._problem(row, start, key_of_span(span), why, "unusable")

    def _problem(self, row: int, start: int, key: str | None, what: str, kind: Kind = "differs") -> Problem:
        number = self.dataset.first_of(self.number) + row
        return Problem(self.shard.name, what, number, key, start, kind)

    def _why_unusable(self, span: bytes) -> str:
        """Why the sample in a proven span cannot be trained on; empty where it can."""
        from data_pipeline.pixels.decode import Undecodable, decode

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
