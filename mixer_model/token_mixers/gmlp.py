"""gMLP's unit: half of the hidden channels gate the other half by a linear layer over the tokens (arXiv:2105.08050, section 2)."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from ..config import MixerConfig
from ..layers import Gelu, Recomputes
from .branch import Branch

NORM_EPS: Final = 1e-6


class GatedMlp(Branch, Recomputes):
    """Z = GELU(X U), [Z1 Z2] = Z, Y = (Z1 * (W LN(Z2) + b)) V: [B,S,C] -> [B,S,C].

    U [C,2D], W [S,S], b [S], V [D,C], D = token_dim. In the paper this unit is the whole block and as wide as a channel MLP; here it is
    the token branch, and the Mixer's channel MLP follows. The halves go through the GELU each by itself, so that each can be computed
    again where it is needed.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(config.dim, 2 * config.token_dim)
        self.act = Gelu(config.activation)
        self.norm = nn.LayerNorm(config.token_dim, eps=NORM_EPS)
        self.gate = nn.Linear(config.tokens, config.tokens)
        self.leave = nn.Linear(config.token_dim, config.dim)

    def starts(self) -> dict[str, float]:
        """W near 0 (here 0) and b 1, so that the unit begins as an MLP without gate; the paper finds this critical for stability."""
        return {"gate.weight": 0.0, "gate.bias": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        kept, gating = self.enter(x).chunk(2, dim=-1)
        return self.again(self._gated, kept, self.again(self._gate, gating))

    def _gate(self, gating: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.norm(self.act(gating)).transpose(1, 2)).transpose(1, 2)
        return gate

    def _gated(self, kept: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = self.leave(self.act(kept) * gate)
        return out
