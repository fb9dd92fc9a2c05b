"""The layers that blocks are made of, and how little of them a backward pass may be left with."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_TWICE_ROOT: Final = 2.0 * math.sqrt(2.0 / math.pi)
_CUBIC: Final = 0.044715


class Gelu(nn.GELU):
    """GELU by tanh, or by erf; the tanh form is compiled as x * sigmoid(2z), which is x * (1 + tanh(z)) / 2.

    The same function, but one exponential where a compiled tanh is longer code. What is exported keeps the
    operator of its own name.
    """

    def __init__(self, activation: str) -> None:
        super().__init__(approximate="tanh" if activation == "gelu_tanh" else "none")

    def forward(self, x: Tensor) -> Tensor:
        if self.approximate == "tanh" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return x * torch.sigmoid(_TWICE_ROOT * (x + _CUBIC * x * x * x))
        return super().forward(x)


class Mlp(nn.Module):
    """Two linear layers over the last axis with a GELU between them, as wide at the end as at the start unless `outputs` is given."""

    recompute = False
    """Keep what goes into the GELU only; the backward pass computes what comes out of it again."""

    def __init__(self, width: int, hidden: int, activation: str, *, outputs: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = Gelu(activation)
        self.fc2 = nn.Linear(hidden, outputs or width)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.fc1(x))

    def finish(self, hidden: Tensor) -> Tensor:
        """The rest of the way from what goes into the GELU."""
        if not self.recompute:
            return self._second(hidden)
        # The recomputation ends where nothing more is needed: before the product.
        out: Tensor = checkpoint(self._second, hidden, use_reentrant=False, preserve_rng_state=False)
        return out

    def _second(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(hidden))
        return out


def recompute_gelu(model: nn.Module) -> None:
    """Every Mlp in `model` keeps what goes into its GELU only: as many values less as its hidden layer has."""
    for module in model.modules():
        if isinstance(module, Mlp):
            module.recompute = True
