"""S2-MLP's spatial shift: four channel groups move by one patch, each its own way (arXiv:2106.07477, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import MixerConfig
from ..layers import Mlp
from ..token_shapes import S2_GROUPS
from .branch import Branch, pushed, to_grid


class SpatialShift(Branch):
    """Y = shift(GELU(X W1 + b1)) W2 + b2, both C -> C: [B,S,C] -> [B,S,C]. No weight mixes tokens, and none depends on S.

    The groups move down, up, right and left; the edge that a group leaves keeps its own values. The shift makes a new tensor: written
    into its own input, as in a widely copied version, the first row would smear over all others.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.mlp = _ShiftMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x)
        return out


class _ShiftMlp(Mlp):
    """An MLP over channels whose hidden layer is shifted."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config.dim, config.dim, config.activation)
        self.side = config.grid

    def _second(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.fc2(shifted(to_grid(self.act(hidden), self.side)).flatten(1, 2))
        return out


def shifted(x: Tensor) -> Tensor:
    """The shift of [B,H,W,C], as a new tensor."""
    down, up, right, left = x.chunk(S2_GROUPS, dim=-1)
    return torch.cat(
        [pushed(down, 1, 1), pushed(up, 1, -1), pushed(right, 2, 1), pushed(left, 2, -1)], dim=-1
    )
