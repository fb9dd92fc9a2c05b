"""What weights look like as small maps: numbers to colours, and the order in which maps are read.

    fc1.weight [D_S,S] -> one map per hidden unit [D_S,h,w] -> paired, sorted -> colours [D_S,h,w,3]
    stem.proj.weight [C,3,P,P] -> one RGB filter per channel [C,P,P,3] -> strongest first

As in Fig. 5 of the paper (arXiv:2105.01601), units are sorted by the spatial frequency of their map, and each stands beside the unit
most nearly its opposite. Blue is negative, white zero, red positive; one scale for all maps of a layer, so that what is faint in the
picture is weak in the layer. Filters (Fig. 7) have a scale each, since a weight of theirs is a colour already. No torch here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.float64]
Tiles = npt.NDArray[np.uint8]

NEGATIVE: Final = np.array([33.0, 79.0, 158.0])
POSITIVE: Final = np.array([178.0, 36.0, 48.0])
WHITE: Final = np.array([255.0, 255.0, 255.0])
GREY: Final = 127.5
# Weights beyond this share of all are drawn at full colour; without it one loud weight makes all others pale.
FULL_COLOUR_QUANTILE: Final = 0.995


def token_maps(weight: npt.ArrayLike, grid: int, name: str = "the weight") -> Maps:
    """`weight` [n,S] as maps [n,grid,grid]. ValueError where S is not grid², or a weight is not finite."""
    values = _finite(weight, name)
    if values.ndim != 2 or values.shape[1] != grid**2:
        raise ValueError(
            f"{name} is {list(values.shape)} and the grid {grid} x {grid}; it must be [D_S, {grid**2}]"
        )
    return values.reshape(len(values), grid, grid)


def filter_maps(weight: npt.ArrayLike, name: str = "the weight") -> Maps:
    """A stem's `weight` [C,3,P,P] as RGB filters [C,P,P,3]. ValueError for another shape, or a weight that is not finite."""
    values = _finite(weight, name)
    if values.ndim != 4 or values.shape[1] != 3:
        raise ValueError(f"{name} is {list(values.shape)}; a stem's must be [C, 3, P, P]")
    return values.transpose(0, 2, 3, 1)


def strongest(maps: Maps, count: int | None) -> Maps:
    """The `count` maps [n,...] of greatest energy, in their order; all of them for None."""
    if count is None or count >= len(maps):
        return maps
    return maps[np.sort(by_energy(maps)[:count])]


def by_energy(maps: Maps) -> npt.NDArray[np.int64]:
    """Indices of the maps [n,...], the strongest first."""
    return np.argsort(-np.square(maps).reshape(len(maps), -1).sum(axis=1), kind="stable")


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
    """Indices of the maps [n,h,w] by rising frequency, each followed by its most nearly opposite one left."""
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


def full_colour(maps: Maps) -> float:
    """The size of weight that is drawn at full colour, the same for all `maps`."""
    return float(np.quantile(np.abs(maps), FULL_COLOUR_QUANTILE)) or float(np.abs(maps).max()) or 1.0


def colours(maps: Maps, full: float) -> Tiles:
    """[n,h,w] to RGB [n,h,w,3]: white at 0, red at `full` and beyond, blue at -`full`."""
    share = np.clip(maps / full, -1.0, 1.0)[..., None]
    end = np.where(share < 0, NEGATIVE, POSITIVE)
    mixed: Maps = WHITE + np.abs(share) * (end - WHITE)
    return np.rint(mixed).astype(np.uint8)


def filter_colours(filters: Maps) -> Tiles:
    """RGB filters [n,P,P,3] to RGB: mid-grey at 0, each filter's own largest weight at black or full light."""
    loudest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    share: Maps = np.divide(filters, loudest, out=np.zeros_like(filters), where=loudest > 0)
    return np.rint(GREY + GREY * share).astype(np.uint8)


def _finite(weight: npt.ArrayLike, name: str) -> Maps:
    values = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite; this network is broken, do not draw it")
    return values
