"""Bytes of a data set -> proven samples.

A run of consecutive samples -> one ranged GET per shard it touches -> every sample's CRC32C compared with
the index -> tar bytes expanded by webdataset -> encoded images and labels. Bytes that arrive wrong are
fetched again, in the end refused by name: what webdataset would lose without a word (a damaged header, a
cut tail) is found before it looks. Keeps nothing; `reading.py` decides what stays in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import google_crc32c
import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_iterator

from data_pipeline.errors import BadDataset
from data_pipeline.shards.dataset import Dataset, Span
from data_pipeline.shards.labels import BadLabel
from data_pipeline.storage.types import FETCH_AGAIN_S

LARGEST_GET = 16_000_000  # bytes; longer runs of samples are read in several GETs


class CorruptBlock(BadDataset):
    """Bytes differ from the index however often they are fetched; names shard, sample and offset."""


class Sample(NamedTuple):
    """One sample as it is stored: the encoded image and its classes, at least one."""

    image: bytes
    labels: tuple[int, ...]


class BlockFetcher:
    """Reads runs of samples and counts what that took. Safe to use from several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._image_exts = frozenset(dataset.image_exts)
        self._lock = threading.Lock()
        self.bytes, self.gets, self.retries = 0, 0, 0

    def fetch(self, first: int, count: int) -> list[Sample]:
        """Samples first..first+count-1. CorruptBlock, or StoreError when the store fails."""
        spans = self._dataset.spans(first, count)
        return [sample for span in spans for part in _parts(span) for sample in self._samples(part)]

    def _samples(self, span: Span) -> list[Sample]:
        data = self._proven_bytes(span)
        groups = _expand(data, span.key)
        if len(groups) != len(span.offsets):
            raise CorruptBlock(
                f"{self._where(span, 0)}: {len(span.offsets)} samples stand in the index, webdataset finds "
                f"{len(groups)}; run `mixer index` again"
            )
        return [self._sample(span, j, fields) for j, fields in enumerate(groups)]

    def _sample(self, span: Span, j: int, fields: dict[str, bytes]) -> Sample:
        images = [name for name in fields if name in self._image_exts]
        labels = self._dataset.labels
        label = fields.get(labels.rule.ext)
        if len(images) != 1 or label is None:
            raise CorruptBlock(
                f"{self._where(span, j)}: its members are {', '.join(fields)}; one image and one label "
                f"({labels.rule.ext}) are needed; run `mixer index` again"
            )
        try:
            return Sample(fields[images[0]], labels.numbers(label))
        except BadLabel as error:
            raise CorruptBlock(f"{self._where(span, j)}: {error}; run `mixer index` again") from None

    def _proven_bytes(self, span: Span) -> bytes:
        """The bytes from the first to the last sample of a span, each sample equal to its CRC32C."""
        start = int(span.offsets[0])
        length = int(span.offsets[-1] + span.lengths[-1]) - start
        problem, pauses = "", (None, *FETCH_AGAIN_S)
        for pause in pauses:
            time.sleep(pause or 0.0)
            data = self._dataset.store.get_range(span.key, start, length)
            with self._lock:
                self.gets, self.bytes = self.gets + 1, self.bytes + len(data)
                self.retries += pause is not None
            problem = self._problem(span, data, length)
            if not problem:
                return data
        raise CorruptBlock(
            f"{problem}, {len(pauses)} times over; the shard differs from its index: run `mixer verify`"
        )

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


def _expand(data: bytes, key: str) -> list[dict[str, bytes]]:
    """Tar bytes -> the members of each sample by extension, in order."""
    files = (file | {"__url__": key} for file in tar_file_iterator(BytesIO(data)))
    return [
        {name: value for name, value in sample.items() if not name.startswith("__")}
        for sample in group_by_keys(files)
    ]
