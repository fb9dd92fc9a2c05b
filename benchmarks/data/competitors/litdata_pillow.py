"""LitData: its chunks, shuffled, Pillow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litdata

from benchmarks.data.competitors.pillow import BATCH, View, samples
from benchmarks.data.turns import serve


class Pictures(litdata.StreamingDataset):  # type: ignore[misc]
    """The pictures as views."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(str(folder), shuffle=True, drop_last=False)
        self.view = View(kind)

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return self.view(sample["jpg"]), sample["cls"]


def batches(folder: Path, kind: str) -> Iterator[Any]:
    loader = litdata.StreamingDataLoader(Pictures(folder, kind), batch_size=BATCH, num_workers=0)
    while True:
        for images, _ in loader:
            yield images


def same(sample: Any) -> Any:
    return sample


if __name__ == "__main__":
    folder, kind = sys.argv[1:]
    chunks = Path(folder, "litdata")
    if kind == "PREPARE":
        shutil.rmtree(chunks, ignore_errors=True)  # of a try that failed
        rows = [{"jpg": picture, "cls": label} for picture, label in samples(folder)]
        litdata.optimize(same, rows, str(chunks), chunk_bytes="64MB", num_workers=1)
    else:
        serve(batches(chunks, kind), version=litdata.__version__)
