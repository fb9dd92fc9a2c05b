"""ConvMLP's token mixing: a 3x3 convolution of each channel by itself (arXiv:2109.04454, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import MixerConfig
from ..token_shapes import DEPTHWISE_SIDE
from .branch import Branch, to_grid


class Depthwise(Branch):
    """y = k_c * x_c for each channel c on the grid, 0 beyond the edge, no bias: [B,S,C] -> [B,S,C].

    In the source nothing is added around it and two channel MLPs stand about it, in a pyramid; here it is inside the block's residual.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.side = config.grid
        size, width = DEPTHWISE_SIDE, config.dim
        self.conv = nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(to_grid(x, self.side).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        return out
