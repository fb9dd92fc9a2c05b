"""Bytes of an image -> uint8 RGB array, the way it is meant to be looked at.

JPEG goes through simplejpeg (libjpeg-turbo, bit-exact with Pillow, releases the GIL); everything else, and
a JPEG that simplejpeg will not take (CMYK, odd markers), through Pillow. Palettes, alpha, grey and 16 bits
become 8-bit RGB; an EXIF orientation is applied. Only the first frame of an animation counts. No resizing
here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps

from data_pipeline.errors import DataError

Pixels = npt.NDArray[np.uint8]
Encoded = bytes | memoryview

LARGEST = 178_956_970  # pixels; Pillow's own limit for files that are meant to exhaust memory
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF, _APP1, _SCAN = b"Exif\x00\x00", 0xE1, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a frame header, of any process
_FRAME = struct.Struct(">BHHB")  # bits, height, width, colours
_ORIENTATION = 0x0112


class Undecodable(DataError):
    """The bytes are not an image that can be decoded whole; the message says why."""


def decode(data: Encoded) -> Pixels:
    """The image as uint8 [height, width, 3], RGB, C-contiguous. Undecodable where not even Pillow shows all of it.

    Pillow shows a JPEG whose data are damaged in the middle, and says nothing; so do most training pipelines. `decode_and_judge` tells.
    """
    return decode_and_judge(data)[0]


def decode_and_judge(data: Encoded) -> tuple[Pixels, bool]:
    """`decode`, and whether it went without a complaint: False for a plain JPEG that only Pillow takes, which minds less."""
    if plain_jpeg_size(data) is None:
        return _decode_any(data), True
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError:
        return _decode_any(data), False
    return pixels, True


def plain_jpeg_size(data: Encoded) -> tuple[int, int] | None:
    """(height, width) of a JPEG whose pixels are to be shown as they are stored: 8 bits, grey or three colours, not turned by EXIF.

    None for all others, and for a header that is damaged.
    """
    if data[: len(_JPEG)] != _JPEG:
        return None
    turned = False
    for marker, start, length in _segments(data):
        if marker == _APP1 and data[start : start + len(_EXIF)] == _EXIF:
            turned = turned or _is_turned(data)
        elif marker in _FRAMES:
            bits, height, width, colours = _FRAME.unpack(bytes(data[start : start + _FRAME.size]))
            plain = bits == 8 and colours in (1, 3) and 0 < height * width <= LARGEST and not turned
            return (height, width) if plain and length > _FRAME.size else None
    return None


def _segments(data: Encoded) -> Iterator[tuple[int, int, int]]:
    """(marker, place and length of its data) of what stands before the picture itself, as far as it is sound."""
    at = len(_JPEG) - 1
    while at + 4 + _FRAME.size <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if marker == _SCAN or length < 2:
            return
        yield marker, at + 4, length - 2
        at += 2 + length


def _is_turned(data: Encoded) -> bool:
    """Whether EXIF asks for anything but the pixels as they are."""
    try:
        with Image.open(BytesIO(data)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except Exception:  # Pillow's plugins raise whatever a damaged file leads them to; decoding will name it
        return True


def _decode_any(data: Encoded) -> Pixels:
    try:
        with Image.open(BytesIO(data), formats=("PNG",) if data[: len(_PNG)] == _PNG else None) as image:
            if image.width * image.height > LARGEST:
                raise Undecodable(f"{image.width} x {image.height} pixels, more than {LARGEST}")
            image.load()
            return np.array(_rgb(image))  # writable and contiguous, as torch wants it
    except (Undecodable, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        reason = " ".join(str(error).split()).split(" <_io", 1)[0]
        raise Undecodable(f"{type(error).__name__}: {reason}"[:200]) from error


def _rgb(image: Image.Image) -> Pixels:
    upright = ImageOps.exif_transpose(image) if _has_exif(image) else image
    if upright.mode == "RGB":
        return np.asarray(upright)
    if upright.mode.startswith("I"):  # 16 bits per pixel, grey; convert() would clip at 255
        grey = (np.clip(np.asarray(upright), 0, 65_535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.mode == "F":
        raise Undecodable("floating-point pixels: their range is not known; store 8 or 16 bits")
    if upright.mode == "P":  # a palette may hold transparency, which convert("RGB") warns about
        upright = upright.convert("RGBA")
    return np.asarray(upright.convert("RGB"))


def _has_exif(image: Image.Image) -> bool:
    return image.format in ("TIFF", "MPO") or "exif" in image.info or "Raw profile type exif" in image.info
