"""The kernels as operations that autograd and the compiler know: opaque to it, so it calls them and traces on.

    norm_transpose(x, weight, bias, eps) -> [B,C,S];  bias_gelu(h, bias) -> [..., D]
    add_norm(x, y, weight, bias, eps) -> x + y^T and its norm

On CUDA they are Triton's (`on_cuda`), on any other device the formulas of `reference`, behind the same names, shapes
and gradients. `available()` says which. Triton's compute in float32, so on CUDA float64 is refused.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor, library

from . import reference


@functools.cache
def available() -> bool:
    """Whether the kernels themselves can run here: Triton is installed and a CUDA device is there."""
    return importlib.util.find_spec("triton") is not None and torch.cuda.is_available()


def norm_transpose(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over C of x [B,S,C], transposed for a product along S: [B,C,S]."""
    _check(x)
    out: Tensor = _norm(x, weight, bias, eps)[0]
    return out


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [B,S,C] plus the transpose of y [B,C,S], and LayerNorm over C of that: the end of token mixing, [B,S,C] each."""
    _check(x)
    total, normed, _, _ = _add(x, y, weight, bias, eps)
    return total, normed


def bias_gelu(h: Tensor, bias: Tensor) -> Tensor:
    """GELU, tanh form, of h [..., D] + bias [D]."""
    _check(h)
    out: Tensor = _gelu(h.reshape(-1, h.shape[-1]), bias)
    return out.reshape(h.shape)


def _check(x: Tensor) -> None:
    if x.is_cuda and x.dtype == torch.float64:
        raise TypeError(
            "given float64, and the kernels compute in float32 on a GPU; give float32 or bfloat16, or use torch's own layers"
        )


@library.custom_op("mixer::norm_transpose", mutates_args=())
def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return reference.norm_transpose(x, weight, bias, eps)


@library.custom_op("mixer::norm_transpose_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.norm_transpose_backward(grad, x, weight, mean, rstd)


@library.custom_op("mixer::add_norm", mutates_args=())
def _add(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.add_norm(x, y, weight, bias, eps)


@library.custom_op("mixer::add_norm_backward", mutates_args=())
def _add_backward(
    grad: Tensor, kept: Tensor, total: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.add_norm_backward(grad, kept, total, weight, mean, rstd)


@library.custom_op("mixer::bias_gelu", mutates_args=())
def _gelu(h: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_gelu(h, bias)


@library.custom_op("mixer::bias_gelu_backward", mutates_args=())
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


@_add.register_kernel("cuda")
def _add_cuda(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from . import on_cuda

    return on_cuda.add_norm(x, y, weight, bias, eps)


@_add_backward.register_kernel("cuda")
def _add_backward_cuda(
    grad: Tensor, kept: Tensor, total: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from . import on_cuda

    return on_cuda.add_norm_backward(grad, kept, total, weight, mean, rstd)


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


@_add.register_fake
def _add_shapes(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    kept = x.new_empty(x.shape[:2], dtype=wide)
    return x.new_empty(x.shape), x.new_empty(x.shape), kept, torch.empty_like(kept)


@_add_backward.register_fake
def _add_backward_shapes(
    grad: Tensor, kept: Tensor, total: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, tokens, channels = total.shape
    dy = total.new_empty(batch, channels, tokens)
    return total.new_empty(total.shape), dy, torch.empty_like(weight), torch.empty_like(weight)


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


def _add_keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[0], inputs[2], output[2], output[3])


def _add_grads(ctx: Any, kept: Tensor, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
    dx, dy, dweight, dbias = _add_backward(grad.contiguous(), kept.contiguous(), *ctx.saved_tensors)
    return dx, dy, dweight, dbias, None


def _gelu_keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gelu_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    dh, dbias = _gelu_backward(grad.contiguous(), *ctx.saved_tensors)
    return dh, dbias


_norm.register_autograd(_norm_grads, setup_context=_norm_keep)
_add.register_autograd(_add_grads, setup_context=_add_keep)
_gelu.register_autograd(_gelu_grads, setup_context=_gelu_keep)
