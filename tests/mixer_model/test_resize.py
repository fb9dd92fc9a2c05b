"""Surgery: a larger image is K² small ones at first, heads come and go, and what cannot be done is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mixer_model.config import TOKEN_MIXERS, ConfigError, MixerConfig, config
from mixer_model.cost import cost
from mixer_model.interop import WeightsError, check_state, timm_arguments
from mixer_model.mixer import Mixer
from mixer_model.resize import Fit, enlarge, fit, plan, raster_places


def scrambled(shape: MixerConfig) -> Mixer:
    """Every parameter random, in fp64, so that none hides behind a zero or a one."""
    model, generator = Mixer(shape).double(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return model


def larger(shape: MixerConfig, factor: int, **changed: int) -> MixerConfig:
    sizes = {"image_size": factor * shape.image_size, "token_dim": factor**2 * shape.token_dim}
    return config(None, **{**shape.to_dict(), **sizes, **changed})


def loaded(shape: MixerConfig, state: dict[str, Tensor]) -> Mixer:
    model = Mixer(shape).to(next(iter(state.values())).dtype)
    model.load_state_dict(state, strict=True)
    return model


def parts_of(images: Tensor, factor: int) -> list[Tensor]:
    """The factor² crops of each image, row by row."""
    return [part for row in images.chunk(factor, 2) for part in row.chunk(factor, 3)]


@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_the_logits_of_the_large_image_are_the_mean_over_its_parts(small: MixerConfig, factor: int) -> None:
    model = scrambled(small)
    big = loaded(larger(small, factor), enlarge(model.state_dict(), small, factor))
    side = factor * small.image_size
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([model(part) for part in parts_of(images, factor)]).mean(0)
    assert float(mean.abs().max()) > 0.1
    torch.testing.assert_close(big(images), mean, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_block_diagonal_in_raster_order_is_another_function(small: MixerConfig) -> None:
    """The trap: without the permutation, a "part" would be some rows of the image."""
    model, state = scrambled(small), scrambled(small).state_dict()
    wrong = enlarge(state, small, 2)
    for name in [name for name in wrong if ".mlp_tokens." in name]:
        copies = [state[name]] * 4
        wrong[name] = torch.block_diag(*copies) if name.endswith("weight") else torch.cat(copies)  # type: ignore[no-untyped-call]
    big = loaded(larger(small, 2), wrong)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([model(part) for part in parts_of(images, 2)]).mean(0)
    assert float((big(images) - mean).abs().max()) > 1e-3


def test_the_last_bias_of_token_mixing_goes_with_its_token(small: MixerConfig) -> None:
    """No logit tells: it is the same for all channels of a token, and every norm takes it away."""
    name = "blocks.0.mlp_tokens.fc2.bias"
    old = scrambled(small).state_dict()
    new = enlarge(old, small, 2)[name].reshape(2 * small.grid, 2 * small.grid)
    assert torch.equal(new, old[name].reshape(small.grid, small.grid).repeat(2, 2))


def test_tokens_are_counted_part_by_part() -> None:
    assert raster_places(2, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert sorted(raster_places(3, 3).tolist()) == list(range(81))


def test_parameters_of_the_published_sizes_at_448_pixels() -> None:
    huge = cost("H/14", classes=1000, image_size=448, token_dim=4 * 640)
    assert huge.params == 589_723_368
    large = cost("L/16", classes=1000, image_size=448, token_dim=4 * 512)
    assert large.params - 1000 * (1024 + 1) == 279_475_584


def test_what_comes_out_is_an_ordinary_mixer(timm: Any, small: MixerConfig) -> None:
    shape = larger(small, 2)
    state = fit(scrambled(small).state_dict(), small, shape)
    check_state(state, shape)
    assert {value.dtype for value in state.values()} == {torch.float32}
    other = timm.models.mlp_mixer.MlpMixer(**timm_arguments(shape)).eval()
    other.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(other(images), loaded(shape, state)(images), atol=1e-4, rtol=1e-4)


def test_another_number_of_classes_gets_a_zero_head_and_the_body_stays(small: MixerConfig) -> None:
    state, shape = scrambled(small).state_dict(), larger(small, 1, classes=5)
    made = fit(state, small, shape, head_bias=-1.5)
    assert made["head.weight"].shape == (5, small.dim)
    assert not made["head.weight"].any()
    assert made["head.bias"].tolist() == [-1.5] * 5
    assert all(torch.equal(made[name], state[name].float()) for name in state if not name.startswith("head."))


def test_the_same_classes_keep_their_head_unless_a_new_one_is_asked_for(small: MixerConfig) -> None:
    state = scrambled(small).state_dict()
    assert torch.equal(fit(state, small, small)["head.weight"], state["head.weight"].float())
    assert not fit(state, small, small, head="new")["head.weight"].any()
    assert plan(small, small) == Fit(1, "keep")
    assert plan(small, larger(small, 3, classes=3)) == Fit(3, "new")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"image_size": 48},
            r"image_size is 48.* 32 pixels; allowed are whole multiples of that \(32, 64, 96",
        ),
        ({"image_size": 16}, r"image_size is 16.*set image_size to one of them"),
        ({"image_size": 64}, r"token_dim is 20; at 64 pixels it must be 80, 2² times.*set token_dim to 80"),
        ({"token_dim": 80}, r"token_dim is 80; at 32 pixels it must be 20, .*set token_dim to 20"),
        ({"patch": 4}, r"patch is 4, and the weights have 8; set patch to 8"),
        ({"dim": 32}, r"dim is 32, and the weights have 24"),
        ({"depth": 2}, r"depth is 2, and the weights have 3"),
        ({"activation": "gelu"}, r"activation is 'gelu', and the weights have 'gelu_tanh'"),
    ],
)
def test_what_cannot_be_done_says_which_value_fits(
    small: MixerConfig, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(small, config(None, **{**small.to_dict(), **changed}))


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_a_hidden_width_that_a_mixer_does_not_have_keeps_nothing_from_starting(
    small: MixerConfig, mixer: str
) -> None:
    """Which mixers have one is told by their parameters, not by a list."""
    source = config(None, **{**small.to_dict(), "mixer": mixer})
    target = config(None, **{**source.to_dict(), "token_dim": 2 * source.token_dim})
    shapes = [
        {name: tuple(value.shape) for name, value in Mixer(shape, seed=None).state_dict().items()}
        for shape in (source, target)
    ]
    if shapes[0] == shapes[1]:
        assert plan(source, target) == Fit(1, "keep")
    else:
        with pytest.raises(ConfigError, match="token_dim is 40; at 32 pixels it must be 20"):
            plan(source, target)


def test_a_head_of_other_classes_cannot_be_kept(small: MixerConfig) -> None:
    with pytest.raises(ConfigError, match=r"has 7 classes; classes is 5: set classes to 7, or head to 'new'"):
        plan(small, larger(small, 1, classes=5), head="keep")


def test_other_token_mixers_start_at_their_own_size_only(small: MixerConfig) -> None:
    shape = config(None, **{**small.to_dict(), "mixer": "resmlp"})
    assert plan(shape, shape) == Fit(1, "keep")
    with pytest.raises(
        ConfigError, match=r"known for mixer 'mlp' only, this one is 'resmlp': set image_size to 32"
    ):
        plan(shape, larger(shape, 2))
    with pytest.raises(ConfigError, match=r"mixer is 'mlp', and the weights have 'resmlp'"):
        plan(shape, small)


@pytest.mark.parametrize("name", ["blocks.1.mlp_channels.fc1.bias", "stem.proj.weight", "head.bias"])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_state_that_is_not_whole_starts_nothing(small: MixerConfig, name: str, factor: int) -> None:
    state = scrambled(small).state_dict()
    del state[name]
    with pytest.raises(WeightsError, match=f"do not fit .*{name}"):
        fit(state, small, larger(small, factor), head="new")


def test_a_state_of_another_shape_than_it_is_said_to_be_starts_nothing(small: MixerConfig) -> None:
    state = scrambled(config(None, **{**small.to_dict(), "channel_dim": 48})).state_dict()
    with pytest.raises(WeightsError, match=r"do not fit .*mlp_channels"):
        fit(state, small, small)
