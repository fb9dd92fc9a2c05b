"""MLP-Mixer's own token mixing: one MLP over the tokens, shared by all channels (arXiv:2105.01601, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import MixerConfig
from ..layers import Mlp


class TokenMlp(Mlp):
    """Y = W2 GELU(W1 X) with W1 [D_S,S], W2 [S,D_S] and biases: [B,S,C] -> [B,S,C].

    Samples and channels are the columns of one matrix X [S,B*C], so each layer is one large product, nothing
    is transposed but whole rows of C values, and leading dimensions are B*C whatever S is (196 is no multiple
    of 8).
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config.tokens, config.token_dim, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        columns = x.transpose(0, 1).reshape(tokens, batch * width)
        return self.finish(_rows(self.fc1, columns)).view(tokens, batch, width).transpose(0, 1)

    def _second(self, hidden: Tensor) -> Tensor:
        return _rows(self.fc2, self.act(hidden))


def _rows(layer: nn.Linear, columns: Tensor) -> Tensor:
    """`layer` over the first axis: [S,n] -> [D,n]."""
    return torch.addmm(layer.bias[:, None], layer.weight, columns)
