"""Pictures of a network's weights: which parameters, how many tiles, and where each lies on a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mixer_model import maps
from mixer_model.config import MixerConfig, config
from mixer_model.mixer import Mixer
from mixer_model.pictures import (
    OVER_POSITIONS,
    STEM,
    columns,
    gap,
    panels,
    png,
    stem_panel,
    token_panel,
    wanted,
)
from mixer_model.sheets import sheet, write_sheet

Weights = dict[str, npt.NDArray[Any]]


def weights_of(shape: MixerConfig) -> Weights:
    state = Mixer(shape, seed=1).state_dict()
    return {name: state[name].numpy() for name in wanted(shape, {name: v.shape for name, v in state.items()})}


def test_the_first_three_token_mlps_and_the_stem_are_drawn() -> None:
    deep = config(None, patch=8, dim=6, depth=5, token_dim=10, image_size=32)
    weights = weights_of(deep)
    assert list(weights) == [*(f"blocks.{n}.mlp_tokens.fc1.weight" for n in range(3)), STEM]
    tokens, stem = panels(weights, deep)
    assert [panel.title for panel in tokens] == ["block 1", "block 2", "block 3"]
    assert [panel.under for panel in tokens] == ["all 10 units"] * 3
    assert stem is not None
    assert stem.under == "all 6 filters"
    assert [panel.under for panel in panels(weights, deep, most=4)[0]] == ["the 4 strongest of 10 units"] * 3


def test_what_a_network_lacks_is_left_out() -> None:
    shallow = config(None, patch=8, dim=6, depth=2, token_dim=10, image_size=32)
    assert len(panels(weights_of(shallow), shallow)[0]) == 2
    assert wanted(shallow, {"head.weight": [10, 6]}) == []
    assert panels({}, shallow) == ([], None)


def test_a_tile_lies_where_its_place_in_the_order_says() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 16))
    panel = token_panel(weight, 4, "x")
    drawn = maps.colours(maps.token_maps(weight, 4), panel.full or 0)
    order = maps.paired_order(maps.token_maps(weight, 4))
    pixels = panel.enlarged(4, 5)
    edge = gap(5)
    step = 4 * 5 + edge
    for place, unit in enumerate(order):
        top, left = edge + place // 4 * step, edge + place % 4 * step
        assert np.array_equal(pixels[top : top + 20 : 5, left : left + 20 : 5], drawn[unit])
    assert pixels.shape == (2 * step + edge, 4 * step + edge, 3)


def test_filters_come_strongest_first() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3, 2, 2)) * np.array([1, 4, 2, 8, 3]).reshape(
        -1, 1, 1, 1
    )
    drawn = maps.filter_colours(maps.filter_maps(weight))
    assert np.array_equal(stem_panel(weight).tiles, drawn[[3, 1, 4, 2, 0]])
    assert np.array_equal(stem_panel(weight, 2).tiles, drawn[[3, 1]])


@pytest.mark.parametrize(
    ("count", "wide"), [(1, 1), (2, 2), (5, 2), (64, 8), (96, 12), (256, 16), (384, 24), (640, 28)]
)
def test_pairs_stay_in_one_row(count: int, wide: int) -> None:
    assert columns(count) == wide


@pytest.mark.parametrize("preset", ["S/32", "B/16"])
def test_sheets_of_published_shapes_hold_every_unit(preset: str) -> None:
    shape, rng = config(preset), np.random.default_rng(0)
    weights: Weights = {"blocks.0.mlp_tokens.fc1.weight": rng.normal(size=(shape.token_dim, shape.tokens))}
    weights[STEM] = rng.normal(size=(shape.dim, 3, shape.patch, shape.patch))
    tokens, stem = panels(weights, shape)
    assert stem is not None
    assert (len(tokens[0].tiles), len(stem.tiles)) == (shape.token_dim, shape.dim)
    assert sheet("a", "b", tokens, stem).width >= 656


@pytest.mark.parametrize("mixer", sorted(OVER_POSITIONS))
def test_what_a_tile_is_said_to_be_is_what_the_mixer_has(mixer: str) -> None:
    shape = config(None, patch=8, dim=16, depth=1, image_size=32, token_dim=8, channel_dim=32, mixer=mixer)
    name = f"blocks.0.mlp_tokens.{OVER_POSITIONS[mixer]}"
    tokens, stem = panels({name: np.ones((4, shape.tokens)), STEM: np.ones((16, 3, 8, 8))}, shape)
    assert stem is not None
    assert ("hidden unit" in tokens[0].says, "filter of the stem" in stem.says) == (mixer == "mlp", True)


@pytest.mark.parametrize("sides", [{"token_dim": 1, "dim": 1}, {"token_dim": 5, "dim": 12}])
def test_tiny_networks_have_sheets_too(tmp_path: Path, sides: dict[str, int]) -> None:
    shape = config(None, patch=32, depth=1, image_size=32, **sides)
    size = write_sheet(tmp_path / "new" / "x.png", "tiny", "", *panels(weights_of(shape), shape))
    with Image.open(tmp_path / "new" / "x.png") as image:
        image.load()
        assert image.size == size
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.png"]


def test_a_png_gives_its_pixels_back(tmp_path: Path) -> None:
    pixels = token_panel(np.eye(4), 2, "x").pixels(2, 100)
    (tmp_path / "x.png").write_bytes(png(pixels))
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert pixels.shape[1] >= 100


def test_nothing_to_draw_and_broken_weights_are_refused(tmp_path: Path, small: MixerConfig) -> None:
    with pytest.raises(ValueError, match="no panel"):
        write_sheet(tmp_path / "x.png", "a", "b", [], None)
    weights = weights_of(small)
    weights["blocks.1.mlp_tokens.fc1.weight"] = np.full((20, 16), np.nan)
    with pytest.raises(
        ValueError, match=r"blocks\.1\.mlp_tokens\.fc1\.weight holds numbers that are not finite"
    ):
        panels(weights, small)
    assert list(tmp_path.iterdir()) == []
