"""Costs against three witnesses: a table, torch's own FLOP counter, and tensors saved by autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mixer_model import PRESETS, cost
from mixer_model.config import ConfigError, MixerConfig, config
from mixer_model.cost import RECOMPUTE
from mixer_model.layers import recompute_gelu
from mixer_model.mixer import Block, Mixer

# name: body parameters, with 1000, 21841 and 21843 classes; GMAC forward without a head; GFLOP forward and
# forward + backward with 1000 classes.
TABLE = {
    "S/32": (18_591_624, 19_104_624, 29_796_057, 29_797_083, "1.002", "2.005", "5.86"),
    "S/16": (18_015_264, 18_528_264, 29_219_697, 29_220_723, "3.776", "7.554", "22.51"),
    "B/32": (59_524_428, 60_293_428, 76_320_157, 76_321_695, "3.237", "6.475", "19.20"),
    "B/16": (59_111_472, 59_880_472, 75_907_201, 75_908_739, "12.601", "25.20", "75.38"),
    "L/32": (205_914_264, 206_939_264, 228_301_289, 228_303_339, "11.252", "22.51", "67.21"),
    "L/16": (207_171_168, 208_196_168, 229_558_193, 229_560_243, "44.547", "89.10", "266.98"),
    "H/14": (431_069_952, 432_350_952, 459_048_273, 459_050_835, "120.989", "241.98", "725.55"),
}


def giga(count: float, like: str) -> str:
    """`count` in billions, with as many decimals as `like` has."""
    return f"{count / 1e9:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", TABLE)
def test_parameters_are_exact(name: str) -> None:
    body, with_1000, with_21841, with_21843, *_ = TABLE[name]
    found = [cost(name, classes=classes).params for classes in (1000, 21841, 21843)]
    assert found == [with_1000, with_21841, with_21843]
    assert cost(name, classes=1000).params - 1000 * (PRESETS[name].dim + 1) == body
    for classes, wanted in zip((1000, 21841, 21843), found, strict=True):
        model = Mixer(config(name, classes=classes), seed=None)
        assert sum(parameter.numel() for parameter in model.parameters()) == wanted


@pytest.mark.parametrize("name", TABLE)
def test_operations_are_those_of_the_table(name: str) -> None:
    *_, macs, forward, train = TABLE[name]
    found = cost(name, classes=1000)
    without_head = found.flops_forward / 2 - 1000 * PRESETS[name].dim
    assert giga(without_head, macs) == macs
    assert giga(found.flops_forward, forward) == forward
    assert giga(found.flops_train, train) == train


@pytest.mark.parametrize("name", TABLE)
def test_operations_are_those_torch_counts(name: str) -> None:
    model = Mixer(config(name, classes=1000), seed=None)
    with FlopCounterMode(display=False) as forward:
        logits = model(torch.empty(1, 3, 224, 224, device="meta"))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    found = cost(name, classes=1000)
    assert forward.get_total_flops() == found.flops_forward
    assert forward.get_total_flops() + backward.get_total_flops() == found.flops_train


def test_the_unit_of_activation_memory_is_one_image() -> None:
    assert cost("H/14", classes=1000).activation_bytes == 32 * 2 * 5_570_560
    assert cost("H/14", classes=1000, bytes_per_value=4).activation_bytes == 32 * 4 * 5_570_560
    assert cost("H/14", classes=10).activation_bytes == cost("H/14", classes=1000).activation_bytes


def test_recomputing_gelu_takes_away_what_comes_out_of_it() -> None:
    saved = cost("H/14").activation_bytes - cost("H/14", recompute="gelu").activation_bytes
    assert saved == 32 * 2 * (1280 * 640 + 256 * 5120)
    assert round(saved / cost("H/14").activation_bytes, 2) == 0.38
    assert cost("H/14", recompute="block").flops_train == cost("H/14").flops_train
    with pytest.raises(ConfigError, match="recompute 'all' is not known; allowed: none, gelu, block"):
        cost("H/14", recompute="all")


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_activation_memory_is_what_a_block_saves(small: MixerConfig, recompute: str) -> None:
    """Weights, and the two numbers per token a norm saves, are not activations in the sense of the table."""
    block = Block(small)
    run: Callable[[torch.Tensor], torch.Tensor] = block
    if recompute == "gelu":
        recompute_gelu(block)
    elif recompute == "block":
        run = partial(checkpoint, block, use_reentrant=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights and tensor.numel() > small.tokens * 2:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(1, small.tokens, small.dim, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept_alive = run(x)
    expected = cost(small, bytes_per_value=4, recompute=recompute).activation_bytes // small.depth
    assert sum(saved.values()) == expected
    assert kept_alive.shape == x.shape


def test_a_config_and_its_overrides_are_taken_too(small: MixerConfig) -> None:
    assert cost(small).params == sum(p.numel() for p in Mixer(small, seed=None).parameters())
    narrow = config("S/16", dim=64)
    assert cost("S/16", dim=64) == cost(narrow)
    assert cost(PRESETS["S/16"], dim=64) == cost("S/16", dim=64, token_dim=256, channel_dim=2048)
    assert cost(small, classes=8).params - cost(small, classes=7).params == small.dim + 1
