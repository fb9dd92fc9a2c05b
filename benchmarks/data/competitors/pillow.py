"""What the peers that bring no decoder of their own do with a picture: Pillow, and torchvision's rule for crops."""

from __future__ import annotations

import math
import random
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

BATCH, SIZE = 64, 224
SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class View:
    """Encoded bytes -> uint8 [224, 224, 3]."""

    def __init__(self, kind: str) -> None:
        self.filter, self.rng = FILTERS[kind], random.Random(0)

    def __call__(self, data: bytes) -> npt.NDArray[np.uint8]:
        with Image.open(BytesIO(data)) as image:
            view = image.crop(self._box(*image.size)).resize((SIZE, SIZE), self.filter)
        if self.rng.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(view)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        draw = self.rng.uniform
        for _ in range(TRIES):
            area, ratio = (
                width * height * draw(*SCALE),
                math.exp(draw(math.log(RATIO[0]), math.log(RATIO[1]))),
            )
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = self.rng.randint(0, width - w), self.rng.randint(0, height - h)
                return left, top, left + w, top + h
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side


def samples(folder: str) -> Iterator[tuple[bytes, int]]:
    """(encoded picture, class) of every picture in FOLDER, in order; for those who write another format."""
    for path in sorted(Path(folder, "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = iter(tar)
            for one, other in zip(members, members, strict=True):
                fields = {member.name.partition(".")[2]: _content(tar, member) for member in (one, other)}
                yield fields["jpg"], int(fields["cls"])


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
