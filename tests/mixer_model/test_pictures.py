"""The picture of token-mixing weights: its order, its colours, its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from mixer_model.pictures import frequencies, paired_order, strongest, token_mixing_png


def waves(cycles: list[float], side: int = 8) -> npt.NDArray[np.float64]:
    """One map per number: a cosine with so many cycles over the image."""
    along = np.arange(side) / side
    return np.stack([np.tile(np.cos(2 * np.pi * count * along), (side, 1)) for count in cycles])


def test_frequency_is_in_cycles_per_patch() -> None:
    assert frequencies(waves([0, 1, 2, 4])) == pytest.approx([0, 1 / 8, 2 / 8, 4 / 8], abs=1e-9)
    assert frequencies(np.zeros((1, 4, 4))).tolist() == [0.0]


def test_units_are_sorted_by_frequency_beside_their_opposite() -> None:
    low, middle, high = waves([1, 2, 4])
    order = paired_order(np.stack([high, -low, middle, -high, low, -2 * middle]))
    assert [set(order[at : at + 2].tolist()) for at in (0, 2, 4)] == [{1, 4}, {2, 5}, {0, 3}]


def test_every_unit_is_drawn_once() -> None:
    maps = np.random.default_rng(0).normal(size=(37, 5, 3))
    assert sorted(paired_order(maps).tolist()) == list(range(37))


def test_the_strongest_keep_their_order() -> None:
    maps = np.array([1.0, 5.0, 0.1, 3.0]).reshape(4, 1, 1)
    assert strongest(maps, 2).ravel().tolist() == [5.0, 3.0]
    assert strongest(maps, None) is maps


def test_colours_say_the_sign(tmp_path: Path) -> None:
    weight = torch.tensor([[-1.0, 0.0, 0.0, 1.0]])
    size = token_mixing_png(weight, (2, 2), tmp_path / "x.png")
    image = Image.open(tmp_path / "x.png").convert("RGB")
    assert image.size == size == (48 + 6, 48 + 6)
    pixels = np.asarray(image).astype(int)
    (red, _, blue), zero = pixels[10, 10], pixels[10, 40]
    assert blue > 100 + red
    assert zero.tolist() == [255, 255, 255]
    assert pixels[40, 40][0] > 100 + pixels[40, 40][2]


@pytest.mark.parametrize(("units", "columns", "size"), [(6, 4, (4, 2)), (3, 16, (3, 1)), (1, 1, (1, 1))])
def test_the_sheet_is_as_wide_as_asked(
    tmp_path: Path, units: int, columns: int, size: tuple[int, int]
) -> None:
    found = token_mixing_png(torch.randn(units, 16), (4, 4), tmp_path / "x.png", columns=columns)
    assert found == (size[0] * 51 + 3, size[1] * 51 + 3)


def test_weights_of_all_kinds_are_drawn(tmp_path: Path) -> None:
    token_mixing_png(torch.zeros(4, 6), (2, 3), tmp_path / "zero.png")
    token_mixing_png(torch.randn(4, 6, requires_grad=True).to(torch.bfloat16), (2, 3), tmp_path / "bf16.png")
    size = token_mixing_png(torch.randn(640, 256), (16, 16), tmp_path / "h14.png", columns=32, max_units=64)
    assert size == (32 * 51 + 3, 2 * 51 + 3)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the weight is \[4, 6\] and the grid 2 x 2; the weight must be \[D_S, 4\]"
    ):
        token_mixing_png(torch.zeros(4, 6), (2, 2), tmp_path / "x.png")
    with pytest.raises(ValueError, match="not finite"):
        token_mixing_png(torch.full((1, 4), float("nan")), (2, 2), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
