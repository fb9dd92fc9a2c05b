"""One image on its way into a shard: read, decoded whole (which proves it), and stored as it came, or made smaller, or encoded anew.

Untouched unless asked: without `size` and `encode` the stored bytes are the file's. `size` scales what is larger down and
leaves the rest; `encode` writes every image in one format.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass, replace

from data_pipeline.errors import BadDataset
from data_pipeline.packing.items import Item, NoImage
from data_pipeline.pixels.decode import Pixels, Undecodable, decode_and_judge
from data_pipeline.shards.format import IMAGE_EXTS

JPEG_QUALITY = 95
FORMATS = {
    "jpeg": ("jpg", 90),
    "webp": ("webp", 80),
    "png": ("png", None),
}  # extension, quality if none is said
EXTS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "PPM": "ppm",
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """A format to store images in: jpeg, webp or png; quality 1 to 100, None for png."""

    kind: str
    quality: int | None = None

    @classmethod
    def parse(cls, text: str) -> Encoding:
        """The encoding of `jpeg:90`, `webp:80`, `png`. Raises BadDataset."""
        match = re.fullmatch(r"(jpe?g|webp)(?::([0-9]{1,3}))?|png", text.lower())
        kind = "png" if match and not match[1] else match[1].replace("jpg", "jpeg") if match else ""
        quality = int(match[2]) if match and match[2] else FORMATS.get(kind, ("", None))[1]
        if not match or (quality is not None and not 1 <= quality <= 100):
            raise BadDataset(
                f"--encode is {text!r}; jpeg:QUALITY, webp:QUALITY (1 to 100) or png are allowed"
            )
        return cls(kind, quality)

    def __str__(self) -> str:
        return self.kind if self.quality is None else f"{self.kind}:{self.quality}"

    def encode(self, pixels: Pixels) -> tuple[str, bytes]:
        """(extension, bytes)."""
        return _encoded(pixels, self.kind, self.quality)


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to images: scaled down to `size` pixels of the short side, stored as `encoding`; None: left as it is."""

    size: int | None = None
    encoding: Encoding | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """An image as it is stored, and what it was: Pillow's name of format and mode; width and height as stored.

    sound: what is stored was decoded without a complaint, or made here.
    """

    ext: str
    data: bytes
    width: int
    height: int
    form: str
    resized: bool
    encoded: bool
    sound: bool = True


@dataclass(frozen=True, slots=True)
class Broken:
    """An image that cannot be used, and why."""

    why: str


def ready(item: Item, change: Change) -> Ready | Broken:
    """Raises what its origin raises, but for NoImage: a source that is away, or lets nobody in, says nothing about the image."""
    try:
        data = item.read()
        pixels, sound = decode_and_judge(data)
    except (Undecodable, NoImage) as error:
        return Broken(str(error))
    form, ext = _form(data)
    ext = item.ext if item.ext in IMAGE_EXTS else ext
    if not ext and change.encoding is None:
        return Broken(
            f"its format is {form}; one of {', '.join(IMAGE_EXTS)} is needed: encode images anew (`--encode`)"
        )
    changed = _changed(ext, data, pixels, form, change)
    return replace(changed, sound=sound or changed.data is not data)


def _changed(ext: str, data: bytes, pixels: Pixels, form: str, change: Change) -> Ready:
    small = _scaled(pixels, change.size)
    encoding = change.encoding
    if encoding is None and small is not pixels:
        encoding = Encoding("jpeg", JPEG_QUALITY) if ext in ("jpg", "jpeg") else Encoding("png")
        stored, data = encoding.encode(small)
        ext = ext if encoding.kind == "jpeg" else stored
    elif encoding is not None:
        ext, data = encoding.encode(small)
    height, width = small.shape[:2]
    return Ready(ext, data, width, height, form, small is not pixels, encoding is not None)


def _form(data: bytes) -> tuple[str, str]:
    """("JPEG RGB", "jpg"): format and mode as they came, and the extension of the format, empty where shards have none."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` has its own limit
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.format} {image.mode}", EXTS.get(str(image.format), "")


def _scaled(pixels: Pixels, short_side: int | None) -> Pixels:
    """Scaled down to that short side; the same array where it is not longer."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return pixels
    import numpy as np

    scale = short_side / min(height, width)
    sides = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling.LANCZOS))


def _encoded(pixels: Pixels, kind: str, quality: int | None) -> tuple[str, bytes]:
    from PIL import Image

    out = io.BytesIO()
    options = {} if quality is None else {"quality": quality}
    Image.fromarray(pixels).save(out, kind.upper(), **options)
    return FORMATS[kind][0], out.getvalue()
