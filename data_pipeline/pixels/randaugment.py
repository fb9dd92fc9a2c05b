"""RandAugment (Cubuk et al. 2019): some operations in a row out of fourteen, each at one magnitude.

image -> Pillow -> operation chosen by a draw, its direction by another -> ... -> image. Operations, ranges
and the scale of 0..30 are torchvision's (`RandAugment`, 31 bins, nearest neighbour, black fill). Every
number comes from the caller's keyed draws; two per operation, used or not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

Pixels = npt.NDArray[np.uint8]
Operation = Callable[[Image.Image, float, float], Image.Image]  # image, strength 0..1, sign +-1

STRONGEST = 30
_NEAREST = Image.Resampling.NEAREST


def randaugment(
    image: Pixels, ops: int, magnitude: float, draws: Callable[[int], npt.NDArray[np.float64]]
) -> Pixels:
    """`image` uint8 [h, w, 3] after `ops` operations at `magnitude` (0..30). Takes 2 * ops draws."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    for choice, side in draws(2 * ops).reshape(-1, 2).tolist():
        operation = OPERATIONS[int(choice * len(OPERATIONS))][1]
        picture = operation(picture, magnitude / STRONGEST, 1.0 if side < 0.5 else -1.0)
    return np.asarray(picture)


def _affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, _NEAREST)


def _shear_x(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(picture, (1, sign * 0.3 * strength, 0, 0, 1, 0))


def _shear_y(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(picture, (1, 0, 0, sign * 0.3 * strength, 1, 0))


def _translate_x(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(picture, (1, 0, -int(sign * 150 / 331 * picture.width * strength), 0, 1, 0))


def _translate_y(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return _affine(picture, (1, 0, 0, 0, 1, -int(sign * 150 / 331 * picture.height * strength)))


def _rotate(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return picture.rotate(sign * 30 * strength, _NEAREST)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, strength, sign: kind(picture).enhance(1 + sign * 0.9 * strength)


def _posterize(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return ImageOps.posterize(picture, 8 - round(4 * strength))


def _solarize(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return ImageOps.solarize(picture, round(255 * (1 - strength)))


OPERATIONS: tuple[tuple[str, Operation], ...] = (  # THE ORDER IS A FORMAT: a draw picks by place
    ("identity", lambda picture, strength, sign: picture),
    ("shear_x", _shear_x),
    ("shear_y", _shear_y),
    ("translate_x", _translate_x),
    ("translate_y", _translate_y),
    ("rotate", _rotate),
    ("brightness", _enhance(ImageEnhance.Brightness)),
    ("color", _enhance(ImageEnhance.Color)),
    ("contrast", _enhance(ImageEnhance.Contrast)),
    ("sharpness", _enhance(ImageEnhance.Sharpness)),
    ("posterize", _posterize),
    ("solarize", _solarize),
    ("autocontrast", lambda picture, strength, sign: ImageOps.autocontrast(picture)),
    ("equalize", lambda picture, strength, sign: ImageOps.equalize(picture)),
)
