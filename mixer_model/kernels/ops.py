"""The kernels as operations that autograd and the compiler know: opaque to it, so it calls them and traces on.

    norm_transpose(x, weight, bias, eps) -> [B,C,S];  bias_gelu(h, bias) -> [N,D]

On CUDA they are Triton's (`on_cuda`), on any other device the formulas of `reference`, behind the same names, shapes
and gradients. `available()` says which.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from . import reference


@functools.cache
def available() -> bool:
    """Whether the kernels themselves can run here: Triton is installed and a CUDA device is there."""
    return importlib.util.find_spec("triton") is not None and torch.cuda.is_available()


def norm_transpose(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over C of x [B,S,C], transposed for a product along S: [B,C,S]."""
    out: Tensor = _norm(x, weight, bias, eps)[0]
    return out


def bias_gelu(h: Tensor, bias: Tensor) -> Tensor:
    """GELU, tanh form, of h [..., D] + bias [D]."""
    out: Tensor = _gelu(h.reshape(-1, h.shape[-1]), bias)
    return out.reshape(h.shape)


@custom_op("mixer::norm_transpose", mutates_args=())
def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return reference.norm_transpose(x, weight, bias, eps)


@custom_op("mixer::norm_transpose_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.norm_transpose_backward(grad, x, weight, mean, rstd)


@custom_op("mixer::bias_gelu", mutates_args=())
def _gelu(h: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_gelu(h, bias)


@custom_op("mixer::bias_gelu_backward", mutates_args=())
def _gelu_backward(grad: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return reference.bias_gelu_backward(grad, h, bias)


@_norm.register_kernel("cuda")
def _norm_cuda(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    from . import on_cuda

    return on_cuda.norm_transpose(x, weight, bias, eps)


@_norm_backward.register_kernel("cuda")
def _norm_backward_cuda(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from . import on_cuda

    return on_cuda.norm_transpose_backward(grad, x, weight, mean, rstd)


@_gelu.register_kernel("cuda")
def _gelu_cuda(h: Tensor, bias: Tensor) -> Tensor:
    from . import on_cuda

    return on_cuda.bias_gelu(h, bias)


@_gelu_backward.register_kernel("cuda")
def _gelu_backward_cuda(grad: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    from . import on_cuda

    return on_cuda.bias_gelu_backward(grad, h, bias)


@_norm.register_fake
def _norm_shapes(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, channels = x.shape
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    kept = x.new_empty(batch, tokens, dtype=wide)
    return x.new_empty(batch, channels, tokens), kept, torch.empty_like(kept)


@_norm_backward.register_fake
def _norm_backward_shapes(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight), torch.empty_like(weight)


@_gelu.register_fake
def _gelu_shapes(h: Tensor, bias: Tensor) -> Tensor:
    return h.new_empty(h.shape)


@_gelu_backward.register_fake
def _gelu_backward_shapes(grad: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), torch.empty_like(bias)


def _norm_keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1], output[2])


def _norm_grads(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
    dx, dweight, dbias = _norm_backward(grad.contiguous(), *ctx.saved_tensors)
    return dx, dweight, dbias, None


def _gelu_keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gelu_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    dh, dbias = _gelu_backward(grad.contiguous(), *ctx.saved_tensors)
    return dh, dbias


_norm.register_autograd(_norm_grads, setup_context=_norm_keep)
_gelu.register_autograd(_gelu_grads, setup_context=_gelu_keep)
