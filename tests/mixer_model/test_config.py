"""Shapes: the published sizes, the rule for hidden widths, and errors that say what to do."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mixer_model import PRESETS, ConfigError, create
from mixer_model.config import MixerConfig, config

# Table 1 of the paper: layers, P, C, S, D_C, D_S.
TABLE_1 = {
    "S/32": (8, 32, 512, 49, 2048, 256),
    "S/16": (8, 16, 512, 196, 2048, 256),
    "B/32": (12, 32, 768, 49, 3072, 384),
    "B/16": (12, 16, 768, 196, 3072, 384),
    "L/32": (24, 32, 1024, 49, 4096, 512),
    "L/16": (24, 16, 1024, 196, 4096, 512),
    "H/14": (32, 14, 1280, 256, 5120, 640),
}


def test_the_presets_are_the_papers_sizes() -> None:
    found = {
        name: (size.depth, size.patch, size.dim, size.tokens, size.channel_dim, size.token_dim)
        for name, size in PRESETS.items()
    }
    assert found == TABLE_1


def test_overrides_go_on_top_of_a_preset() -> None:
    made = config("H/14", classes=21843, drop_path=0.1, image_size=448)
    assert (made.classes, made.drop_path, made.grid, made.tokens) == (21843, 0.1, 32, 1024)
    assert (made.dim, made.token_dim) == (1280, 640)


def test_gelu_is_by_tanh_unless_another_is_named() -> None:
    """As in JAX, and so in every published network; torch's default is erf's."""
    assert config("B/16").activation == "gelu_tanh"


def test_hidden_widths_follow_the_width_unless_named() -> None:
    assert (config("S/16", dim=64).token_dim, config("S/16", dim=64).channel_dim) == (32, 256)
    assert config("S/16", dim=64, token_dim=7).token_dim == 7
    assert config(None, patch=8, dim=64, depth=2).channel_dim == 256


def test_a_config_survives_json(small: MixerConfig) -> None:
    assert config(None, **json.loads(json.dumps(small.to_dict()))) == small


def test_a_config_is_frozen(small: MixerConfig) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("H/41", {}, r"no preset 'H/41', did you mean 'H/14'\?; allowed: S/32, .*H/14"),
        ("h/14", {}, r"did you mean 'H/14'\?"),
        ("H/14", {"clases": 10}, r"no field 'clases' in a Mixer, did you mean 'classes'\?"),
        (None, {"dim": 8}, r"patch, depth not given; give them, or a preset: S/32"),
        ("B/16", {"image_size": 15}, r"image_size 15 is not a multiple of patch 16; take 16$"),
        ("B/16", {"image_size": 230}, r"image_size 230 is not a multiple of patch 16; take 224 or 240"),
        ("B/16", {"image_size": 8}, r"take 16 or 16|take 16"),
        ("B/16", {"classes": 0}, r"classes is 0; it must be a whole number of at least 1"),
        ("B/16", {"depth": True}, r"depth is True"),
        ("B/16", {"dim": "wide"}, r"dim is 'wide'"),
        ("B/16", {"drop_path": 1.0}, r"drop_path is 1.0; it must be a number from 0 up to"),
        ("B/16", {"drop_path": float("nan")}, r"drop_path is nan"),
        ("B/16", {"activation": "relu"}, r"activation 'relu' is not known; allowed: gelu, gelu_tanh"),
    ],
)
def test_errors_say_what_was_given_and_what_is_allowed(
    preset: str | None, overrides: dict[str, int | float | str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(preset, **overrides)


def test_create_builds_what_was_asked_for() -> None:
    model = create("S/32", classes=10, image_size=64, seed=3)
    assert (model.config.classes, model.config.tokens) == (10, 4)
    assert model.head.weight.shape == (10, 512)
