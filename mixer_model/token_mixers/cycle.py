"""CycleMLP's unit: linear layers whose channels read from neighbouring places in turn (arXiv:2107.10224, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import MixerConfig
from ..token_shapes import CYCLE_SPAN
from .branch import Branch, read_from, to_grid
from .fuse import Fuse


class CycleMlp(Branch):
    """Y = Fuse(cycle(X, along H) Wh + bh, cycle(X, along W) Ww + bw, X Wc), all C -> C: [B,S,C] -> [B,S,C].

    cycle lets channel c read from its own place, one further or one back, for c mod 3 = 0, 1, 2, and 0 beyond the edge. The public code
    does this by deformable convolution; here it is two shifts and a choice, which compile. The source's network is a pyramid.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.side = config.grid
        self.down = nn.Linear(config.dim, config.dim)
        self.across = nn.Linear(config.dim, config.dim)
        self.own = nn.Linear(config.dim, config.dim, bias=False)
        self.fuse = Fuse(config)

    def forward(self, x: Tensor) -> Tensor:
        grid = to_grid(x, self.side)
        out: Tensor = self.fuse(self.down(cycled(grid, 1)), self.across(cycled(grid, 2)), self.own(grid))
        return out


def cycled(x: Tensor, axis: int) -> Tensor:
    """[B,H,W,C] with each channel read from its place along `axis` (1 or 2)."""
    turn = torch.arange(x.shape[-1], device=x.device) % CYCLE_SPAN
    back = torch.where(turn == 2, read_from(x, axis, -1), x)
    return torch.where(turn == 1, read_from(x, axis, 1), back)
