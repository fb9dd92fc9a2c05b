"""NVIDIA DALI on the CPU: its own reader of tars (a shuffle buffer, as webdataset's), its own decoder of parts of pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nvidia.dali
from nvidia.dali import fn, pipeline_def, types
from wds2idx import IndexCreator

from benchmarks.data.competitors.pillow import BATCH, RATIO, SCALE, SIZE
from benchmarks.data.turns import serve

FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


@pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, seed=0)  # type: ignore[untyped-decorator]
def views(tars: list[Path], kind: str) -> Any:
    """Batches of 64 views."""
    pictures, labels = fn.readers.webdataset(
        paths=[str(path) for path in tars],
        index_paths=[str(path.with_suffix(".wdsidx")) for path in tars],
        ext=["jpg", "cls"],
        missing_component_behavior="error",
        random_shuffle=True,
        initial_fill=1000,
    )
    cut = fn.decoders.image_random_crop(
        pictures, device="cpu", random_area=SCALE, random_aspect_ratio=RATIO, num_attempts=10
    )
    view = fn.resize(cut, size=(SIZE, SIZE), interp_type=FILTERS[kind], antialias=True)
    return fn.flip(view, horizontal=fn.random.coin_flip()), labels


def batches(tars: list[Path], kind: str) -> Iterator[Any]:
    pipe = views(tars, kind)
    pipe.build()
    while True:
        images, _ = pipe.run()
        yield images.as_array()


if __name__ == "__main__":
    folder, kind = sys.argv[1:]
    shards = sorted(Path(folder, "shards").glob("*.tar"))
    if kind == "PREPARE":
        for path in shards:
            with IndexCreator(str(path), str(path.with_suffix(".wdsidx")), verbose=False) as creator:
                creator.create_index()
    else:
        serve(batches(shards, kind), version=nvidia.dali.__version__)
