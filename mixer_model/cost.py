"""What a Mixer costs: parameters, floating-point operations, saved activations. Arithmetic only, no torch.

    MixerConfig -> multiplications and additions of its matrix products -> Cost, per image

Counted are matrix products and convolutions, one multiply-add as two operations, as everyone's MFU does; norms, GELU and sums
are left out. The numbers equal those of torch's FlopCounterMode. Optimizer state, gradients and the memory of
a run are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .config import IMAGE_CHANNELS, ConfigError, MixerConfig
from .config import config as _config
from .token_costs import token_cost

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
    """The cost of a config or of a preset, with `overrides` (classes=, image_size=, ...).

    With another `dim` a preset's hidden widths follow it, as in `config`; those of a MixerConfig stay as they are: its numbers are
    all given.

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
    values = sum(_kept_values(shape, recompute, block) for block in range(shape.depth))
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


def _kept_values(shape: MixerConfig, recompute: str, block: int) -> int:
    """What block number `block` keeps of one image.

    "none": inputs of both norms and of the channels' first product, their hidden layer before and after its GELU, and what the token
    branch keeps; "gelu": the same, but hidden layers before their GELU only; "block": its input.
    """
    stream, hidden = shape.tokens * shape.dim, shape.tokens * shape.channel_dim
    if recompute == "block":
        return stream
    token = token_cost(shape, block)
    whole = token.values + 3 * stream + 2 * hidden
    return whole - (hidden + token.recomputed if recompute == "gelu" else 0)
