"""Small networks with each of the token mixers, for the tests of them."""

from __future__ import annotations

import math

import torch

from mixer_model.config import TOKEN_MIXERS, MixerConfig, config
from mixer_model.mixer import Mixer

OTHERS = [name for name in TOKEN_MIXERS if name != "mlp"]


def shape_of(mixer: str, **other: int) -> MixerConfig:
    """A 4 x 4 grid of 24 channels, three blocks; no two of its numbers are equal."""
    numbers = {
        "patch": 8,
        "dim": 24,
        "depth": 3,
        "token_dim": 20,
        "channel_dim": 40,
        "classes": 7,
        "image_size": 32,
    }
    return config(None, mixer=mixer, **{**numbers, **other})


def awake(shape: MixerConfig) -> Mixer:
    """A Mixer none of whose parameters is at a start that hides something: all are drawn."""
    model, generator = Mixer(shape, seed=None).to_empty(device="cpu"), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = math.prod(parameter.shape[1:]) ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.normal_(0, spread, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model
