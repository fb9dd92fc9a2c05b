"""The validation set, every sample exactly once over all ranks, in as many batches of one shape on each.

Rank r of W reads the r-th of W balanced runs of samples, in stored order -> one run of bytes per chunk ->
decoded, resized, centre cut out -> batches of m. What a batch lacks is filled by repeating one of its
samples, marked as not real: shapes and collectives stay equal, and whoever counts only what is real counts
each sample once. A sample that does not decode is left out the same way, named, and counted. No random
numbers here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from data_pipeline.loading.bad_samples import BadSample, BadSamples
from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.loading.cache import BlockCache
from data_pipeline.loading.targets import empty_labels, put_labels
from data_pipeline.loading.waiting import Tell, wait_for
from data_pipeline.pixels.augment import Recipe
from data_pipeline.pixels.decode import Undecodable, decode
from data_pipeline.shards.dataset import Dataset

CHUNK_BYTES = 4_000_000
AHEAD = 2  # batches made ahead


class EvalBatch(NamedTuple):
    """images uint8 [m, H, W, 3], labels int64 [m] or [m, L] (targets.py), real bool [m]: False for what only fills the batch."""

    images: torch.Tensor
    labels: torch.Tensor
    real: torch.Tensor


class EvalLoader:
    """Iterable over a rank's batches; every iteration starts afresh. `len` is the same on every rank.

    `on_late` is told what a late batch waits for (waiting.py).

    `on_bad` is told {"item", "id", "substitute", "why"} (item and substitute -1) for each sample left out.
    More of them than `bad_share` of the set raise TooManyBadSamples.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        *,
        rank: int,
        world: int,
        micro_batch: int,
        threads: int = 2,
        cache: BlockCache | None = None,
        bad_share: float = 0.001,
        on_bad: Callable[[dict[str, Any]], None] | None = None,
        on_late: Tell | None = None,
    ) -> None:
        if not 0 <= rank < world or micro_batch < 1:
            raise ValueError(
                f"rank {rank} of {world}, micro-batch {micro_batch}; give 0 <= rank < world, at least 1"
            )
        self._dataset, self._recipe, self._threads = dataset, recipe, threads
        self._micro_batch, self._share, self._on_bad = micro_batch, bad_share, on_bad
        self._on_late = on_late
        self._first, self._stop = (dataset.samples * r // world for r in (rank, rank + 1))
        self._batches = math.ceil(math.ceil(dataset.samples / world) / micro_batch)
        self._cache = cache

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[EvalBatch]:
        bad = BadSamples(self._share, self._dataset.samples, self._dataset.url, self._on_bad)
        making: deque[tuple[EvalBatch, list[Future[list[BadSample]]]]] = deque()
        fetcher = BlockFetcher(self._dataset, self._cache)
        pool = ThreadPoolExecutor(self._threads, "mixer-evaluate")
        try:
            for number in range(self._batches + AHEAD):
                if number < self._batches:
                    making.append(self._begin(number, pool, fetcher))
                if number >= AHEAD:
                    batch, work = making.popleft()
                    wait_for(work, fetcher, self._on_late)
                    bad.note([each for future in work for each in future.result()], self._dataset.samples)
                    _fill(batch)
                    yield batch
        finally:
            fetcher.close()  # who leaves in the middle does not wait for the store
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(
        self, number: int, pool: ThreadPoolExecutor, fetcher: BlockFetcher
    ) -> tuple[EvalBatch, list[Future[list[BadSample]]]]:
        m, size = self._micro_batch, self._recipe.image_size
        batch = EvalBatch(
            torch.zeros((m, size, size, 3), dtype=torch.uint8),
            empty_labels(m, self._dataset.labels_per_sample),
            torch.zeros(m, dtype=torch.bool),
        )
        first = min(self._stop, self._first + number * m)
        count = min(self._stop, first + m) - first
        chunk = max(1, min(-(-m // self._threads), int(CHUNK_BYTES / self._dataset.mean_bytes)))
        work = [
            pool.submit(self._make, fetcher, batch, begin, first + begin, min(chunk, count - begin))
            for begin in range(0, count, chunk)
        ]
        return batch, work

    def _make(
        self, fetcher: BlockFetcher, batch: EvalBatch, place: int, first: int, count: int
    ) -> list[BadSample]:
        """Samples first..first+count-1 into places `place` and on of a batch, in a thread."""
        images, labels, real = batch.images.numpy(), batch.labels.numpy(), batch.real.numpy()
        bad = []
        for j, sample in enumerate(fetcher.fetch(first, count)):
            try:
                self._recipe.evaluate(decode(sample.image), images[place + j])
            except Undecodable as error:
                bad.append(BadSample(-1, first + j, -1, str(error)))
                continue
            put_labels(labels, place + j, sample.labels)
            real[place + j] = True
        return bad


def _fill(batch: EvalBatch) -> None:
    """Repeats the first real sample where there is none; without any all stays black, with labels that every loss takes."""
    if not batch.real.any():
        batch.labels.zero_()
    else:
        source = int(batch.real.nonzero()[0, 0])
        batch.images[~batch.real] = batch.images[source].clone()
        batch.labels[~batch.real] = batch.labels[source].clone()
