"""Hire-MLP's unit: tokens mix inside regions of neighbouring rows or columns, which overlap from block to block (arXiv:2108.13341)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import MixerConfig
from ..token_shapes import HIRE_FOLD, HIRE_SHIFT
from .branch import Branch, to_grid
from .fuse import Fuse

NORM_EPS: Final = 1e-6


class Region(nn.Module):
    """R(x) = ReLU(LN(x U)) V + v on a whole region: pC -> D -> pC, with D = token_dim and p rows (columns) in a region.

    In the source BatchNorm stands where LN does; a statistic over the batch would depend on how many workers share it.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(HIRE_FOLD * config.dim, config.token_dim, bias=False)
        self.norm = nn.LayerNorm(config.token_dim, eps=NORM_EPS)
        self.leave = nn.Linear(config.token_dim, HIRE_FOLD * config.dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(F.relu(self.norm(self.enter(x))))
        return out


class HireMlp(Branch):
    """Y = Fuse(regions of rows, regions of columns, X Wc + bc): [B,S,C] -> [B,S,C]. Section 3.2 of the paper.

    Rows are moved on by one place in a ring before they are folded, and back afterwards, in every second block (`moved`), so that
    regions exchange. The source's network is a pyramid; what its grid lacks to a whole region it pads, here it must divide.
    """

    def __init__(self, config: MixerConfig, *, moved: bool = False) -> None:
        super().__init__()
        self.side, self.by = config.grid, HIRE_SHIFT if moved else 0
        self.down, self.across = Region(config), Region(config)
        self.own = nn.Linear(config.dim, config.dim)
        self.fuse = Fuse(config)

    def forward(self, x: Tensor) -> Tensor:
        grid = to_grid(x, self.side)
        columns = self._mixed(self.down, grid.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.fuse(columns, self._mixed(self.across, grid), self.own(grid))
        return out

    def _mixed(self, region: Region, lines: Tensor) -> Tensor:
        """[B,lines,places,C] mixed among neighbouring places of each line."""
        ring = torch.roll(lines, self.by, 2) if self.by else lines
        folded = ring.reshape(*ring.shape[:2], -1, HIRE_FOLD * ring.shape[3])
        mixed = region(folded).reshape(ring.shape)
        return torch.roll(mixed, -self.by, 2) if self.by else mixed
