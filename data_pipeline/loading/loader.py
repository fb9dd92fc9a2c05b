"""The batches of a run, from a position on: what a worker's share of each step looks like.

Position -> the step's items in slot order, of this worker's slots -> their samples' bytes (announced some
steps ahead) -> decoded and augmented by a few threads straight into the micro-batch's memory -> handed out
in order. A sample that does not decode is replaced by the order's rule and reported. Everything a batch
holds is a function of (data set, geometry, recipe, position): threads, prefetch, world size and the steps
passed over before it change nothing. The loader never ends; how long a run is, is not its business.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from data_pipeline.errors import BadDataset
from data_pipeline.feistel import Ints
from data_pipeline.loading.bad_samples import BadSample, BadSamples, TooManyBadSamples
from data_pipeline.loading.cache import BlockCache
from data_pipeline.loading.reading import BlockReader, Reader, ResidentReader
from data_pipeline.loading.scout import Scout, check_skip
from data_pipeline.loading.targets import empty_labels, put_labels
from data_pipeline.loading.waiting import Tell, wait_for
from data_pipeline.order import Order
from data_pipeline.pixels import roi
from data_pipeline.pixels.augment import Recipe
from data_pipeline.pixels.decode import Encoded, Pixels, Undecodable
from data_pipeline.pixels.picture import Picture, Sound
from data_pipeline.shards.dataset import Dataset

CHUNK = 8  # images a thread makes in one go
# Below this a sample is mostly interpreter: a second thread only fights for the GIL (4,700/s -> 3,100/s).
SMALL_BYTES = 16_000
SUBSTITUTES = 64  # tries for one item before the data set is given up


@dataclass
class MicroBatch:
    """One slot of a step: images uint8 [m, H, W, 3]; labels int64 [m] or [m, L] (targets.py); items and delivered sample ids int64 [m]."""

    slot: int
    images: torch.Tensor
    labels: torch.Tensor
    items: Ints
    ids: Ints


@dataclass
class Batch:
    """A worker's share of one step. `position`: items the run consumed before this step."""

    position: int
    micro_batches: list[MicroBatch]


@dataclass
class _Step:
    """A step being made: its batch, and the threads' work on it."""

    batch: Batch
    work: list[Future[list[BadSample]]] = field(default_factory=list)


class Loader:
    """Iterator over a worker's batches from `position` on. Close it, or use it as a context manager.

    `batch` and `micro_batch` are counted in samples; `slots` are this worker's slots of each step. The steps
    that begin at the positions in `skip` are passed over: their items are not read, nobody gets them. Up to
    `threads` threads decode; `prefetch` steps are made ahead. `cache` keeps blocks on a local disk. `bad` says
    what becomes of a sample that does not decode: "substitute" another by the order's rule, or "raise".
    `on_bad` is told {"item", "id", "substitute", "why"} for each sample that was replaced, in order, when its
    batch is handed out. `on_late` is told what a late step waits for (waiting.py, and "position"). `pin` puts the
    images in pinned memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        recipe: Recipe,
        *,
        batch: int,
        micro_batch: int,
        slots: range,
        position: int,
        skip: Collection[int] = (),
        threads: int = 2,
        prefetch: int = 2,
        cache: BlockCache | None = None,
        bad: Literal["substitute", "raise"] = "substitute",
        bad_share: float = 0.001,
        on_bad: Callable[[dict[str, Any]], None] | None = None,
        on_late: Tell | None = None,
        pin: bool = False,
    ) -> None:
        _check(dataset, order, batch, micro_batch, slots, position)
        check_skip(skip, batch, position)
        self._order, self._recipe, self._pin = order, recipe, pin
        self._micro_batch, self._slots = micro_batch, slots
        self._prefetch, self._labels_per_sample = max(1, prefetch), dataset.labels_per_sample
        self._substitutes = SUBSTITUTES if bad == "substitute" else 0
        self._sound = Sound(dataset.samples, dataset.unsound)
        self._bad = BadSamples(bad_share, order.geometry.samples, dataset.url, on_bad)
        self._on_late = on_late
        self._reader = _open_reader(dataset, order, len(slots), batch // micro_batch, cache)
        of_worker: dict[str, Any] = {"batch": batch, "micro_batch": micro_batch, "slots": slots}
        self._scout = Scout(order, **of_worker, position=position, skip=skip, announce=self._reader.expect)
        workers = threads if dataset.mean_bytes > SMALL_BYTES else 1
        self._pool = ThreadPoolExecutor(workers, "mixer-decode")
        self._store, self._store_retries = dataset.store, dataset.store.retries
        self._steps: deque[_Step] = deque()
        self._wait_s = 0.0
        self._closed = False
        self._make_ahead()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next step's batch. CorruptBlock, StoreError, TooManyBadSamples: whatever a thread met."""
        if self._closed:
            raise RuntimeError("the loader is closed; make a new one at the position you want")
        step, began = self._steps[0], time.perf_counter()
        wait_for(step.work, self._reader.fetcher, self._on_late, position=step.batch.position)
        bad = [each for future in step.work for each in future.result()]
        self._bad.note(bad, delivered=len(self._slots) * self._micro_batch)
        self._steps.popleft()
        self._make_ahead()
        self._wait_s += time.perf_counter() - began
        return step.batch

    @property
    def position(self) -> int:
        """Items the run has consumed before the next batch."""
        return self._steps[0].batch.position

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what was made ahead and waits for the threads. Harmless when repeated."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reader.close()
        self._pool.shutdown(wait=True)
        self._steps.clear()

    def stats(self) -> dict[str, float]:
        """What reading took so far (`BlockFetcher.stats`; `retries` with those of the store), samples replaced (`bad`), seconds spent
        in `next` (`wait_s`); and, as of now, steps made and not taken (`queue`) of at most `queue_limit`,
        and whether crops are decoded natively (`native`, 0 or 1: `roi.available`)."""
        counts = self._reader.fetcher.stats()
        counts["retries"] += self._store.retries - self._store_retries
        ready = sum(all(work.done() for work in step.work) for step in tuple(self._steps))
        gauges = {"queue": ready, "queue_limit": self._prefetch, "native": int(roi.available())}
        return {**counts, "bad": self._bad.replaced, "wait_s": self._wait_s, **gauges}

    def _make_ahead(self) -> None:
        while len(self._steps) < self._prefetch:
            self._steps.append(self._begin(*self._scout.next()))

    def _begin(self, position: int, items: Ints, ids: Ints) -> _Step:
        """Sets the threads to work on a step."""
        m, size = self._micro_batch, self._recipe.image_size
        step = _Step(Batch(position, []))
        for place, slot in enumerate(self._slots):
            part = slice(place * m, (place + 1) * m)
            images = torch.empty((m, size, size, 3), dtype=torch.uint8, pin_memory=self._pin)
            labels = empty_labels(m, self._labels_per_sample)
            micro = MicroBatch(slot, images, labels, items[part], ids[part].copy())
            step.batch.micro_batches.append(micro)
            for begin in range(0, m, CHUNK):
                step.work.append(self._pool.submit(self._make, micro, begin, min(m, begin + CHUNK)))
        return step

    def _make(self, micro: MicroBatch, begin: int, end: int) -> list[BadSample]:
        """Samples begin..end-1 of a micro-batch, in a thread. Returns what had to be replaced."""
        images, labels = micro.images.numpy(), micro.labels.numpy()
        bad: list[BadSample] = []
        for j in range(begin, end):
            item = int(micro.items[j])
            own, micro.ids[j] = self._fill(images[j], item, int(micro.ids[j]), bad)
            put_labels(labels, j, own)
        return bad

    def _fill(self, out: Pixels, item: int, own: int, bad: list[BadSample]) -> tuple[tuple[int, ...], int]:
        """Writes the item's view: of its sample, or of the first of its successors that decodes. Labels and id of that."""
        sample = self._reader.take(own)
        try:
            self._view(out, item, own, sample.image)
            return sample.labels, own
        except Undecodable as error:
            failed = [(own, str(error))]
        if not self._substitutes:
            raise BadDataset(
                f"{self._bad.url}: sample {own} does not decode: {failed[0][1]}; run `mixer verify`"
            )
        for substitute, _ in zip(self._order.successors(item), range(self._substitutes), strict=False):
            sample = self._reader.peek(substitute)
            try:
                self._view(out, item, substitute, sample.image)
            except Undecodable as error:
                failed.append((substitute, str(error)))
                continue
            bad += [BadSample(item, each, substitute, why) for each, why in failed]
            return sample.labels, substitute
        raise TooManyBadSamples(
            f"item {item}: sample {own} does not decode ({failed[0][1]}), nor do {len(failed) - 1} that "
            "could stand in for it; run `mixer verify` on the data set"
        )

    def _view(self, out: Pixels, item: int, own: int, image: Encoded) -> None:
        """Writes the item's view of sample `own`. Its bytes are proven to be the indexed ones, so it stays sound."""
        picture = Picture.look(image, sound=own in self._sound)
        self._recipe.train(picture, out, seed=self._order.geometry.seed, item=item)
        if picture.sound:
            self._sound.add(own)


def _open_reader(
    dataset: Dataset, order: Order, slots: int, all_slots: int, cache: BlockCache | None
) -> Reader:
    geometry = order.geometry
    if geometry.resident:
        return ResidentReader(dataset, cache)
    lanes = -(-geometry.lanes * slots // all_slots)
    return BlockReader(dataset, geometry.block, max(4, lanes * (geometry.window + 1)), cache)


def _check(dataset: Dataset, order: Order, batch: int, micro_batch: int, slots: range, position: int) -> None:
    if dataset.samples != order.geometry.samples:
        raise ValueError(
            f"{dataset.url} has {dataset.samples} samples, the order is of {order.geometry.samples}"
        )
    if micro_batch < 1 or batch % micro_batch:
        raise ValueError(f"micro-batch {micro_batch} does not divide the batch {batch}")
    if not 0 <= slots.start < slots.stop <= batch // micro_batch or slots.step != 1 or position < 0:
        raise ValueError(
            f"slots {slots} of {batch // micro_batch} at position {position}; give owned_slots(...), >= 0"
        )
