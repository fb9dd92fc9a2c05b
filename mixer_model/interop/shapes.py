"""Which Mixer a state is of, read off the shapes of its tensors.

    stem [C,3,P,P], token fc1 [D_S,S], channel fc1 [D_C,C], head [K,C], the blocks counted -> a MixerConfig

The image is taken to be square: its side is sqrt(S) patches. Networks that only look like a Mixer (timm's file of MLPs has several)
are named as what they are. What no shape tells (the activation) is the caller's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from ..config import IMAGE_CHANNELS, MixerConfig
from ..config import config as _config
from .errors import WeightsError

STEM, HEAD = "stem.proj.weight", "head.weight"
TOKENS, CHANNELS = "blocks.0.mlp_tokens.fc1.weight", "blocks.0.mlp_channels.fc1.weight"
_GATED: Final = "blocks.0.mlp_tokens.fc2.weight"
_RELATIVES: Final = {
    r"(qkv|cls_token|pos_embed)": "a transformer",
    r"(linear_tokens|\.attn\.|gamma_1|\.ls1$)": "ResMLP",  # whose authors call the layer between tokens attn, too
    r"\.gate\.": "gMLP",
}


def shape_of(state: Mapping[str, Tensor], activation: str = "gelu_tanh") -> MixerConfig:
    """The config of the Mixer that has these shapes. WeightsError says what is missing for that, or what else it is."""
    _refuse_relatives(state)
    stem, tokens, channels = (_matrix(state, name) for name in (STEM, TOKENS, CHANNELS))
    if HEAD not in state:
        raise WeightsError(
            f"these weights have no head ({HEAD} is missing); a Mixer without classes cannot be read"
        )
    if stem[1] != IMAGE_CHANNELS or stem[2] != stem[3]:
        raise WeightsError(
            f"{STEM} is {stem}: it takes {stem[1]} channels in patches of {stem[2]} x {stem[3]}; here images have "
            f"{IMAGE_CHANNELS} channels and patches are square"
        )
    return _config(
        None,
        patch=stem[2],
        dim=stem[0],
        depth=_depth(state),
        token_dim=tokens[0],
        channel_dim=channels[0],
        classes=_matrix(state, HEAD)[0],
        image_size=_grid(tokens[1]) * stem[2],
        activation=activation,
    )


def _matrix(state: Mapping[str, Tensor], name: str) -> list[int]:
    wanted = 4 if name == STEM else 2
    if name not in state:
        held = ", ".join(list(state)[:3]) or "nothing"
        raise WeightsError(
            f"these are not the weights of an MLP-Mixer: {name} is missing; there are: {held}, ..."
        )
    shape = list(state[name].shape)
    if len(shape) != wanted or 0 in shape:
        raise WeightsError(f"{name} is {shape}; it must have {wanted} axes, none of them empty")
    return shape


def _grid(tokens: int) -> int:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise WeightsError(
            f"{TOKENS} is for {tokens} tokens, which no square image has; only square ones can be read"
        )
    return side


def _depth(state: Mapping[str, Tensor]) -> int:
    last = max(int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name)))
    if last >= len(state):
        raise WeightsError(f"there is a block {last} in {len(state)} tensors: most of its blocks are missing")
    return last + 1


def _refuse_relatives(state: Mapping[str, Tensor]) -> None:
    for pattern, kind in _RELATIVES.items():
        if hits := [name for name in state if re.search(pattern, name)]:
            raise WeightsError(f"these are the weights of {kind}, not of an MLP-Mixer: {hits[0]}")
    if TOKENS in state and _GATED in state:
        hidden, taken = state[TOKENS].shape[0], state[_GATED].shape[-1]
        if hidden == 2 * taken:
            raise WeightsError(
                f"these are the weights of a Mixer with gated MLPs (timm's gmixer): fc1 gives {hidden}, fc2 takes {taken}"
            )
