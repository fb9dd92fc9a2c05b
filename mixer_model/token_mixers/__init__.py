"""What mixes tokens in a block: normed tokens [B,S,C] -> what is added to them [B,S,C].

`token_mixer(config)` gives the branch that `config.mixer` names, its weights not drawn yet. Each branch is a module of its own in this
folder, with its equation, its source and what differs from it; what it costs is told by `mixer_model.cost`, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from ..config import MixerConfig
from .branch import Branch
from .ccs import Ccs
from .cycle import CycleMlp
from .depthwise import Depthwise
from .gmlp import GatedMlp
from .hire import HireMlp
from .mlp import TokenMlp
from .ms import MixShift
from .resmlp import ResMlp
from .s2 import SpatialShift
from .smlp import AxialMlp

BRANCHES: Final[dict[str, Callable[[MixerConfig], nn.Module]]] = {
    "mlp": TokenMlp,
    "resmlp": ResMlp,
    "gmlp": GatedMlp,
    "s2": SpatialShift,
    "ccs": Ccs,
    "smlp": AxialMlp,
    "cycle": CycleMlp,
    "hire": HireMlp,
    "depthwise": Depthwise,
    "ms": MixShift,
}
"""The branches by the names of `mixer_model.config.TOKEN_MIXERS`."""


def token_mixer(config: MixerConfig, block: int = 0) -> nn.Module:
    """The token branch of block number `block`."""
    if config.mixer == "hire":
        return HireMlp(config, moved=block % 2 == 1)
    return BRANCHES[config.mixer](config)


def own_starts(model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """Parameters of `model`, by name, that begin at a constant because their branch says so; and those that begin wider, by how much."""
    starts: dict[str, float] = {}
    gains: dict[str, float] = {}
    for place, module in model.named_modules():
        if isinstance(module, Branch):
            starts |= {f"{place}.{name}": value for name, value in module.starts().items()}
            gains |= {f"{place}.{name}": value for name, value in module.gains().items()}
    return starts, gains
