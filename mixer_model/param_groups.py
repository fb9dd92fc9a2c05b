"""Which parameters decay: weights of linear layers, convolutions and circulants; never biases, norms or scales.

    model -> two groups for torch.optim, in the order of named_parameters

As in the paper's recipe (big_vision decays what is named "kernel"). Frozen parameters are in neither group.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .token_mixers.ccs import Circulant


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: {"params", "weight_decay", "name": "decay"}, and "no_decay" with weight_decay 0.0.

    Every parameter that takes gradients is in exactly one of them. Raises ValueError for a negative
    `weight_decay`.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay is {weight_decay}; it must be 0 or more")
    decayed = _decayed(model)
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name in decayed].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay, "name": "decay"},
        {"params": groups[False], "weight_decay": 0.0, "name": "no_decay"},
    ]


def _decayed(model: nn.Module) -> set[str]:
    layers = (nn.Linear, nn.Conv2d, Circulant)
    return {
        f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, layers)
    }
