"""Grain: an ArrayRecord file (it reads no tars), shuffled globally, Pillow."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.data.competitors.pillow import BATCH, View, samples
from benchmarks.data.turns import serve


def batches(path: Path, kind: str) -> Iterator[Any]:
    view = View(kind)

    def made(record: bytes) -> Any:
        picture, label = pickle.loads(record)
        return view(picture), label

    source = grain.sources.ArrayRecordDataSource(str(path))
    rows = grain.MapDataset.source(source).seed(0).shuffle().repeat().map(made).batch(BATCH)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return (images for images, _ in rows.to_iter_dataset(options))


if __name__ == "__main__":
    folder, kind = sys.argv[1:]
    records = Path(folder, "pictures.array_record")
    if kind == "PREPARE":
        writer = ArrayRecordWriter(str(records), "group_size:1")
        for picture, label in samples(folder):
            writer.write(pickle.dumps((picture, label)))
        writer.close()
    else:
        serve(batches(records, kind), version=grain.__version__)
