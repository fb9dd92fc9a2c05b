"""webdataset, a shuffle buffer of 1000 samples, Pillow."""

from __future__ import annotations

import sys
from pathlib import Path

import webdataset

from benchmarks.data.competitors.pillow import BATCH, View
from benchmarks.data.turns import serve

if __name__ == "__main__":
    folder, kind = sys.argv[1:]
    tars = [str(path) for path in sorted(Path(folder, "shards").glob("*.tar"))]
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(View(kind), int)
        .batched(BATCH)
        .repeat()
    )
    serve((images for images, _ in dataset), version=webdataset.__version__)
