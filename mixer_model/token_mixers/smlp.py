"""sMLPNet's sparse MLP: tokens mix along their row and along their column (arXiv:2109.05422, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import MixerConfig
from ..layers import Gelu, Recomputes
from .branch import Branch, to_grid


class AxialMlp(Branch, Recomputes):
    """Z = GELU(X), Y = [Z, A Z along the columns, B Z along the rows] F: [B,S,C] -> [B,S,C].

    A [H,H] and B [W,W] with biases, shared by all channels and by all columns or rows; F [3C,C] without bias. In the source the network
    is a pyramid, and BatchNorm stands before the GELU, with a depthwise 3x3 layer before that. Here the block's LayerNorm does, and
    the 3x3 is left out.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.side = config.grid
        self.act = Gelu(config.activation)
        self.down = nn.Linear(config.grid, config.grid)
        self.across = nn.Linear(config.grid, config.grid)
        self.fuse = nn.Linear(3 * config.dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self._mixed, to_grid(x, self.side))

    def _mixed(self, grid: Tensor) -> Tensor:
        """All of it in one, so that the gradients of Z's three uses are summed before the GELU's, as where nothing is recomputed."""
        z = self.act(grid)
        down = self.down(z.transpose(1, 3)).transpose(1, 3)
        across = self.across(z.transpose(2, 3)).transpose(2, 3)
        out: Tensor = self.fuse(torch.cat([z, down, across], dim=-1)).flatten(1, 2)
        return out
