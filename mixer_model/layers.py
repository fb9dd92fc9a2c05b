"""The layers that blocks are made of."""

from __future__ import annotations

from torch import Tensor, nn


def gelu(activation: str) -> nn.GELU:
    """The GELU of that name, one of `mixer_model.config.ACTIVATIONS`."""
    return nn.GELU(approximate="tanh" if activation == "gelu_tanh" else "none")


class Mlp(nn.Module):
    """Two linear layers over the last axis with a GELU between them, as wide at the end as at the start unless `outputs` is given."""

    def __init__(self, width: int, hidden: int, activation: str, *, outputs: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = gelu(activation)
        self.fc2 = nn.Linear(hidden, outputs or width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out
