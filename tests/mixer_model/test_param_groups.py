"""Which parameters decay, and that each is in one group and no more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixer_model.config import MixerConfig
from mixer_model.mixer import Mixer
from mixer_model.param_groups import param_groups


def names_of(model: nn.Module, group: list[nn.Parameter]) -> list[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [by_id[id(parameter)] for parameter in group]


def test_kernels_decay_and_nothing_else(small: MixerConfig) -> None:
    model = Mixer(small, seed=None)
    decay, rest = param_groups(model, 0.1)
    assert (decay["name"], decay["weight_decay"], rest["name"], rest["weight_decay"]) == (
        "decay",
        0.1,
        "no_decay",
        0.0,
    )
    kernels = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert set(names_of(model, decay["params"])) == kernels
    assert {"stem.proj.weight", "blocks.0.mlp_tokens.fc1.weight", "head.weight"} <= kernels
    assert len(kernels) == 2 + 4 * small.depth
    assert len(decay["params"]) + len(rest["params"]) == len(list(model.parameters())) == 6 + 12 * small.depth


def test_groups_keep_the_models_order(small: MixerConfig) -> None:
    model = Mixer(small, seed=None)
    order = [name for name, _ in model.named_parameters()]
    for group in param_groups(model, 0.1):
        names = names_of(model, group["params"])
        assert names == sorted(names, key=order.index)


def test_frozen_parameters_are_left_out(small: MixerConfig) -> None:
    model = Mixer(small, seed=None)
    model.stem.requires_grad_(False)
    names = [name for group in param_groups(model, 0.1) for name in names_of(model, group["params"])]
    assert not [name for name in names if name.startswith("stem")]
    assert len(names) == len(order_without_stem(model))


def order_without_stem(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if not name.startswith("stem")]


def test_a_layer_alone_is_grouped_too() -> None:
    decay, rest = param_groups(nn.Linear(2, 3), 0.1)
    assert [p.ndim for p in decay["params"]] == [2]
    assert [p.ndim for p in rest["params"]] == [1]


def test_torch_takes_the_groups(small: MixerConfig) -> None:
    optimizer = torch.optim.AdamW(param_groups(Mixer(small), 0.1), lr=1e-3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_negative_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay is -1; it must be 0 or more"):
        param_groups(nn.Linear(2, 2), -1)
