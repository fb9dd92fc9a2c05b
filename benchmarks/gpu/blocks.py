"""The ways a Mixer block can be computed: the same function and parameters, other operations.

rewire(model, options) -> every block's forward is the one the options name, its channel MLP in FP8 if they say so
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu.plan import Options
from mixer_model.float8 import Float8Linear
from mixer_model.kernels import ops
from mixer_model.layers import Mlp, recompute_gelu
from mixer_model.mixer import Block, Mixer


def rewire(model: Mixer, options: Options) -> None:
    """Makes `model` compute as `options` say. Compiling, and recomputing whole blocks, come after."""
    forward = _block(options)
    if options.recompute == "gelu":
        recompute_gelu(model)
    for block in model.blocks:
        assert isinstance(block, Block)
        if options.fp8 != "no":
            channels = block.mlp_channels
            channels.fc1 = Float8Linear.of(channels.fc1, fast=options.fp8)
            channels.fc2 = Float8Linear.of(channels.fc2, fast=options.fp8)
        block.forward = MethodType(forward, block)  # type: ignore[method-assign]


def _block(options: Options) -> Callable[..., Tensor]:
    """A forward for all blocks, one code object, so that one compiled graph serves all. No sample skips a block."""
    if options.layout == "kernels":
        return lambda block, x, keep=None: _with_kernels(block, x, options)
    tokens = {"columns": _columns, "turned": _turned, "batched": _batched, "kernel": _with_kernel}[
        options.layout
    ]

    def forward(block: Block, x: Tensor, keep: None = None) -> Tensor:
        x = x + tokens(block, x, options)
        return x + _mlp(block.mlp_channels, block.norm2(x), options)

    return forward


def _columns(block: Block, x: Tensor, options: Options) -> Tensor:
    out: Tensor = block.mlp_tokens(block.norm1(x))
    return out


def _turned(block: Block, x: Tensor, options: Options) -> Tensor:
    return _mlp(block.mlp_tokens, block.norm1(x).transpose(1, 2), options).transpose(1, 2)


def _with_kernel(block: Block, x: Tensor, options: Options) -> Tensor:
    return _by_channel(block, x, options).transpose(1, 2)


def _with_kernels(block: Block, x: Tensor, options: Options) -> Tensor:
    norm = block.norm2
    x, normed = ops.add_norm(x, _by_channel(block, x, options), norm.weight, norm.bias, norm.eps)
    return x + _mlp(block.mlp_channels, normed, options)


def _by_channel(block: Block, x: Tensor, options: Options) -> Tensor:
    """The token branch, not turned back: [B,C,S]."""
    norm = block.norm1
    return _mlp(block.mlp_tokens, ops.norm_transpose(x, norm.weight, norm.bias, norm.eps), options)


def _batched(block: Block, x: Tensor, options: Options) -> Tensor:
    """W2 GELU(W1 X + b1) + b2 for X [S,C] of each sample: biases go down the columns."""
    mlp = block.mlp_tokens

    def after(hidden: Tensor) -> Tensor:
        return _times(mlp.fc2, mlp.act(hidden))

    hidden = _times(mlp.fc1, block.norm1(x))
    return _again(after, hidden) if mlp.recompute else after(hidden)


def _times(linear: nn.Linear, x: Tensor) -> Tensor:
    """W [D,S] times x [B,S,C], plus the bias of each row: [B,D,C]. matmul would turn x to make one product of it."""
    weight = linear.weight.expand(x.shape[0], -1, -1)
    return torch.bmm(weight, x) + linear.bias[:, None]


def _mlp(mlp: Mlp, x: Tensor, options: Options) -> Tensor:
    """As Mlp.forward. In FP8 the bias and GELU stay torch's, where the compiler joins them with the rounding."""
    kernel = options.gelu == "kernel" and not isinstance(mlp.fc1, Float8Linear)

    def after(hidden: Tensor) -> Tensor:
        return mlp.fc2(ops.bias_gelu(hidden, mlp.fc1.bias) if kernel else mlp.act(hidden))

    hidden = F.linear(x, mlp.fc1.weight) if kernel else mlp.fc1(x)
    return _again(after, hidden) if mlp.recompute else after(hidden)


def _again(after: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """after(hidden), of which the backward keeps `hidden` only."""
    out: Tensor = checkpoint(after, hidden, use_reentrant=False, preserve_rng_state=False)
    return out
