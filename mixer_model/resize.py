"""Weights of one Mixer made to start another: a new head, or images K times as large.

    (state, its config) -> fit -> a state of the config wanted;  a larger image: enlarge, by whole factors only

The way to a larger image is the paper's (arXiv:2105.01601, section 3 "Fine-tuning at higher resolution" and appendix C): for K times the
side there are K² times the tokens, and both layers of a token MLP become block-diagonal, K² copies of the old one, each working on its own
of K x K parts of the image. Hidden units of the token MLP grow K²-fold too; nothing else changes. Right after it the network's logits are
the mean of the logits that the old one gives for the K² parts.

The paper counts tokens part by part; ours lie in raster order, as everywhere else, so rows and columns that belong to tokens are permuted
from one order to the other. What comes out is an ordinary Mixer. Other changes of shape are refused: they need training, not arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from .config import ConfigError, MixerConfig
from .interop import check_state
from .token_shapes import WITH_TOKEN_DIM

Head = Literal["keep", "new"]

FREE: Final = ("image_size", "token_dim", "classes", "drop_path", "drop_path_rescale")
"""What may differ between the weights' config and the one wanted: by rules, or as the training likes."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What must be done to weights of one config so that they start another."""

    factor: int
    """K, how many times the side of the image; 1 leaves the token MLPs as they are."""
    head: Head
    """Whether the head is kept, or replaced by zeros."""


def plan(source: MixerConfig, target: MixerConfig, head: Head | None = None) -> Fit:
    """How weights of `source` become weights of `target`. A head not asked for is kept where the classes are as many.

    Raises ConfigError naming what differs and which value fits.
    """
    for name in (field.name for field in dataclasses.fields(MixerConfig) if field.name not in FREE):
        given, needed = getattr(target, name), getattr(source, name)
        if given != needed:
            raise ConfigError(
                f"{name} is {given!r}, and the weights have {needed!r}; set {name} to {needed!r}"
            )
    factor = _factor(source, target)
    hidden = factor**2 * source.token_dim
    if target.mixer in WITH_TOKEN_DIM and target.token_dim != hidden:
        why = f"{factor}² times the weights' {source.token_dim}" if factor > 1 else "as the weights have it"
        raise ConfigError(
            f"token_dim is {target.token_dim}; at {target.image_size} pixels it must be {hidden}, {why}: set token_dim to {hidden}"
        )
    if head == "keep" and source.classes != target.classes:
        raise ConfigError(
            f"head is to be kept, and has {source.classes} classes; classes is {target.classes}: "
            f"set classes to {source.classes}, or head to 'new'"
        )
    return Fit(factor, head or ("keep" if source.classes == target.classes else "new"))


def fit(
    state: Mapping[str, Tensor],
    source: MixerConfig,
    target: MixerConfig,
    *,
    head: Head | None = None,
    head_bias: float = 0.0,
) -> dict[str, Tensor]:
    """The state, fp32, of a `target` that starts from `state` of a `source`. A new head is zero, its bias `head_bias`.

    Raises ConfigError as `plan` does, and WeightsError unless `state` is whole: every parameter of a `source`, in its shape.
    """
    wanted = plan(source, target, head)
    check_state(state, source)
    made = {name: value.detach().to(torch.float32) for name, value in state.items()}
    if wanted.factor > 1:
        made = enlarge(made, source, wanted.factor)
    if wanted.head == "new":
        made["head.weight"] = torch.zeros(target.classes, target.dim)
        made["head.bias"] = torch.full((target.classes,), head_bias)
    return made


def enlarge(state: Mapping[str, Tensor], source: MixerConfig, factor: int) -> dict[str, Tensor]:
    """`state` of a `source`, for images of `factor` times its side: token MLPs block-diagonal over the parts, the rest as it is."""
    places, copies = raster_places(source.grid, factor), factor**2
    made = dict(state)
    for block in range(source.depth):
        first, second = f"blocks.{block}.mlp_tokens.fc1", f"blocks.{block}.mlp_tokens.fc2"
        columns = torch.block_diag(*[state[f"{first}.weight"]] * copies)  # type: ignore[no-untyped-call]
        rows = torch.block_diag(*[state[f"{second}.weight"]] * copies)  # type: ignore[no-untyped-call]
        made[f"{first}.weight"] = torch.empty_like(columns).index_copy_(1, places, columns)
        made[f"{second}.weight"] = torch.empty_like(rows).index_copy_(0, places, rows)
        made[f"{first}.bias"] = state[f"{first}.bias"].repeat(copies)
        bias = state[f"{second}.bias"].repeat(copies)
        made[f"{second}.bias"] = torch.empty_like(bias).index_copy_(0, places, bias)
    return made


def raster_places(grid: int, factor: int) -> Tensor:
    """Where in raster order the tokens of an image of (`factor` * `grid`)² patches stand, counted part by part: int64 [K² S].

    Parts, and the patches of a part, are themselves in raster order.
    """
    side = factor * grid
    raster = torch.arange(side * side).reshape(factor, grid, factor, grid)
    return raster.permute(0, 2, 1, 3).reshape(-1)


def _factor(source: MixerConfig, target: MixerConfig) -> int:
    factor, rest = divmod(target.image_size, source.image_size)
    if rest or not factor:
        sizes = ", ".join(str(source.image_size * times) for times in (1, 2, 3))
        raise ConfigError(
            f"image_size is {target.image_size}, and the weights are of {source.image_size} pixels; allowed are whole multiples "
            f"of that ({sizes}, ...): set image_size to one of them"
        )
    if factor > 1 and source.mixer != "mlp":
        raise ConfigError(
            f"image_size is {target.image_size}, and the weights are of {source.image_size} pixels; the way to another size is "
            f"known for mixer 'mlp' only, this one is {source.mixer!r}: set image_size to {source.image_size}"
        )
    return factor
