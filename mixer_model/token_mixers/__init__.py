"""What mixes tokens in a block: normed tokens [B,S,C] -> what is added to them [B,S,C].

`token_mixer(config)` gives the branch that `config.mixer` names, its weights not drawn yet. Each branch is a module of its own in this
folder; what it costs is told by `mixer_model.cost`, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from ..config import MixerConfig
from .mlp import TokenMlp

BRANCHES: Final[dict[str, Callable[[MixerConfig], nn.Module]]] = {"mlp": TokenMlp}
"""The branches by the names of `mixer_model.config.TOKEN_MIXERS`."""


def token_mixer(config: MixerConfig) -> nn.Module:
    """The token branch of one block."""
    return BRANCHES[config.mixer](config)
