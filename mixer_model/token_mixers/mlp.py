"""MLP-Mixer's own token mixing: one MLP over the tokens, shared by all channels (arXiv:2105.01601, section 2)."""

from __future__ import annotations

from torch import Tensor

from ..config import MixerConfig
from ..layers import Mlp


class TokenMlp(Mlp):
    """Y = (W2 GELU(W1 X^T))^T with W1 [D_S,S], W2 [S,D_S] and biases: [B,S,C] -> [B,S,C]."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config.tokens, config.token_dim, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
