"""What a Mixer costs: parameters, floating-point operations, saved activations. Arithmetic only, no torch.

    MixerConfig -> multiplications and additions of its matrix products -> Cost, per image

Counted are matrix products, one multiply-add as two operations, as everyone's MFU does; norms, GELU and sums
are left out. The numbers equal those of torch's FlopCounterMode. Optimizer state, gradients and the memory of
a run are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .config import IMAGE_CHANNELS, ConfigError, MixerConfig
from .config import config as _config

RECOMPUTE: Final = ("none", "gelu", "block")


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
    """Bytes the blocks keep of one image for the backward pass. Where blocks are recomputed, the one at work needs its values besides."""


def cost(
    model: MixerConfig | str,
    *,
    bytes_per_value: int = 2,
    recompute: str = "none",
    **overrides: int | float | str,
) -> Cost:
    """The cost of a config, or of a preset with `overrides` (classes=, image_size=, ...).

    `bytes_per_value` is the width of an activation: 2 for bf16, 4 for fp32. `recompute`, one of RECOMPUTE, is what
    the backward pass computes again; it changes `activation_bytes` only. Raises ConfigError as `config` does, and
    for another `recompute`.
    """
    if recompute not in RECOMPUTE:
        raise ConfigError(f"recompute {recompute!r} is not known; allowed: {', '.join(RECOMPUTE)}")
    shape = _resolve(model, overrides)
    forward = 2 * (_stem_macs(shape) + shape.depth * _block_macs(shape) + shape.dim * shape.classes)
    # Backward is two products for each one forward, but for the stem: nobody wants the gradient of the
    # pixels.
    train = 3 * forward - 2 * _stem_macs(shape)
    values = shape.depth * _kept_values(shape, recompute)
    return Cost(_params(shape), forward, train, bytes_per_value * values)


def _resolve(model: MixerConfig | str, overrides: dict[str, int | float | str]) -> MixerConfig:
    if isinstance(model, str):
        return _config(model, **overrides)
    return _config(None, **{**model.to_dict(), **overrides}) if overrides else model


def _params(shape: MixerConfig) -> int:
    width, tokens = shape.dim, shape.tokens
    stem = _patch_values(shape) * width + width
    token = 2 * tokens * shape.token_dim + shape.token_dim + tokens
    channel = 2 * width * shape.channel_dim + shape.channel_dim + width
    head = shape.classes * (width + 1)
    return stem + shape.depth * (token + channel + 4 * width) + 2 * width + head


def _patch_values(shape: MixerConfig) -> int:
    return IMAGE_CHANNELS * shape.patch**2


def _stem_macs(shape: MixerConfig) -> int:
    return shape.tokens * _patch_values(shape) * shape.dim


def _block_macs(shape: MixerConfig) -> int:
    return 2 * shape.tokens * shape.dim * (shape.token_dim + shape.channel_dim)


def _kept_values(shape: MixerConfig, recompute: str) -> int:
    """What a block keeps of one image.

    "none": inputs of both norms and both first products, each hidden layer before and after its GELU; "gelu": the
    same, but hidden layers before it only; "block": its input.
    """
    stream = shape.tokens * shape.dim
    hidden = shape.dim * shape.token_dim + shape.tokens * shape.channel_dim
    return {"none": 4 * stream + 2 * hidden, "gelu": 4 * stream + hidden, "block": stream}[recompute]
