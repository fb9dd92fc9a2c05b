"""What the token branch of one block costs, for each mixer: parameters, multiply-adds, saved values. Arithmetic only, no torch.

Multiply-adds are those of matrix products and convolutions, as torch's FlopCounterMode counts them; shifts, sums, gates, norms and GELUs
are left out. Saved values are the tensors that eager autograd keeps of one image for the backward pass, from the norm before the branch
to the branch's end; not weights, nor what is made of weights once per micro-batch (the matrices of CCS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .token_shapes import CCS_GROUPS, DEPTHWISE_SIDE, HIRE_FOLD, MS_SIDES, REWEIGHT, ms_groups

if TYPE_CHECKING:
    from .config import MixerConfig


@dataclass(frozen=True, slots=True)
class TokenCost:
    """One token branch: what it has, what it does to an image, what it keeps of one."""

    params: int
    macs: int
    """Multiply-adds of one image forward."""
    values: int
    """Numbers kept of one image for the backward pass, the branch's input among them."""
    recomputed: int = 0
    """How many of them recompute "gelu" computes again: what comes out of GELUs, and what is made of that on the way to a product."""


def token_cost(shape: MixerConfig, block: int = 0) -> TokenCost:
    """The cost of the token branch of block number `block` (all are alike but those of hire)."""
    return _hire(shape, moved=block % 2 == 1) if shape.mixer == "hire" else _COSTS[shape.mixer](shape)


def _mlp(shape: MixerConfig) -> TokenCost:
    tokens, width, hidden = shape.tokens, shape.dim, shape.token_dim
    return TokenCost(
        params=2 * tokens * hidden + hidden + tokens,
        macs=2 * tokens * width * hidden,
        values=tokens * width + 2 * width * hidden,
        recomputed=width * hidden,
    )


def _resmlp(shape: MixerConfig) -> TokenCost:
    tokens, width = shape.tokens, shape.dim
    return TokenCost(tokens**2 + tokens + width, macs=tokens**2 * width, values=2 * tokens * width)


def _gmlp(shape: MixerConfig) -> TokenCost:
    tokens, width, hidden = shape.tokens, shape.dim, shape.token_dim
    enter, gate, leave = 2 * hidden * (width + 1), tokens**2 + tokens, width * (hidden + 1)
    return TokenCost(
        params=enter + 2 * hidden + gate + leave,
        macs=tokens * hidden * (3 * width + tokens),
        values=tokens * width + 7 * tokens * hidden,
        recomputed=4 * tokens * hidden,  # both halves, the norm's, and the gated one; the gate stays
    )


def _s2(shape: MixerConfig) -> TokenCost:
    tokens, width = shape.tokens, shape.dim
    return TokenCost(
        params=2 * width * (width + 1),
        macs=2 * tokens * width**2,
        values=3 * tokens * width,
        recomputed=tokens * width,
    )


def _ccs(shape: MixerConfig) -> TokenCost:
    tokens, width = shape.tokens, shape.dim
    return TokenCost(CCS_GROUPS * (tokens + 1), macs=tokens**2 * width, values=tokens * width)


def _smlp(shape: MixerConfig) -> TokenCost:
    tokens, width, side = shape.tokens, shape.dim, shape.grid
    return TokenCost(
        params=2 * side * (side + 1) + 3 * width**2,
        macs=tokens * width * (2 * side + 3 * width),
        values=6 * tokens * width,
        recomputed=5 * tokens * width,
    )


def _cycle(shape: MixerConfig) -> TokenCost:
    tokens, width, fuse = shape.tokens, shape.dim, _fuse(shape)
    return TokenCost(
        params=3 * width**2 + 2 * width + fuse.params,
        macs=3 * tokens * width**2 + fuse.macs,
        values=3 * tokens * width + fuse.values,
        recomputed=fuse.recomputed,
    )


def _hire(shape: MixerConfig, *, moved: bool = False) -> TokenCost:
    tokens, width, hidden, fuse = shape.tokens, shape.dim, shape.token_dim, _fuse(shape)
    region = 2 * HIRE_FOLD * width * hidden + 2 * hidden + HIRE_FOLD * width
    inputs = 3 if moved else 2  # the rows are a view of the branch's input, unless they are moved
    return TokenCost(
        params=2 * region + width * (width + 1) + fuse.params,
        macs=4 * tokens * width * hidden + tokens * width**2 + fuse.macs,
        values=inputs * tokens * width + 4 * tokens // HIRE_FOLD * hidden + fuse.values,
        recomputed=fuse.recomputed,
    )


def _depthwise(shape: MixerConfig) -> TokenCost:
    taps = DEPTHWISE_SIDE**2 * shape.dim
    return TokenCost(taps, macs=taps * shape.tokens, values=shape.tokens * shape.dim)


def _ms(shape: MixerConfig) -> TokenCost:
    taps = sum(side**2 * width for side, width in zip(MS_SIDES, ms_groups(shape.dim), strict=True))
    places = 2 * shape.tokens * shape.dim
    return TokenCost(2 * (taps + shape.dim), macs=places * max(MS_SIDES) ** 2, values=places)


def _fuse(shape: MixerConfig) -> TokenCost:
    """Three branches weighed and joined: its values are the branches, their weighted sum, and what weighs them."""
    tokens, width, narrow = shape.tokens, shape.dim, shape.dim // REWEIGHT
    reweight = 4 * width * narrow
    return TokenCost(
        params=reweight + narrow + 3 * width + width * (width + 1),
        macs=reweight + tokens * width**2,
        values=4 * tokens * width + 4 * width + 2 * narrow,
        recomputed=narrow,
    )


_COSTS: Final[dict[str, Callable[[MixerConfig], TokenCost]]] = {
    "mlp": _mlp,
    "resmlp": _resmlp,
    "gmlp": _gmlp,
    "s2": _s2,
    "ccs": _ccs,
    "smlp": _smlp,
    "cycle": _cycle,
    "hire": _hire,
    "depthwise": _depthwise,
    "ms": _ms,
}
