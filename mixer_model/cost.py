"""What a Mixer costs: parameters, floating-point operations, saved activations. Arithmetic only, no torch.

    MixerConfig -> multiplications and additions of its matrix products -> Cost, per image

Counted are matrix products and convolutions, one multiply-add as two operations, as everyone's MFU does; norms, GELU and sums
are left out. The numbers equal those of torch's FlopCounterMode. Optimizer state, gradients and the memory of
a run are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import IMAGE_CHANNELS, MixerConfig
from .config import config as _config
from .token_costs import token_cost


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one model, and of one image through it."""

    params: int
    """Parameters, head included."""
    flops_forward: int
    """Operations of one image forward."""
    flops_train: int
    """Operations of one image forward and backward, nothing recomputed."""
    activation_bytes: int
    """Bytes the blocks keep of one image for the backward pass, nothing recomputed."""


def cost(model: MixerConfig | str, *, bytes_per_value: int = 2, **overrides: int | float | str) -> Cost:
    """The cost of a config, or of a preset with `overrides` (classes=, image_size=, ...).

    `bytes_per_value` is the width of an activation: 2 for bf16, 4 for fp32. Raises ConfigError as `config`
    does.
    """
    shape = _resolve(model, overrides)
    forward = 2 * (_stem_macs(shape) + shape.depth * _block_macs(shape) + shape.dim * shape.classes)
    # Backward is two products for each one forward, but for the stem: nobody wants the gradient of the
    # pixels.
    train = 3 * forward - 2 * _stem_macs(shape)
    values = sum(_block_values(shape, block) for block in range(shape.depth))
    return Cost(_params(shape), forward, train, bytes_per_value * values)


def _resolve(model: MixerConfig | str, overrides: dict[str, int | float | str]) -> MixerConfig:
    if isinstance(model, str):
        return _config(model, **overrides)
    return _config(None, **{**model.to_dict(), **overrides}) if overrides else model


def _params(shape: MixerConfig) -> int:
    width = shape.dim
    stem = _patch_values(shape) * width + width
    token = token_cost(shape).params
    channel = 2 * width * shape.channel_dim + shape.channel_dim + width
    head = shape.classes * (width + 1)
    return stem + shape.depth * (token + channel + 4 * width) + 2 * width + head


def _patch_values(shape: MixerConfig) -> int:
    return IMAGE_CHANNELS * shape.patch**2


def _stem_macs(shape: MixerConfig) -> int:
    return shape.tokens * _patch_values(shape) * shape.dim


def _block_macs(shape: MixerConfig) -> int:
    return token_cost(shape).macs + 2 * shape.tokens * shape.dim * shape.channel_dim


def _block_values(shape: MixerConfig, block: int) -> int:
    """Inputs of both norms and both first products, each hidden layer before and after its GELU, and what a token branch keeps besides."""
    channel = 3 * shape.tokens * shape.dim + 2 * shape.tokens * shape.channel_dim
    return token_cost(shape, block).values + channel
