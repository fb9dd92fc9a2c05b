"""What the token mixers of the related work have in common: how a branch starts, and the grid that its tokens lie on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Branch(nn.Module):
    """A token mixer: [B,S,C] -> [B,S,C]."""

    def starts(self) -> dict[str, float]:
        """Parameters of this branch, by name, that begin at a constant instead of by the rule of `Mixer.reset`."""
        return {}

    def gains(self) -> dict[str, float]:
        """Kernels of this branch, by name, that begin that many times as wide as by the rule of `Mixer.reset`."""
        return {}


def to_grid(x: Tensor, side: int) -> Tensor:
    """[B,S,C] -> [B,H,W,C], with H = W = `side`."""
    return x.reshape(x.shape[0], side, side, -1)


def pushed(x: Tensor, axis: int, by: int) -> Tensor:
    """A new tensor: `x` moved by one place along `axis`, on (`by` 1) or back (-1). The edge it leaves keeps its own values."""
    last = x.shape[axis] - 1
    if by > 0:
        return torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, last)], dim=axis)
    return torch.cat([x.narrow(axis, 1, last), x.narrow(axis, last, 1)], dim=axis)


def read_from(x: Tensor, axis: int, offset: int) -> Tensor:
    """A new tensor of `x` [B,H,W,C]: at each place what stands `offset` (1 or -1) places further along `axis` (1 or 2), 0 beyond."""
    padding = [0, 0] * (x.ndim - 1 - axis) + ([0, 1] if offset > 0 else [1, 0])
    return F.pad(x, padding).narrow(axis, max(offset, 0), x.shape[axis])
