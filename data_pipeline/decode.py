"""Bytes of an image -> uint8 RGB array, the way it is meant to be looked at.

JPEG goes through simplejpeg (libjpeg-turbo, bit-exact with Pillow, releases the GIL); everything else, and
a JPEG that simplejpeg will not take (CMYK, odd markers), through Pillow. Palettes, alpha, grey and 16 bits
become 8-bit RGB; an EXIF orientation is applied. Only the first frame of an animation counts. No resizing
here.
"""

from __future__ import annotations

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
_EXIF, _SCAN = b"Exif\x00\x00", b"\xda"
_ORIENTATION = 0x0112


class Undecodable(DataError):
    """The bytes are not an image that can be decoded whole; the message says why."""


def decode(data: Encoded) -> Pixels:
    """The image as uint8 [height, width, 3], RGB, C-contiguous. Undecodable when any of it is damaged."""
    pixels = _decode_jpeg(data)
    return _decode_any(data) if pixels is None else pixels


def plain_jpeg_size(data: Encoded) -> tuple[int, int] | None:
    """(height, width) of a JPEG whose pixels are to be shown as they are stored; None for all others."""
    if data[: len(_JPEG)] != _JPEG:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        plain = colours in ("YCbCr", "Gray", "RGB") and height * width <= LARGEST and not _is_turned(data)
    except ValueError:
        return None
    return (height, width) if plain else None


def _decode_jpeg(data: Encoded) -> Pixels | None:
    """The pixels, or None for what is left to Pillow: other colour spaces, a turned image, any complaint."""
    if plain_jpeg_size(data) is None:
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError:
        return None
    return pixels


def _is_turned(data: Encoded) -> bool:
    """Whether EXIF asks for anything but the pixels as they are."""
    if not _has_exif_segment(data):
        return False
    with Image.open(BytesIO(data)) as image:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)


def _has_exif_segment(data: Encoded) -> bool:
    """Whether an EXIF segment stands before the picture itself. A damaged header has none: decoding will say so."""
    at = len(_JPEG) - 1
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (_SCAN, b""):
        if data[at + 4 : at + 4 + len(_EXIF)] == _EXIF:
            return True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


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
