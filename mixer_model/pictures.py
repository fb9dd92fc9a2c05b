"""A picture of what a token-mixing layer has learned: each hidden unit's weights as a small map of the image.

    blocks[0].mlp_tokens.fc1.weight [D_S,S] -> one map per unit -> sorted, paired -> PNG

As in Fig. 5 of the paper: units are sorted by the spatial frequency of their map, and each stands beside the
unit most nearly its opposite. Blue is negative, white zero, red positive; one scale for all maps, so that
what is faint in the picture is weak in the network. It draws no axes and no text: the caption is the
reader's.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Maps = npt.NDArray[np.float64]

NEGATIVE: Final = np.array([33.0, 79.0, 158.0])
POSITIVE: Final = np.array([178.0, 36.0, 48.0])
WHITE: Final = np.array([255.0, 255.0, 255.0])
GAP_COLOUR: Final = 205
GAP_PIXELS: Final = 3
MAP_PIXELS: Final = 48
# Weights beyond this share of all are drawn at full colour; without it one loud weight makes all others pale.
FULL_COLOUR_QUANTILE: Final = 0.995


def token_mixing_png(
    weight: torch.Tensor,
    grid: tuple[int, int],
    path: str | os.PathLike[str],
    *,
    columns: int = 16,
    max_units: int | None = None,
) -> tuple[int, int]:
    """Writes the picture of `weight` [D_S,S] over a `grid` (rows, columns) of patches; its (width, height) in
    pixels.

    `max_units` takes the strongest ones only. Raises ValueError when S is not rows * columns, or a weight is
    not finite.
    """
    maps = strongest(_maps(weight, grid), max_units)
    maps = maps[paired_order(maps)]
    picture = _sheet(_colours(maps), max(1, min(columns, len(maps))))
    image = Image.fromarray(picture)
    image.save(path, format="PNG", optimize=True)
    return image.size


def strongest(maps: Maps, count: int | None) -> Maps:
    """The `count` maps [n,h,w] of greatest energy, in their order; all of them for None."""
    if count is None or count >= len(maps):
        return maps
    energy = np.square(maps).sum(axis=(1, 2))
    return maps[np.sort(np.argsort(-energy, kind="stable")[:count])]


def frequencies(maps: Maps) -> npt.NDArray[np.float64]:
    """Mean spatial frequency of each map [n,h,w] in cycles per patch, weighted by power; 0 for a flat map."""
    power = np.square(np.abs(np.fft.fft2(maps)))
    rows, columns = np.fft.fftfreq(maps.shape[1]), np.fft.fftfreq(maps.shape[2])
    radius = np.hypot(rows[:, None], columns[None, :])
    total = power.sum(axis=(1, 2))
    weighted = (power * radius).sum(axis=(1, 2))
    mean: npt.NDArray[np.float64] = weighted / np.where(total > 0, total, 1.0)
    return mean


def paired_order(maps: Maps) -> npt.NDArray[np.int64]:
    """Indices of the maps by rising frequency, each followed by its most nearly opposite one left."""
    flat = maps.reshape(len(maps), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)
    likeness = unit @ unit.T
    left = [int(index) for index in np.argsort(frequencies(maps), kind="stable")]
    order: list[int] = []
    while left:
        order.append(left.pop(0))
        if left:
            partner = int(np.argmin(likeness[order[-1], left]))
            order.append(left.pop(partner))
    return np.array(order, dtype=np.int64)


def _maps(weight: torch.Tensor, grid: tuple[int, int]) -> Maps:
    rows, columns = grid
    if weight.ndim != 2 or weight.shape[1] != rows * columns:
        raise ValueError(
            f"the weight is {list(weight.shape)} and the grid {rows} x {columns}; "
            f"the weight must be [D_S, {rows * columns}]"
        )
    values = weight.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            "the weight holds numbers that are not finite; this network is broken, do not draw it"
        )
    return values.reshape(len(values), rows, columns)


def _colours(maps: Maps) -> npt.NDArray[np.uint8]:
    """[n,h,w] to RGB [n,h,w,3], one scale for all."""
    full = float(np.quantile(np.abs(maps), FULL_COLOUR_QUANTILE)) or 1.0
    share = np.clip(maps / full, -1.0, 1.0)[..., None]
    end = np.where(share < 0, NEGATIVE, POSITIVE)
    mixed: Maps = WHITE + np.abs(share) * (end - WHITE)
    return np.rint(mixed).astype(np.uint8)


def _sheet(colours: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """RGB maps [n,h,w,3] enlarged and laid out in rows, with a grey gap around each."""
    count, height, width, _ = colours.shape
    scale = max(1, MAP_PIXELS // max(height, width))
    high, wide = height * scale + GAP_PIXELS, width * scale + GAP_PIXELS
    rows = -(-count // columns)
    sheet = np.full((rows * high + GAP_PIXELS, columns * wide + GAP_PIXELS, 3), GAP_COLOUR, dtype=np.uint8)
    for index, tile in enumerate(colours):
        top, left = index // columns * high + GAP_PIXELS, index % columns * wide + GAP_PIXELS
        large = tile.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[top : top + height * scale, left : left + width * scale] = large
    return sheet
