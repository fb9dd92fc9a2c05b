"""CCS, circulant channel-specific token mixing (arXiv:2106.14882), RECONSTRUCTED FROM ITS ABSTRACT.

The abstract says: circulant matrices, hence spatially invariant; specific to channels; fewer parameters than the token MLP. The paper's
own equation, number of groups and start could not be read and there is no public code, so accuracies of the paper say nothing here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import MixerConfig
from ..token_shapes import CCS_GROUPS
from .branch import Branch


class Circulant(nn.Module):
    """G circulant matrices over S tokens, one for each group of channels: [B,S,C] -> [B,S,C].

    y_i = b_g + sum_j w_g[(j - i) mod S] x_j in group g, with weight w [G,S] and bias b [G]. Tokens stand in a ring, row after row.
    The matrices are written out and multiplied: the same as by FFT, in bf16 too, without complex numbers, on whatever multiplies fast.
    """

    def __init__(self, tokens: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, tokens))
        self.bias = nn.Parameter(torch.empty(groups))

    def matrices(self) -> Tensor:
        """[G,S,S], row i being the weights moved on by i. Rows cut out of a repetition: no gather, so no scattered sum backward."""
        tokens = self.weight.shape[1]
        repeated = self.weight.repeat(1, 2 * tokens - 1)
        return repeated.view(-1, tokens, 2 * tokens - 1)[..., :tokens]

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        groups = len(self.weight)
        ring = x.reshape(batch, tokens, groups, width // groups).permute(2, 1, 0, 3).flatten(2)  # [G,S,B*C/G]
        mixed = torch.baddbmm(self.bias[:, None, None], self.matrices(), ring)
        return mixed.view(groups, tokens, batch, -1).permute(2, 1, 0, 3).flatten(2)


class Ccs(Branch):
    """Y_g = circ(w_g) X_g + b_g for each group g of channels: [B,S,C] -> [B,S,C]. One layer, no hidden width."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.mix = Circulant(config.tokens, CCS_GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(x)
        return out
