"""Images, tars of them, and what was packed, for the tests of packing."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.shards.dataset import Dataset
from data_pipeline.shards.tars import SpanSource, members

CLASSES = ["n01", "n02", "n03"]


def picture(number: int, form: str = "JPEG", side: int = 24) -> bytes:
    """The bytes of an image that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 255, (side, side + number % 7, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def tar_of(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def class_images(label: int, count: int = 5) -> dict[str, bytes]:
    """The images of a class by name, as ImageNet names them."""
    return {f"{CLASSES[label]}_{n}.JPEG": picture(100 * label + n) for n in range(count)}


def train_tar() -> bytes:
    """A tar of class tars, in an order that is not the alphabet's."""
    return tar_of({f"{CLASSES[label]}.tar": tar_of(class_images(label)) for label in (2, 0, 1)})


def samples(url: str) -> list[dict[str, bytes]]:
    """Every sample of a data set as {extension: bytes}, in order."""
    data, found = Dataset.open(url), []
    for span in data.spans(0, data.samples):
        shard = data.store.get(span.key)
        for offset, length in zip(span.offsets, span.lengths, strict=True):
            parts = members(SpanSource(shard[offset : offset + length], span.key), whole=False)
            found.append({member.name.partition(".")[2]: member.data for member in parts})
    return found


def image_labels(url: str, ext: str = "cls") -> dict[bytes, bytes]:
    """The label member of each image."""
    found = {}
    for sample in samples(url):
        (image,) = [data for name, data in sample.items() if name != ext]
        found[image] = sample[ext]
    return found


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Three classes of 20 images each."""
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for image, data in class_images(label, 20).items():
            (tmp_path / "images" / name / image).write_bytes(data)
    return tmp_path / "images"
