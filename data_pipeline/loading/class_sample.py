"""A few samples of every class, for a probe: no more of the data set is read than that takes.

The set in blocks of about a megabyte -> the blocks in a fixed mixed order, since many sets are stored class by class
-> of each class the first `per_class` samples met -> only those decoded, as for evaluation -> batches of m. It ends
when every class has its samples, or `at_most` were read. Which samples those are depends on the data set and on these
numbers alone. No labels stand in an index: who wants to know a label must read its sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline.errors import BadDataset
from data_pipeline.loading.bad_samples import BadSample
from data_pipeline.loading.blocks import BlockFetcher, Sample
from data_pipeline.loading.cache import BlockCache
from data_pipeline.loading.eval_loader import EvalBatch
from data_pipeline.pixels.augment import Recipe
from data_pipeline.pixels.decode import Undecodable, decode
from data_pipeline.shards.dataset import Dataset

BLOCK_BYTES = 1_000_000
AHEAD = 4  # blocks asked for ahead
_DOMAIN = 0x636C6173736573  # "classes": keeps this order apart from other uses of Philox

Found = tuple[int, Sample]


class ClassSample:
    """Iterable once over batches. Then `kept` int64 [classes] says how many samples of each class there were, `read` how many
    were looked at, and `bad` which did not decode.

    Raises BadDataset for a set whose samples have several labels.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        *,
        per_class: int,
        at_most: int,
        micro_batch: int,
        threads: int = 2,
        cache: BlockCache | None = None,
    ) -> None:
        if min(per_class, at_most, micro_batch, threads) < 1:
            raise ValueError(
                f"per_class {per_class}, at_most {at_most}, micro_batch {micro_batch}, threads {threads}; give at least 1"
            )
        if dataset.labels_per_sample > 1:
            raise BadDataset(
                f"samples of {dataset.url} have up to {dataset.labels_per_sample} labels; a sample of each class takes a set with "
                "one label a sample"
            )
        self._dataset, self._recipe = dataset, recipe
        self._per_class, self._micro_batch, self._threads = per_class, micro_batch, threads
        self._cache = cache
        self.at_most = min(at_most, dataset.samples)
        self.kept = np.zeros(dataset.max_label + 1, np.int64)
        self.read = 0
        self.bad: list[BadSample] = []

    def __iter__(self) -> Iterator[EvalBatch]:
        fetcher = BlockFetcher(self._dataset, self._cache)
        pool = ThreadPoolExecutor(self._threads, "mixer-sample")
        chosen: list[Found] = []
        blocks = self._blocks(fetcher, pool)
        try:
            while (block := None if self._done() else next(blocks, None)) is not None:
                for number, sample in block:
                    if self._wanted(sample):
                        chosen.append((number, sample))
                    if len(chosen) == self._micro_batch:
                        yield self._batch(chosen, pool)
                        chosen = []
            if chosen:
                yield self._batch(chosen, pool)
        finally:
            fetcher.close()
            pool.shutdown(wait=True, cancel_futures=True)

    def _done(self) -> bool:
        return self.read >= self.at_most or bool((self.kept >= self._per_class).all())

    def _wanted(self, sample: Sample) -> bool:
        """Counts the sample; whether its class has not enough yet."""
        if self.read >= self.at_most:
            return False
        self.read += 1
        (label,) = sample.labels
        wanted = bool(self.kept[label] < self._per_class)
        self.kept[label] += wanted
        return wanted

    def _blocks(self, fetcher: BlockFetcher, pool: ThreadPoolExecutor) -> Iterator[list[Found]]:
        """All samples with their numbers, block by block in mixed order, some blocks asked for ahead."""
        total = self._dataset.samples
        length = max(1, round(BLOCK_BYTES / self._dataset.mean_bytes))
        coming: deque[tuple[int, Future[list[Sample]]]] = deque()
        for first in mixed_order(-(-total // length)) * length:
            begin = int(first)
            coming.append((begin, pool.submit(fetcher.fetch, begin, min(length, total - begin))))
            if len(coming) > AHEAD:
                yield _numbered(*coming.popleft())
        while coming:
            yield _numbered(*coming.popleft())

    def _batch(self, chosen: list[Found], pool: ThreadPoolExecutor) -> EvalBatch:
        m, size = self._micro_batch, self._recipe.image_size
        batch = EvalBatch(
            torch.zeros((m, size, size, 3), dtype=torch.uint8),
            torch.tensor([sample.labels[0] for _, sample in chosen] + [-1] * (m - len(chosen))),
            torch.zeros(m, dtype=torch.bool),
        )
        images = batch.images.numpy()

        def show(place: int) -> str | None:
            """Why a sample does not decode."""
            try:
                self._recipe.evaluate(decode(chosen[place][1].image), images[place])
            except Undecodable as error:
                return str(error)
            return None

        for place, why in enumerate(pool.map(show, range(len(chosen)))):
            batch.real[place] = why is None
            if why is not None:
                self.kept[batch.labels[place]] -= 1
                self.bad.append(BadSample(-1, chosen[place][0], -1, why))
        return batch


def mixed_order(count: int) -> npt.NDArray[np.int64]:
    """The numbers 0..count-1 in an order that never changes."""
    stream = np.random.Philox(key=np.array([0, _DOMAIN], np.uint64))
    return np.argsort(stream.random_raw(count), kind="stable")


def _numbered(first: int, samples: Future[list[Sample]]) -> list[Found]:
    return list(enumerate(samples.result(), first))
