"""MS-MLP's mix-shift: channel groups move by more places the wider the kernel that then mixes them (arXiv:2202.06510, section 3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import MixerConfig
from ..token_shapes import MS_SHIFTS, MS_SIDES, ms_groups
from .branch import Branch, to_grid


class ShiftMix(nn.Module):
    """Groups of channels moved along one axis in a ring, each then convolved channel by channel: [B,H,W,C] -> [B,C,H,W]."""

    def __init__(self, dim: int, axis: int) -> None:
        super().__init__()
        self.axis, self.groups = axis, ms_groups(dim)
        self.convs: Iterable[nn.Conv2d] = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv2d(width, width, side, padding=side // 2, groups=width)
            for width, side in zip(self.groups, MS_SIDES, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(torch.split(x, self.groups, dim=-1), MS_SHIFTS, strict=True)
        moved = torch.cat([torch.roll(part, by, self.axis) for part, by in parts], dim=-1)
        weight = torch.cat([_padded(conv.weight) for conv in self.convs])
        bias = torch.cat([conv.bias for conv in self.convs if conv.bias is not None])
        return F.conv2d(
            moved.permute(0, 3, 1, 2), weight, bias, padding=max(MS_SIDES) // 2, groups=len(weight)
        )


class MixShift(Branch):
    """Y = sum over both axes of conv_g(roll(X_g, by s_g)), g being 5 groups of channels, s = -2..2: [B,S,C] -> [B,S,C].

    In the source this stands before a LayerNorm and a channel MLP inside one residual with LayerScale, in a pyramid. Here it is a branch
    of its own: LayerNorm before it, nothing after it, no LayerScale. All groups go through one convolution, small kernels in the middle
    of large ones.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.side = config.grid
        self.down, self.across = ShiftMix(config.dim, 1), ShiftMix(config.dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        grid = to_grid(x, self.side)
        out: Tensor = (self.down(grid) + self.across(grid)).permute(0, 2, 3, 1).flatten(1, 2)
        return out


def _padded(weight: Tensor) -> Tensor:
    """[C,1,k,k] in the middle of zeros [C,1,n,n], n being the widest kernel."""
    edge = (max(MS_SIDES) - weight.shape[-1]) // 2
    return F.pad(weight, (edge, edge, edge, edge))
