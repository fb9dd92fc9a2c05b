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
from typing import Any

import numpy as np
import torch

from data_pipeline.augment import Recipe
from data_pipeline.bad_samples import BadSample, BadSamples, TooManyBadSamples
from data_pipeline.decode import Pixels, Undecodable, decode
from data_pipeline.feistel import Ints
from data_pipeline.order import Order, Window
from data_pipeline.reading import BlockReader, Reader, ResidentReader
from data_pipeline.shards.dataset import Dataset
from data_pipeline.targets import empty_labels, put_labels

CHUNK = 8  # images a thread makes in one go
SCOUT_STEPS = 3  # steps, at least, whose bytes are announced before their images are made
SCOUT_ITEMS = 2048  # worked out at a time: numpy on a handful is all overhead
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
    `threads` threads decode; `prefetch` steps are made ahead. `on_bad` is told {"item", "id", "substitute",
    "why"} for each sample that was replaced, in order, when its batch is handed out. `pin` puts the images
    in pinned memory.
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
        bad_share: float = 0.001,
        on_bad: Callable[[dict[str, Any]], None] | None = None,
        pin: bool = False,
    ) -> None:
        _check(dataset, order, batch, micro_batch, slots, position)
        _check_skip(skip, batch, position)
        self._order, self._recipe, self._pin = order, recipe, pin
        self._batch, self._micro_batch, self._slots = batch, micro_batch, slots
        self._skip = frozenset(at for at in skip if at >= position)
        self._first_position = position
        self._prefetch, self._labels_per_sample = max(1, prefetch), dataset.labels_per_sample
        self._bad = BadSamples(bad_share, order.geometry.samples, dataset.url, on_bad)
        self._reader = _open_reader(dataset, order, len(slots), batch // micro_batch)
        workers = threads if dataset.mean_bytes > SMALL_BYTES else 1
        self._pool = ThreadPoolExecutor(workers, "mixer-decode")
        self._store, self._store_retries = dataset.store, dataset.store.retries
        self._entered: dict[int, tuple[int, int]] = {}  # by lane: the (epoch, window) announced last
        self._scouted: deque[tuple[int, Ints, Ints]] = deque()  # (position, items, ids)
        self._steps: deque[_Step] = deque()
        self._scout_position = position
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
        """So far: bytes, gets and retries of the store; samples replaced; seconds spent in `next`."""
        fetcher = self._reader.fetcher
        retries = fetcher.retries + self._store.retries - self._store_retries
        counts = {"bytes": fetcher.bytes, "gets": fetcher.gets, "retries": retries}
        return {**counts, "bad": self._bad.replaced, "wait_s": self._wait_s}

    def _make_ahead(self) -> None:
        while len(self._steps) < self._prefetch:
            if len(self._scouted) < SCOUT_STEPS:
                self._scout()
            self._steps.append(self._begin(*self._scouted.popleft()))

    def _scout(self) -> None:
        """Works out the items and samples of some coming steps, and announces the windows they enter."""
        m, own = self._micro_batch, len(self._slots) * self._micro_batch
        half_epoch = self._order.geometry.samples // (2 * self._batch)  # else blocks would stay for the next
        count = SCOUT_STEPS + min(SCOUT_ITEMS // own, half_epoch)
        positions = self._positions(count)
        mine = slice(self._slots.start * m, self._slots.stop * m)
        items = np.concatenate([self._order.step_items(at, self._batch)[mine] for at in positions])
        window = self._order.windows(items)
        entering = self._entering(window)
        if entering:
            self._reader.expect(self._coming(items[entering]))
        parts = zip(
            positions, items.reshape(-1, own), self._order.ids_at(window).reshape(-1, own), strict=True
        )
        self._scouted.extend(parts)
        self._scout_position = positions[-1] + self._batch

    def _positions(self, count: int) -> list[int]:
        """Where the next `count` steps to scout begin."""
        ahead = range(
            self._scout_position, self._scout_position + (count + len(self._skip)) * self._batch, self._batch
        )
        return [at for at in ahead if at not in self._skip][:count]

    def _coming(self, entering: Ints) -> Ints:
        """The sample ids that will be taken of the windows that these items enter, in the order of turn."""
        if not self._skip:
            return self._order.rest_of_windows(entering)
        items = self._order.items_of_windows(entering)
        begins = items - (items - self._first_position) % self._batch
        return self._order.sample_ids(items[~np.isin(begins, list(self._skip))])

    def _entering(self, window: Window) -> list[int]:
        """Places of the items that are the first of their window."""
        first = []
        keys = zip(window.lane.tolist(), window.epoch.tolist(), window.number.tolist(), strict=True)
        for place, (lane, epoch, number) in enumerate(keys):
            if self._entered.get(lane) != (epoch, number):
                self._entered[lane] = epoch, number
                first.append(place)
        return first

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
            pixels, own, micro.ids[j] = self._decoded(item, int(micro.ids[j]), bad)
            put_labels(labels, j, own)
            self._recipe.train(pixels, images[j], seed=self._order.geometry.seed, item=item)
        return bad

    def _decoded(self, item: int, own: int, bad: list[BadSample]) -> tuple[Pixels, tuple[int, ...], int]:
        """Pixels, labels and id of the item's sample, or of the first of its successors that decodes."""
        sample = self._reader.take(own)
        try:
            return decode(sample.image), sample.labels, own
        except Undecodable as error:
            failed = [(own, str(error))]
        for substitute, _ in zip(self._order.successors(item), range(SUBSTITUTES), strict=False):
            sample = self._reader.peek(substitute)
            try:
                pixels = decode(sample.image)
            except Undecodable as error:
                failed.append((substitute, str(error)))
                continue
            bad += [BadSample(item, each, substitute, why) for each, why in failed]
            return pixels, sample.labels, substitute
        raise TooManyBadSamples(
            f"item {item}: sample {own} does not decode ({failed[0][1]}), nor do {len(failed) - 1} that "
            "could stand in for it; run `mixer verify` on the data set"
        )


def _open_reader(dataset: Dataset, order: Order, slots: int, all_slots: int) -> Reader:
    geometry = order.geometry
    if geometry.resident:
        return ResidentReader(dataset)
    lanes = -(-geometry.lanes * slots // all_slots)
    return BlockReader(dataset, geometry.block, room=max(4, lanes * (geometry.window + 1)))


def _check_skip(skip: Collection[int], batch: int, position: int) -> None:
    off = [at for at in skip if (at - position) % batch]
    if off:
        raise ValueError(
            f"skip: no step of {batch} from position {position} on begins at {off[0]}; give positions where steps begin"
        )


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
