"""A small data set in a real bucket behind the faulty proxy, and the same one in a folder, which nothing disturbs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from data_pipeline.order import Geometry
from data_pipeline.shards.dataset import build_index
from data_pipeline.storage import Store, open_store
from data_pipeline.storage.s3_client import new_session
from tests.ceph import Gateway
from tests.chaos.front import Front, fronting
from tests.data_faults.kinds import Fault

SAMPLES, SHARDS = 960, 24
BATCH, MICRO = 24, 2
GEOMETRY = Geometry(SAMPLES, block=10, lanes=12, window=2, seed=7)


@dataclass
class Scene:
    """`url` is read through the proxy; `plain` is the folder; `store` changes the bucket behind the proxy's back."""

    url: str
    plain: str
    store: Store
    front: Front
    shards: list[str]

    def begin(self, fault: Fault) -> None:
        if fault.rule:
            self.front.add(fault.rule)
        whole = self._whole(fault.shard)
        match fault.in_store:
            case "deleted":
                self.store.delete(fault.shard)
            case "other":
                self.store.put(fault.shard, whole[:BATCH] + bytes(255 - b for b in whole[BATCH:]))
            case "shorter":
                self.store.put(fault.shard, whole[: len(whole) // 3])
            case "longer":
                self.store.put(fault.shard, bytes(512) + whole)

    def heal(self, fault: Fault) -> int:
        """Undo it; how many requests met its rule (1 where it stood in the store)."""
        if fault.in_store:
            self.store.put(fault.shard, self._whole(fault.shard))
        return self.front.end(fault.number) if fault.rule else 1

    def _whole(self, shard: str) -> bytes:
        return (Path(self.plain) / shard).read_bytes() if shard else b""


@contextmanager
def furnished(gateway: Gateway, folder: Path, bucket: str, seed: int = 0) -> Iterator[Scene]:
    """The scene, its files in `folder` (a short path). Sets the AWS_* variables of this process for as long as it stands."""
    plain = folder / "set"
    _write(plain)
    before = dict(os.environ)
    try:
        os.environ.update(gateway.env)
        os.environ.pop("AWS_PROFILE", None)
        new_session().client("s3").create_bucket(Bucket=bucket)
        store = open_store(f"s3://{bucket}/set")
        for path in sorted(plain.iterdir()):
            store.put(path.name, path.read_bytes())
        with fronting(gateway.endpoint, folder, seed) as front:
            os.environ["AWS_ENDPOINT_URL"] = front.endpoint
            names = sorted(path.name for path in plain.glob("*.tar"))
            yield Scene(store.url, str(plain), store, front, names)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _write(folder: Path) -> None:
    folder.mkdir()
    dice = np.random.default_rng(0)
    for shard, numbers in enumerate(np.array_split(np.arange(SAMPLES), SHARDS)):
        with webdataset.TarWriter(str(folder / f"s-{shard:06d}.tar"), mtime=0) as writer:
            for number in numbers.tolist():
                out = io.BytesIO()
                Image.fromarray(dice.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(out, "PNG")
                writer.write({"__key__": f"{number:06d}", "png": out.getvalue(), "cls": number % 10})
    build_index(str(folder))
