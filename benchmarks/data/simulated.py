"""Data sets of up to 10^9 samples that fit anywhere: one real shard under many names, and a real index of all of them.

10,000 tiny pictures in one tar, indexed by our own code; then as many links to it and to its idx file as there shall be shards, and an
index.json with a row for each. To `Dataset.open`, and to all that comes after it, nothing is simulated but the sameness of the bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.data.images import usable
from data_pipeline.shards.build import build_index
from data_pipeline.shards.format import IDX, INDEX, Shards, digest, dump_index
from data_pipeline.shards.labels import LabelRule, Labels

PER_SHARD, SIDE = 10_000, 16  # samples; pixels
ONE = "one.tar"


def simulated(work: Path, shards: int) -> Path:
    """The folder of a data set of `shards` x 10,000 samples, made where it is not there yet."""
    folder = work / f"simulated-{shards}"
    if not usable(folder, folder):
        one = work / "simulated-one"
        if not usable(one, one):
            _whole(one, _write_one)
        _whole(folder, lambda made: _write_links(made, one, shards))
    return folder


def _whole(folder: Path, fill: Any) -> None:
    """The folder, filled and then named, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        fill(made)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_one(folder: Path) -> None:
    from webdataset import TarWriter

    rng = np.random.default_rng(0)
    with TarWriter(str(folder / ONE), mtime=0) as writer:
        for number in range(PER_SHARD):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, "JPEG")
            writer.write({"__key__": f"{number:09d}", "jpg": buffer.getvalue(), "cls": number % 1000})
    build_index(str(folder))


def _write_links(folder: Path, one: Path, shards: int) -> None:
    names = [f"shard-{number:06d}.tar" for number in range(shards)]
    for name in names:
        (folder / name).symlink_to(one / ONE)
        (folder / (name + IDX)).symlink_to(one / (ONE + IDX))
    index = json.loads((one / INDEX).read_text())
    columns = {key: values * shards for key, values in index["shards"].items()} | {"name": names}
    table = Shards(columns)
    sums = {key: index[key] * shards for key in ("samples", "bytes")}
    identity = digest(table, Labels(LabelRule.parse(index["label"]), index["classes"]))
    (folder / INDEX).write_bytes(dump_index(index | sums | {"digest": identity, "shards": table.to_json()}))
