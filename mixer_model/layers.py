"""The layers that blocks are made of, and how little of them a backward pass may be left with."""

from __future__ import annotations

import math
from collections.abc import Callable
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


class Recomputes(nn.Module):
    """A module with a GELU of its own, which may be told to keep what goes into that only."""

    recompute = False
    """Whether the backward pass computes again what comes out of the GELU, and what is made of that on the way to a product."""

    def again(self, part: Callable[..., Tensor], *given: Tensor) -> Tensor:
        """part(*given), of which the backward pass keeps no more than `given` where it recomputes.

        The recomputation ends where nothing more is needed: a product that comes last in `part` is not computed twice.
        """
        if not self.recompute:
            return part(*given)
        out: Tensor = checkpoint(part, *given, use_reentrant=False, preserve_rng_state=False)
        return out


class Mlp(Recomputes):
    """Two linear layers over the last axis with a GELU between them, as wide at the end as at the start unless `outputs` is given."""

    def __init__(self, width: int, hidden: int, activation: str, *, outputs: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = Gelu(activation)
        self.fc2 = nn.Linear(hidden, outputs or width)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.fc1(x))

    def finish(self, hidden: Tensor) -> Tensor:
        """The rest of the way from what goes into the GELU."""
        return self.again(self._second, hidden)

    def _second(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(hidden))
        return out


def recompute_gelu(model: nn.Module) -> None:
    """Every MLP and every token mixer in `model` keeps what goes into its GELU only; `mixer_model.cost` says how much less that is."""
    for module in model.modules():
        if isinstance(module, Recomputes):
            module.recompute = True
