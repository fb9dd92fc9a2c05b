"""ResMLP's token mixing: one linear layer over the tokens, scaled per channel (arXiv:2105.03404, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import MixerConfig
from .branch import Branch


class ResMlp(Branch):
    """Y = s * (A X + b) with A [S,S], b [S] and a scale s [C] (LayerScale): [B,S,C] -> [B,S,C].

    In the paper an affine layer without statistics stands before A. Here the block's LayerNorm does, and its own scale and shift are
    that affine layer; the channel MLP has no LayerScale.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(config.tokens, config.tokens)
        self.scale = nn.Parameter(torch.empty(config.dim))
        self.depth = config.depth

    def starts(self) -> dict[str, float]:
        """LayerScale by depth: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond, as the public models of 12, 24 and 36 blocks have."""
        return {"scale": 0.1 if self.depth <= 18 else 1e-5 if self.depth <= 24 else 1e-6}

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return mixed * self.scale
