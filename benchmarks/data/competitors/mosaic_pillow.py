"""MosaicML Streaming: its MDS shards, shuffled, Pillow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.data.competitors.pillow import BATCH, View, samples
from benchmarks.data.turns import serve


def stub_torchvision() -> None:
    """streaming imports names of torchvision that nothing here uses; the wheel does not load next to a CPU build of torch."""
    for name in (
        "torchvision",
        "torchvision.datasets",
        "torchvision.transforms",
        "torchvision.transforms.functional",
    ):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]


stub_torchvision()
import streaming  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


class Pictures(streaming.StreamingDataset):  # type: ignore[misc]
    """The pictures as views."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(local=str(folder), shuffle=True, batch_size=BATCH)
        self.view = View(kind)

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return self.view(sample["jpg"]), sample["cls"]


def batches(folder: Path, kind: str) -> Iterator[Any]:
    loader = DataLoader(Pictures(folder, kind), batch_size=BATCH, num_workers=0)
    while True:
        for images, _ in loader:
            yield images


if __name__ == "__main__":
    folder, kind = sys.argv[1:]
    shards = Path(folder, "mds")
    if kind == "PREPARE":
        shutil.rmtree(shards, ignore_errors=True)  # of a try that failed
        with streaming.MDSWriter(out=str(shards), columns={"jpg": "bytes", "cls": "int"}) as writer:
            for picture, label in samples(folder):
                writer.write({"jpg": picture, "cls": label})
    else:
        streaming.base.util.clean_stale_shared_memory()
        serve(batches(shards, kind), version=streaming.__version__)
