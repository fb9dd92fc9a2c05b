"""How CycleMLP and Hire-MLP join three branches: weights per channel from the mean over the image, then a projection."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..config import MixerConfig
from ..layers import Mlp
from ..token_shapes import REWEIGHT
from .branch import Branch


class Fuse(Branch):
    """sum_i a_i * branch_i, then linear C -> C, with [a_1 a_2 a_3] = softmax over i of MLP(mean over the places of the branches' sum).

    arXiv:2107.10224 (CycleMLP) and arXiv:2108.13341 (Hire-MLP), their public code. The MLP is C -> C/4 -> 3C; neighbouring outputs are
    the three weights of one channel.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.reweight = Mlp(config.dim, config.dim // REWEIGHT, config.activation, outputs=3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def gains(self) -> dict[str, float]:
        """The first weights are near a third each, and the mean of three branches has a third of their variance: proj makes up for it."""
        return {"proj.weight": math.sqrt(3.0)}

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Three [B,H,W,C] -> [B,S,C]."""
        mean = (first + second + third).mean(dim=(1, 2))
        a = self.reweight(mean).view(mean.shape[0], 1, 1, -1, 3).softmax(dim=-1)
        mixed = first * a[..., 0] + second * a[..., 1] + third * a[..., 2]
        out: Tensor = self.proj(mixed).flatten(1, 2)
        return out
