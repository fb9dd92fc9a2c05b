"""The pictures that every benchmark of the data path reads: photographs, cut, coloured, roughened, stored as JPEG.

    python -m benchmarks.data.images [--quick] [--work FOLDER]

The photographs and textures that scikit-image and scikit-learn carry -> a random part of one, scaled to about 500x375 -> other
colours, 1/f texture, sensor noise -> JPEG, 80 % with 4:2:0 and 20 % with 4:4:4 chroma, about 100 KB on average -> WebDataset shards
with our index. Picture i is a function of (seed, i). Made once, then found in `--work`.

These are not ImageNet: the content is a few photographs over and over. What decoding costs hangs on bytes per pixel, which are its.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.data.runs import arguments

IMAGES, QUICK_IMAGES = 2000, 400
SHARD_BYTES = 26_000_000
CLASSES = 1000
PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "hubble_deep_field",
    "retina",
    "immunohistochemistry",
    "camera",
)
TEXTURES = ("brick", "grass", "gravel", "moon")
ROUGHNESS = 1024  # pixels, each side of the 1/f field that texture is cut from
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Material:
    """`images` pictures in `folder`: shards/ (tars and our index), and what peers make of them beside it."""

    folder: Path
    images: int

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    def tars(self) -> list[Path]:
        return sorted(self.shards.glob("*.tar"))

    def jpegs(self) -> list[bytes]:
        """The encoded pictures, in order."""
        from data_pipeline.loading.blocks import BlockFetcher
        from data_pipeline.shards.dataset import Dataset

        dataset = Dataset.open(str(self.shards))
        return [sample.image for sample in BlockFetcher(dataset).fetch(0, dataset.samples)]


def material(given: argparse.Namespace, seed: int = 0) -> Material:
    """The pictures that these arguments ask for, made where they are not there yet."""
    count = QUICK_IMAGES if given.quick else IMAGES
    work = given.work or Path(tempfile.gettempdir()) / "mixer-bench"
    found = Material(work / f"packed-{count}-{seed}", count)
    if not usable(found.folder, found.shards):
        _make(found, seed)
    return found


def usable(folder: Path, shards: Path) -> bool:
    """Whether `folder` is there with an index that this code reads; one of another version is removed."""
    from data_pipeline.shards.dataset import BadDataset, Dataset

    if folder.exists():
        try:
            Dataset.open(str(shards))
            return True
        except BadDataset:
            shutil.rmtree(folder)
    return False


def _make(made: Material, seed: int) -> None:
    """All or nothing: written beside its place, then named."""
    from data_pipeline.packing.pack import pack

    made.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.folder.parent) as name:
        files = Path(name) / "files"
        for number, data in enumerate(_pictures(made.images, seed)):
            place = files / f"{number % CLASSES:03d}" / f"{number:06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        pack(str(files), str(Path(name) / "shards"), shard_bytes=SHARD_BYTES)
        shutil.rmtree(files)
        shutil.move(name, made.folder)
        Path(name).mkdir()  # for TemporaryDirectory to remove
    print(
        f"made {made.images} pictures, {sum(map(os.path.getsize, made.tars())) / made.images / 1e3:.1f} KB each"
    )


def _pictures(count: int, seed: int) -> Iterator[bytes]:
    with ProcessPoolExecutor() as pool:
        yield from pool.map(picture, range(count), [seed] * count, chunksize=16)


def picture(number: int, seed: int) -> bytes:
    """Picture `number` as JPEG."""
    rng = np.random.default_rng([seed, number])
    sources = _sources()
    photo = sources[int(rng.integers(len(sources)))]
    width, height = _size(rng)
    pixels = np.asarray(_part(photo, rng, width, height), np.float32)
    pixels = pixels * rng.uniform(0.8, 1.2, 3) + rng.uniform(-15, 15)
    pixels = pixels + rng.uniform(4, 14) * _texture(rng, height, width)[..., None]
    pixels = pixels + rng.normal(0, rng.uniform(1, 5), pixels.shape)
    image, buffer = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), BytesIO()
    chroma = 0 if rng.random() < 0.2 else 2  # Pillow's words for 4:4:4 and 4:2:0
    image.save(buffer, "JPEG", quality=int(rng.integers(92, 98)), subsampling=chroma)
    return buffer.getvalue()


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """500x375 most often, as in ImageNet; else something near, lying or standing."""
    if rng.random() < 0.5:
        return 500, 375
    long, short = 500, int(rng.integers(333, 440))
    return (long, short) if rng.random() < 0.7 else (short, long)


def _part(photo: Pixels, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A random part of a photograph, of this aspect, scaled to this size."""
    room_h, room_w = photo.shape[:2]
    share = min(room_w / width, room_h / height) * rng.uniform(0.6, 1.0)
    w, h = int(width * share), int(height * share)
    left, top = int(rng.integers(room_w - w + 1)), int(rng.integers(room_h - h + 1))
    part = Image.fromarray(photo).resize(
        (width, height), Image.Resampling.BICUBIC, (left, top, left + w, top + h)
    )
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    top, left = rng.integers(ROUGHNESS - height), rng.integers(ROUGHNESS - width)
    return _field()[top : top + height, left : left + width]


@cache
def _field() -> Floats:
    """Noise with amplitude 1/f, of mean 0 and deviation 1."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(ROUGHNESS)[:, None], np.fft.rfftfreq(ROUGHNESS)[None, :])
    frequency[0, 0] = np.inf
    spectrum = rng.normal(size=(*frequency.shape, 2)).view(np.complex128)[..., 0] / frequency
    field = np.fft.irfft2(spectrum, s=(ROUGHNESS, ROUGHNESS))
    return (field / field.std()).astype(np.float32)


@cache
def _sources() -> list[Pixels]:
    """The photographs and textures, uint8 [h, w, 3]."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    found: list[Any] = [getattr(data, name)() for name in (*PHOTOS, *TEXTURES)]
    found += [*data.stereo_motorcycle()[:2], *load_sample_images().images]
    return [np.stack([each] * 3, -1) if each.ndim == 2 else each[..., :3] for each in found]


if __name__ == "__main__":
    print(material(arguments(__doc__).parse_args()).folder.name)
