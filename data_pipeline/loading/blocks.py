"""Bytes of a data set -> proven samples.

A run of consecutive samples -> one ranged GET per shard it touches, or the cache -> every sample's CRC32C compared with
the index -> members of each sample, as views of the block -> encoded images and labels. Bytes that arrive wrong
are fetched again, in the end refused by name: what tar readers lose without a word (a damaged header, a cut tail)
is found before anything is parsed. Keeps nothing; `reading.py` decides what stays in memory.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import google_crc32c
import numpy as np

from data_pipeline.errors import BadDataset, StoreError
from data_pipeline.loading.cache import BlockCache
from data_pipeline.loading.expand import expand
from data_pipeline.loading.hedging import HedgedGets
from data_pipeline.shards.dataset import Dataset, Span
from data_pipeline.shards.labels import BadLabel
from data_pipeline.storage.types import FETCH_AGAIN_S

LARGEST_GET = 16_000_000  # bytes; longer runs of samples are read in several GETs


class CorruptBlock(BadDataset):
    """Bytes differ from the index however often they are fetched; names shard, sample and offset."""


class Sample(NamedTuple):
    """One sample as it is stored: the encoded image, a view that keeps its block in memory, and its classes, at least one."""

    image: memoryview
    labels: tuple[int, ...]


class Asked(NamedTuple):
    """Bytes start..start+length-1 of an object that the store was asked for at `since` (time.monotonic)."""

    url: str
    start: int
    length: int
    since: float


class BlockFetcher:
    """Reads runs of samples and counts what that took. Safe to use from several threads.

    `bytes`, `gets`: of the store; `retries`: GETs repeated because of their bytes.
    """

    def __init__(self, dataset: Dataset, cache: BlockCache | None = None) -> None:
        self._dataset, self._cache = dataset, cache
        self._image_exts = frozenset(dataset.image_exts)
        remote = dataset.store.remote or dataset.index_store.remote
        self._hedged = HedgedGets(self._plain_get) if remote else None
        self._lock = threading.Lock()
        self._asked: dict[int, Asked] = {}
        self.bytes, self.gets, self.retries = 0, 0, 0

    def fetch(self, first: int, count: int) -> list[Sample]:
        """Samples first..first+count-1. CorruptBlock, or StoreError when the store fails."""
        spans = self._spans(first, count)
        return [sample for span in spans for part in _parts(span) for sample in self._samples(part)]

    def _spans(self, first: int, count: int) -> list[Span]:
        """Where the samples lie; the store may have to be asked for that, too."""
        dataset = self._dataset
        if self._hedged is None or dataset.knows(first, count):
            return dataset.spans(first, count)
        with self._asking(f"{dataset.index_url}/{dataset.shards.names[dataset.shard_of(first)]}.idx", 0, 0):
            return self._hedged.call(dataset.spans, first, count)

    def oldest(self) -> Asked | None:
        """Of what the store has been asked for and has not delivered, what was asked for first."""
        with self._lock:
            return min(self._asked.values(), key=lambda asked: asked.since, default=None)

    def stats(self) -> dict[str, float]:
        """What reading took so far: of the store, of second tries, of the cache."""
        counts: dict[str, float] = {"bytes": self.bytes, "gets": self.gets, "retries": self.retries}
        if self._hedged:
            counts |= {"hedges": self._hedged.hedges, "hedges_won": self._hedged.won}
        if cache := self._cache:
            counts |= {"cache_hits": cache.hits, "cache_misses": cache.misses, "cache_bytes": cache.hit_bytes}
            counts["cache_failures"] = cache.failures
        return counts

    def close(self) -> None:
        """Whoever waits for the store gets an error. Harmless when repeated."""
        if self._hedged:
            self._hedged.close()

    def _samples(self, span: Span) -> list[Sample]:
        data = memoryview(self._proven_bytes(span))
        begins = span.offsets - span.offsets[0]
        bounds = zip(begins.tolist(), (begins + span.lengths).tolist(), strict=True)
        return [self._sample(span, j, expand(data, *bound)) for j, bound in enumerate(bounds)]

    def _sample(self, span: Span, j: int, fields: dict[str, memoryview]) -> Sample:
        images = [name for name in fields if name in self._image_exts]
        labels = self._dataset.labels
        label = fields.get(labels.rule.ext)
        if len(images) != 1 or label is None:
            raise CorruptBlock(
                f"{self._where(span, j)}: its members are {', '.join(fields)}; one image and one label "
                f"({labels.rule.ext}) are needed; run `mixer index` again"
            )
        try:
            return Sample(fields[images[0]], labels.numbers(bytes(label)))
        except BadLabel as error:
            raise CorruptBlock(f"{self._where(span, j)}: {error}; run `mixer index` again") from None

    def _proven_bytes(self, span: Span) -> bytes:
        """The bytes from the first to the last sample of a span, each sample equal to its CRC32C."""
        start = int(span.offsets[0])
        length = int(span.offsets[-1] + span.lengths[-1]) - start
        name = (self._dataset.digest, span.key, start, length)
        kept = self._cache.get(*name) if self._cache else None
        if kept is not None and self._cache:
            if not self._problem(span, kept, length):
                return kept
            self._cache.drop(*name)
        data = self._from_store(span, start, length)
        if self._cache:
            self._cache.put(data, *name)
        return data

    def _from_store(self, span: Span, start: int, length: int) -> bytes:
        problem, pauses, began = "", (None, *FETCH_AGAIN_S), time.monotonic()
        for pause in pauses:
            if problem and time.monotonic() - began > self._dataset.store.patience_s:
                break
            if pause:
                time.sleep(pause * random.uniform(0.75, 1.25))
            data = self._get(span, start, length)
            with self._lock:
                self.gets, self.bytes = self.gets + 1, self.bytes + len(data)
                self.retries += pause is not None
            problem = self._problem(span, data, length)
            if not problem:
                return data
        raise CorruptBlock(
            f"{problem}, up to {len(pauses)} times over; {self._why_changed(span)}: run `mixer verify`"
        )

    def _get(self, span: Span, start: int, length: int) -> bytes:
        get = self._hedged.get if self._hedged and self._dataset.store.remote else self._plain_get
        with self._asking(f"{self._dataset.url}/{span.key}", start, length):
            return get(span.key, start, length)

    @contextmanager
    def _asking(self, url: str, start: int, length: int) -> Iterator[None]:
        asked = Asked(url, start, length, time.monotonic())
        with self._lock:
            self._asked[id(asked)] = asked
        try:
            yield
        finally:
            with self._lock:
                del self._asked[id(asked)]

    def _plain_get(self, key: str, start: int, length: int) -> bytes:
        return self._dataset.store.get_range(key, start, length)

    def _why_changed(self, span: Span) -> str:
        """What the store says of a shard whose bytes are not those of the index."""
        shard = self._dataset.shards[span.shard]
        try:
            info = self._dataset.store.head(span.key)
        except StoreError:
            return "the store does not say why"
        if info is None:
            return "the shard is gone"
        if info.size != shard.size:
            return f"the shard was replaced: it has {info.size} bytes, the index says {shard.size}"
        if info.etag != shard.etag:
            return f"the shard was replaced or copied: its ETag is {info.etag}, the index says {shard.etag}"
        return "the shard differs from its index"

    def _problem(self, span: Span, data: bytes, length: int) -> str:
        """What is wrong with the bytes of a span; empty when nothing is."""
        if len(data) != length:
            return f"{self._where(span, 0)}: {len(data)} bytes instead of {length}"
        view = np.frombuffer(data, np.uint8)
        begins = span.offsets - span.offsets[0]
        for j, (begin, end) in enumerate(zip(begins.tolist(), (begins + span.lengths).tolist(), strict=True)):
            found = google_crc32c.value(view[begin:end])
            if found != span.crcs[j]:
                return f"{self._where(span, j)}: CRC32C {found:08x} instead of {int(span.crcs[j]):08x}"
        return ""

    def _where(self, span: Span, j: int) -> str:
        url = f"{self._dataset.url}/{span.key}"
        return f"{url}, sample {span.first + j} at byte {int(span.offsets[j])}"


def _parts(span: Span) -> Iterator[Span]:
    """A span cut between samples into parts of at most LARGEST_GET bytes (or one sample)."""
    ends = span.offsets + span.lengths
    begin = 0
    while begin < len(ends):
        fits = int(np.searchsorted(ends, span.offsets[begin] + LARGEST_GET, side="right"))
        end = max(begin + 1, fits)
        part = slice(begin, end)
        yield Span(
            span.shard, span.key, span.first + begin, span.offsets[part], span.lengths[part], span.crcs[part]
        )
        begin = end
