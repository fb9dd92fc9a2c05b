"""Ours: a Loader over the same tars, in blocks, as a large data set is read. FOLDER may be the url of the shards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data.competitors.pillow import BATCH, SIZE
from benchmarks.data.turns import serve

BLOCK, LANES, WINDOW = 20, 8, 2  # 2 MB a read; 480 pictures in memory, fewer than in a shuffle buffer of 1000


def batches(url: str, kind: str) -> Iterator[Any]:
    import torch

    from data_pipeline.allocator import keep_freed_blocks
    from data_pipeline.loading.loader import Loader
    from data_pipeline.order import Geometry, Order
    from data_pipeline.pixels.augment import Recipe
    from data_pipeline.shards.dataset import Dataset

    torch.set_num_threads(1)
    keep_freed_blocks()  # as a worker does
    dataset = Dataset.open(url)
    geometry = Geometry(dataset.samples, BLOCK, LANES, WINDOW, seed=0)
    recipe = Recipe(SIZE, interpolation=kind)  # type: ignore[arg-type]
    loader = Loader(
        dataset,
        Order(geometry),
        recipe,
        batch=BATCH,
        micro_batch=BATCH,
        slots=range(1),
        position=0,
        threads=1,
    )
    return (step.micro_batches[0].images for step in loader)


if __name__ == "__main__":
    place, kind = sys.argv[1:]
    url = place if "://" in place else str(Path(place, "shards"))
    serve(batches(url, kind), version="0")
