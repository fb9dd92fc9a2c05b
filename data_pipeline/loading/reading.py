"""Which samples are in memory: blocks come before their turn and go after their last use.

The loader tells which sample ids are coming, in the order of their turn -> their blocks are fetched in the
background, as many as there is room for -> `take` waits for a block and hands out one sample -> a block
whose announced samples have all been taken is dropped. So every block of an epoch is read once. A small
data set is read whole, shard by shard, and stays. What is kept never changes what is delivered.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from data_pipeline.feistel import Ints
from data_pipeline.loading.blocks import BlockFetcher, Sample
from data_pipeline.loading.cache import BlockCache
from data_pipeline.shards.dataset import Dataset

FETCH_THREADS = 4
HARD_LIMIT = 2  # times the room: what samples needed at once may take beyond it


class Reader(Protocol):
    """Samples by id. Safe to use from several threads."""

    fetcher: BlockFetcher

    def expect(self, ids: Ints) -> None:
        """Says that these samples will be taken, once each, in about this order."""

    def take(self, sample: int) -> Sample:
        """An expected sample; waits for its bytes. CorruptBlock or StoreError."""

    def peek(self, sample: int) -> Sample:
        """A sample that was not expected. CorruptBlock or StoreError."""

    def close(self) -> None:
        """Stops fetching and waits for its threads."""


class BlockReader:
    """Reads blocks of `block` samples ahead, about `room` of them in memory."""

    def __init__(self, dataset: Dataset, block: int, room: int, cache: BlockCache | None = None) -> None:
        self.fetcher = BlockFetcher(dataset, cache)
        self._samples, self._block, self._room = dataset.samples, block, room
        self._pool = ThreadPoolExecutor(FETCH_THREADS, "mixer-fetch")
        self._lock = threading.Lock()
        self._uses: Counter[int] = Counter()  # by block: announced and not yet taken
        self._held: dict[int, Future[list[Sample]]] = {}  # oldest first
        self._coming: deque[int] = deque()

    def expect(self, ids: Ints) -> None:
        blocks = (ids // self._block).tolist()
        with self._lock:
            self._uses.update(blocks)
            self._coming.extend(dict.fromkeys(blocks))
            self._fill_room()

    def take(self, sample: int) -> Sample:
        block, within = divmod(sample, self._block)
        with self._lock:
            future = self._started(block)
        found = future.result()[within]
        with self._lock:
            self._uses[block] -= 1
            if self._uses[block] <= 0:
                del self._uses[block]
                self._held.pop(block, None)
                self._fill_room()
        return found

    def peek(self, sample: int) -> Sample:
        block, within = divmod(sample, self._block)
        with self._lock:
            future = self._held.get(block)
        return (future.result() if future else self._fetch(block))[within]

    def close(self) -> None:
        self.fetcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill_room(self) -> None:
        while self._coming and len(self._held) < self._room:
            block = self._coming.popleft()
            if self._uses[block] > 0:
                self._started(block)

    def _started(self, block: int) -> Future[list[Sample]]:
        """The block's future. Whoever needs one gets it; at the hard limit the oldest goes."""
        if block not in self._held:
            while len(self._held) >= HARD_LIMIT * self._room:
                del self._held[next(iter(self._held))]
            self._held[block] = self._pool.submit(self._fetch, block)
        return self._held[block]

    def _fetch(self, block: int) -> list[Sample]:
        first = block * self._block
        return self.fetcher.fetch(first, min(self._block, self._samples - first))


class ResidentReader:
    """Reads every shard once, from the start, and keeps it."""

    def __init__(self, dataset: Dataset, cache: BlockCache | None = None) -> None:
        self.fetcher = BlockFetcher(dataset, cache)
        self._dataset = dataset
        self._pool = ThreadPoolExecutor(FETCH_THREADS, "mixer-fetch")
        self._shards = [
            self._pool.submit(self.fetcher.fetch, dataset.first_of(number), shard.samples)
            for number, shard in enumerate(dataset.shards)
        ]

    def expect(self, ids: Ints) -> None:
        """Nothing to do: all of it is coming."""

    def take(self, sample: int) -> Sample:
        shard = self._dataset.shard_of(sample)
        return self._shards[shard].result()[sample - self._dataset.first_of(shard)]

    def peek(self, sample: int) -> Sample:
        return self.take(sample)

    def close(self) -> None:
        self.fetcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
