"""Costs of the token mixers against the built modules, torch's FLOP counter, and tensors saved by autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mixer_model.config import TOKEN_MIXERS, MixerConfig
from mixer_model.cost import RECOMPUTE, cost
from mixer_model.layers import recompute_gelu
from mixer_model.mixer import Block, Mixer
from mixer_model.token_costs import token_cost
from tests.mixer_model.mixers import shape_of

SHAPES: list[dict[str, int]] = [
    {},
    {"dim": 40, "token_dim": 12, "image_size": 48},
    {"dim": 8, "patch": 4, "depth": 1},
]
CONVOLVED = ("depthwise", "ms")


@pytest.mark.parametrize(
    ("dim", "depth", "params", "macs"), [(768, 12, "72.24", "13.99"), (384, 36, "53.92", "10.46")]
)
def test_s2_has_the_size_of_its_networks(dim: int, depth: int, params: str, macs: str) -> None:
    """S2-MLP wide and deep: millions of parameters and GMAC, as a public implementation of both has."""
    found = cost("B/16", classes=1000, dim=dim, depth=depth, mixer="s2")
    assert (f"{found.params / 1e6:.2f}", f"{found.flops_forward / 2e9:.2f}") == (params, macs)


def test_resmlp_has_the_size_of_its_network() -> None:
    """ResMLP-S24, but for the LayerScale of its channel MLPs."""
    assert cost("B/16", classes=1000, dim=384, depth=24, mixer="resmlp").params == 30_020_680 - 24 * 384


@pytest.mark.parametrize("numbers", SHAPES)
@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_parameters_are_those_of_the_module(mixer: str, numbers: dict[str, int]) -> None:
    shape = shape_of(mixer, **numbers)
    model = Mixer(shape, seed=None)
    assert cost(shape).params == sum(parameter.numel() for parameter in model.parameters())
    branch = model.blocks[0].mlp_tokens
    assert token_cost(shape).params == sum(parameter.numel() for parameter in branch.parameters())


@pytest.mark.parametrize("numbers", SHAPES)
@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_operations_are_those_torch_counts(mixer: str, numbers: dict[str, int]) -> None:
    """Torch's counter forgets the groups of a convolution in the gradient of its kernel, so it counts that C times."""
    shape = shape_of(mixer, **numbers)
    model, found = Mixer(shape, seed=None), cost(shape)
    with FlopCounterMode(display=False) as forward:
        logits = model(torch.empty(1, 3, shape.image_size, shape.image_size, device="meta"))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    too_much = 2 * (shape.dim - 1) * shape.depth * token_cost(shape).macs if mixer in CONVOLVED else 0
    assert forward.get_total_flops() == found.flops_forward
    assert forward.get_total_flops() + backward.get_total_flops() == found.flops_train + too_much


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_activation_memory_is_what_the_blocks_save(mixer: str, recompute: str) -> None:
    """Per image: the second image's share, so that what is made of weights once is not in it. Nor are a norm's two numbers a row."""
    shape = shape_of(mixer)
    blocks = range(shape.depth)
    second = sum(saved(shape, block, 2, recompute) - saved(shape, block, 1, recompute) for block in blocks)
    assert second == cost(shape, bytes_per_value=4, recompute=recompute).activation_bytes


def test_recomputing_gelu_leaves_what_goes_into_it() -> None:
    """And of gmlp its gate, which is a product; all else that gmlp, s2 and smlp make of a GELU goes. Numbers of one image and block."""
    tokens, width, hidden = 16, 24, 20
    kept = {"gmlp": tokens * width + 3 * tokens * hidden, "s2": 2 * tokens * width, "smlp": tokens * width}
    for mixer, values in kept.items():
        shape = shape_of(mixer, depth=1)
        found = cost(shape, bytes_per_value=1, recompute="gelu").activation_bytes
        assert found == values + 3 * tokens * width + tokens * shape.channel_dim, mixer


def saved(shape: MixerConfig, number: int, batch: int, recompute: str) -> int:
    """Bytes that block `number` keeps for the backward pass of `batch` images."""
    block, kept = Block(shape, number), {}
    run: Callable[[torch.Tensor], torch.Tensor] = block
    if recompute == "gelu":
        recompute_gelu(block)
    elif recompute == "block":
        run = partial(checkpoint, block, use_reentrant=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        of_a_norm = tensor.ndim > 2 and tensor.shape[-1] == 1
        if (
            tensor.untyped_storage().data_ptr() not in weights
            and tensor.is_floating_point()
            and not of_a_norm
        ):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.no_grad():
        for parameter in block.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
    x = torch.randn(batch, shape.tokens, shape.dim, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept_alive = run(x)
    assert kept_alive.shape == x.shape
    return sum(kept.values())
