"""Whatever is stored as an image comes out as the 8-bit RGB that Pillow would show, or is refused."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.pixels import decode as decode_module
from data_pipeline.pixels.decode import Pixels, Undecodable, decode


def picture(height: int = 24, width: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 8, y * 10, (x + y) * 4], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGB", "JPEG", {"quality": 95}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}),
        ("P", "GIF", {}),
        ("RGB", "TIFF", {}),
        ("CMYK", "TIFF", {}),
    ],
)
def test_pixels_are_pillows(mode: str, kind: str, options: dict[str, Any]) -> None:
    data = encoded(picture().convert(mode), kind, **options)
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (24, 30, 3)
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, pillow(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = decode(encoded(picture(), kind))
    turned = decode(encoded(picture(), kind, exif=exif))
    undo = {1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.transpose(1, 0, 2)}
    undo |= {6: np.rot90(plain, -1), 7: plain.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(plain)}
    assert turned.shape == undo[orientation].shape
    assert np.abs(turned.astype(int) - undo[orientation]).max() == 0


def test_sixteen_bit_grey_keeps_its_range() -> None:
    """Pillow's own convert("RGB") would clip everything above 255 to white."""
    values = np.linspace(0, 65_535, 256, dtype=np.uint16).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(pixels[:, :, 0], (values >> 8).astype(np.uint8))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_sixteen_bit_rgb() -> None:
    values = np.linspace(0, 65_535, 192, dtype=np.uint16).reshape(8, 8, 3)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.abs(decode(data).astype(int) - values / 257).max() <= 1


def test_a_transparent_palette_is_no_warning() -> None:
    image = picture().convert("P")
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255]))
    assert decode(data).shape == (24, 30, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_image_is_refused(kind: str) -> None:
    data = encoded(picture(240, 300), kind)
    with pytest.raises(Undecodable):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(100)]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(data)
    assert "<_io" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_png_is_refused() -> None:
    data = bytearray(encoded(picture(), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(Undecodable):
        decode(bytes(data))


def test_floating_point_is_refused() -> None:
    with pytest.raises(Undecodable, match="range is not known"):
        decode(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_decompression_bomb_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "LARGEST", 700)
    with pytest.raises(Undecodable, match="30 x 24 pixels"):
        decode(encoded(picture(), kind))
