"""The network against the paper's equations in numpy: logits, gradients, and the invariance that the paper shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mixer_model.config import config
from mixer_model.interop import from_google, to_google
from mixer_model.mixer import Mixer
from tests.mixer_model import equations
from tests.mixer_model.equations import Array, Tree, random_tree

SHAPES: dict[str, dict[str, int]] = {
    "small": {"patch": 8, "side": 32, "dim": 24, "depth": 3, "token": 20, "channel": 40, "classes": 7},
    "one token": {"patch": 6, "side": 6, "dim": 10, "depth": 2, "token": 3, "channel": 12, "classes": 2},
    "one block, odd": {"patch": 3, "side": 15, "dim": 9, "depth": 1, "token": 11, "channel": 5, "classes": 4},
    "H/14's patch": {
        "patch": 14,
        "side": 56,
        "dim": 40,
        "depth": 4,
        "token": 20,
        "channel": 160,
        "classes": 5,
    },
    "deep": {"patch": 4, "side": 16, "dim": 16, "depth": 32, "token": 8, "channel": 64, "classes": 3},
}
DEAD = "mlp_tokens.fc2.bias"
APART = {torch.float64: 1e-12, torch.float32: 2e-5}


def network(tree: Tree, shape: dict[str, int], dtype: torch.dtype, activation: str = "gelu_tanh") -> Mixer:
    names = {"side": "image_size", "token": "token_dim", "channel": "channel_dim"}
    fields = {names.get(key, key): value for key, value in shape.items()}
    model = Mixer(config(None, **fields, activation=activation)).to(dtype)
    model.load_state_dict(from_google(tree), strict=True)
    return model


def as_torch(images: Array, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype)


def batch(rng: np.random.Generator, shape: dict[str, int], count: int = 3) -> Array:
    return rng.uniform(-1, 1, size=(count, shape["side"], shape["side"], 3))


def apart(found: torch.Tensor, wanted: Array) -> float:
    """Largest difference, as a share of the largest value."""
    return float(np.abs(found.detach().double().numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("dtype", APART, ids=str)
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_the_equations(name: str, activation: str, dtype: torch.dtype) -> None:
    rng, shape = np.random.default_rng(0), SHAPES[name]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    wanted = equations.logits(tree, images, tanh=activation == "gelu_tanh")
    found = network(tree, shape, dtype, activation)(as_torch(images, dtype))
    assert found.dtype == dtype
    assert apart(found, wanted) < APART[dtype]


@pytest.mark.parametrize("name", ["small", "one block, odd", "H/14's patch"])
def test_gradients_are_those_of_the_equations(name: str) -> None:
    """Of each parameter: the slope along a random direction, by differences of the equations in fp64."""
    rng, shape = np.random.default_rng(1), SHAPES[name]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    weigh = rng.normal(size=(len(images), shape["classes"]))
    model = network(tree, shape, torch.float64)
    torch.autograd.backward((model(as_torch(images, torch.float64)) * torch.from_numpy(weigh)).sum())
    grads = to_google(
        {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    )
    assert grads.keys() == tree.keys()
    for parameter, value in tree.items():
        along = rng.normal(size=value.shape)
        step = 1e-5 / np.linalg.norm(along)
        above, below = (
            equations.logits({**tree, parameter: value + sign * step * along}, images) for sign in (1, -1)
        )
        slope = float(((above - below) * weigh).sum() / (2 * step))
        assert float((grads[parameter].numpy() * along).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7), (
            parameter
        )


def test_gradients_in_fp32_are_those_in_fp64() -> None:
    rng, shape = np.random.default_rng(2), SHAPES["small"]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    found: list[dict[str, torch.Tensor]] = []
    for dtype in (torch.float64, torch.float32):
        model = network(tree, shape, dtype)
        torch.autograd.backward(model(as_torch(images, dtype)).square().sum())
        found.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    for name, exact in found[0].items():
        if not name.endswith(DEAD):
            assert apart(found[1][name], exact.numpy()) < 1e-4, name


def test_the_last_bias_of_token_mixing_changes_nothing() -> None:
    """It adds the same to all channels of a token, and every norm after it takes that away: a parameter that no gradient reaches."""
    rng, shape = np.random.default_rng(8), SHAPES["small"]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    other = {
        name: value + 3 * rng.normal(size=value.shape) if "token_mixing/Dense_1/bias" in name else value
        for name, value in tree.items()
    }
    assert (
        apart(
            network(other, shape, torch.float64)(as_torch(images, torch.float64)),
            equations.logits(tree, images),
        )
        < 1e-6
    )


def test_the_norm_adds_1e_6_and_not_torchs_1e_5() -> None:
    """Where tokens hardly differ from their mean it decides: here the variance is about 1e-6."""
    rng, shape = np.random.default_rng(3), SHAPES["small"]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    for name in ("stem/kernel", "stem/bias"):
        tree[name] *= 1e-3
    found = network(tree, shape, torch.float64)(as_torch(images, torch.float64))
    assert apart(found, equations.logits(tree, images)) < 1e-10
    assert apart(found, equations.logits(tree, images, eps=1e-5)) > 1e-2


def test_tanh_is_not_erf() -> None:
    """By 1e-3 of a logit at most, which a loose tolerance would not see."""
    rng, shape = np.random.default_rng(4), SHAPES["small"]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    found = network(tree, shape, torch.float64)(as_torch(images, torch.float64))
    assert 1e-6 < apart(found, equations.logits(tree, images, tanh=False)) < 1e-2


def test_flaxs_fast_variance_is_the_same_to_fp32() -> None:
    rng, shape = np.random.default_rng(5), SHAPES["deep"]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    fast = equations.logits(
        {name: value.astype(np.float32) for name, value in tree.items()},
        images.astype(np.float32),
        fast_variance=True,
    )
    assert apart(network(tree, shape, torch.float32)(as_torch(images, torch.float32)), fast) < 1e-4


def test_patches_may_be_shuffled_and_so_may_the_pixels_in_them() -> None:
    """Section 3.4: the same order for all images is nothing but another numbering of the weights. There is no position embedding."""
    rng, shape = np.random.default_rng(6), SHAPES["H/14's patch"]
    patch, grid = shape["patch"], shape["side"] // shape["patch"]
    tree, images = random_tree(rng, **shape), batch(rng, shape)
    tokens, pixels = rng.permutation(grid**2), rng.permutation(patch**2)

    cut = images.reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3).reshape(-1, grid**2, patch**2, 3)
    mixed = (
        cut[:, tokens][:, :, pixels]
        .reshape(-1, grid, grid, patch, patch, 3)
        .swapaxes(2, 3)
        .reshape(images.shape)
    )
    relabelled = dict(tree)
    relabelled["stem/kernel"] = (
        tree["stem/kernel"].reshape(patch**2, 3, -1)[pixels].reshape(tree["stem/kernel"].shape)
    )
    for name, value in tree.items():
        if name.endswith("token_mixing/Dense_0/kernel"):
            relabelled[name] = value[tokens]
        elif "token_mixing/Dense_1/" in name:
            relabelled[name] = value[..., tokens]

    plain, other = network(tree, shape, torch.float64), network(relabelled, shape, torch.float64)
    wanted = plain(as_torch(images, torch.float64)).detach().numpy()
    assert apart(other(as_torch(mixed, torch.float64)), wanted) < 1e-12
    assert apart(plain(as_torch(mixed, torch.float64)), wanted) > 1e-2


def test_a_first_step_moves_the_head_alone_and_the_second_everything() -> None:
    rng, shape = np.random.default_rng(7), SHAPES["small"]
    images = as_torch(batch(rng, shape), torch.float32)
    tree = random_tree(rng, **shape)
    model = Mixer(network(tree, shape, torch.float32).config, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moved: list[set[str]] = []
    for _ in range(2):
        optimizer.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(model(images), torch.arange(3))
        loss.backward()
        moved.append(
            {
                name
                for name, value in model.named_parameters()
                if value.grad is not None and bool(value.grad.any())
            }
        )
        optimizer.step()
    assert moved[0] == {"head.weight", "head.bias"}
    assert {name for name, _ in model.named_parameters() if not name.endswith(DEAD)} <= moved[1]
