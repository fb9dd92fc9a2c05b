"""scikit-learn's handwritten digits as images: 1,797 of them, 8x8 in grey, scaled up to RGB PNGs."""

from __future__ import annotations

import io

import numpy as np

from data_pipeline.packing.items import Items
from data_pipeline.packing.origins import Memory

DIGITS = "sklearn:digits"
CLASSES = [str(digit) for digit in range(10)]


def digits(side: int) -> Items:
    """All digits at `side` x `side` pixels."""
    from sklearn.datasets import load_digits

    found, items, images = load_digits(), Items(), list[bytes]()
    origin = items.origin(Memory(images))
    for number, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        images.append(_png(np.round(pixels * (255 / 16)).astype(np.uint8), side))
        items.add(f"{DIGITS}/{number}.png", [int(label)], len(images[-1]), origin, number)
    return items


def _png(grey: np.ndarray[tuple[int, int], np.dtype[np.uint8]], side: int) -> bytes:
    """An 8x8 digit as a side x side RGB PNG."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    image.convert("RGB").save(out, "PNG", optimize=False)
    return out.getvalue()
