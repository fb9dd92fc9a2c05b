"""Ways to get at encoded samples, nothing decoded: `python -m benchmarks.data.competitors.reading WAY URL`, URL being the shards'."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.turns import serve

BLOCK, AHEAD = 20, 8  # samples, 2 MB; blocks announced before their turn


def blocks(samples: int) -> Iterator[int]:
    """The numbers of blocks in random order, epoch after epoch."""
    for epoch in count():
        yield from np.random.default_rng(epoch).permutation(samples // BLOCK).tolist()


def fetch(url: str) -> Iterator[Sequence[Any]]:
    """Our fetcher alone: one thread, block after block."""
    from data_pipeline.allocator import keep_freed_blocks
    from data_pipeline.loading.blocks import BlockFetcher
    from data_pipeline.shards.dataset import Dataset

    keep_freed_blocks()  # as a worker does

    dataset = Dataset.open(url)
    fetcher = BlockFetcher(dataset)
    return (fetcher.fetch(block * BLOCK, BLOCK) for block in blocks(dataset.samples))


def reader(url: str) -> Iterator[Sequence[Any]]:
    """What the loader uses: blocks announced, fetched ahead by threads, samples taken one by one."""
    from data_pipeline.allocator import keep_freed_blocks
    from data_pipeline.loading.reading import BlockReader
    from data_pipeline.shards.dataset import Dataset

    keep_freed_blocks()

    dataset = Dataset.open(url)
    ours, announced = BlockReader(dataset, BLOCK, AHEAD), deque[int]()
    for block in blocks(dataset.samples):
        ours.expect(np.arange(block * BLOCK, (block + 1) * BLOCK))
        announced.append(block)
        if len(announced) > AHEAD:
            first = announced.popleft() * BLOCK
            yield [ours.take(sample) for sample in range(first, first + BLOCK)]


def webdataset(url: str) -> Iterator[Sequence[Any]]:
    """webdataset on the same tars, in order, no shuffle."""
    from webdataset import WebDataset

    tars = [str(path) for path in sorted(Path(url).glob("*.tar"))]
    while True:
        for sample in WebDataset(tars, shardshuffle=False).to_tuple("jpg", "cls"):
            yield [sample]


def boto3(url: str) -> Iterator[Sequence[Any]]:
    """boto3's GETs of the ranges of the same blocks; nothing is looked at."""
    from boto3.session import Session

    from data_pipeline.shards.dataset import Dataset

    dataset, client = Dataset.open(url), Session().client("s3")
    bucket = url.removeprefix("s3://")
    for block in blocks(dataset.samples):
        for span in dataset.spans(block * BLOCK, BLOCK):
            first, last = int(span.offsets[0]), int(span.offsets[-1] + span.lengths[-1]) - 1
            client.get_object(Bucket=bucket, Key=span.key, Range=f"bytes={first}-{last}")["Body"].read()
            yield span.offsets


if __name__ == "__main__":
    way, url = sys.argv[1:]
    serve(globals()[way](url))
