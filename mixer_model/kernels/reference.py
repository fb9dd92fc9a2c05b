"""The formulas of the kernels in plain torch, forward and backward: what they must equal, and what runs without a GPU.

Shapes: B samples, S tokens, C channels, N rows, D columns. Means and deviations are float32, or float64 for
float64 tensors; so are all sums on the way, and results are of the input's type. Results lie in rows however the inputs lie,
which is what the compiler is told (`ops`).
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

SLOPE: Final = math.sqrt(2.0 / math.pi)
CUBIC: Final = 0.044715
"""Of GELU's tanh approximation, x/2 (1 + tanh(SLOPE (x + CUBIC x^3))), arXiv:1606.08415, section 2."""


def norm_transpose(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm over C of x [B,S,C], transposed: [B,C,S]; and its mean and reciprocal deviation, [B,S] each."""
    wide = _wide(x).contiguous()
    mean = wide.mean(-1)
    rstd = (wide.var(-1, unbiased=False) + eps).rsqrt()
    normed = (wide - mean[..., None]) * rstd[..., None] * weight + bias
    return normed.transpose(1, 2).contiguous().to(x.dtype), mean, rstd


def norm_transpose_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From grad [B,C,S]: the gradients of x [B,S,C], weight [C] and bias [C]."""
    given = _wide(grad).transpose(1, 2)
    unit = (_wide(x) - mean[..., None]) * rstd[..., None]
    inner = given * weight
    along = (inner * unit).mean(-1, keepdim=True)
    dx = rstd[..., None] * (inner - inner.mean(-1, keepdim=True) - unit * along)
    dweight, dbias = (given * unit).sum((0, 1)), given.sum((0, 1))
    return dx.contiguous().to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype)


def add_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [B,S,C] plus the transpose of y [B,C,S], and LayerNorm over C of that sum, both [B,S,C]; and as above."""
    total = (_wide(x) + _wide(y).transpose(1, 2)).to(x.dtype).contiguous()
    wide = _wide(total)
    mean = wide.mean(-1)
    rstd = (wide.var(-1, unbiased=False) + eps).rsqrt()
    normed = (wide - mean[..., None]) * rstd[..., None] * weight + bias
    return total, normed.to(x.dtype), mean, rstd


def add_norm_backward(
    grad: Tensor, kept: Tensor, total: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From grad of the norm and `kept`, that of the sum, both [B,S,C]: the gradients of x, y, weight and bias."""
    turned = grad.transpose(1, 2)
    through, dweight, dbias = norm_transpose_backward(turned, _wide(total), weight, mean, rstd)
    dx = (through + _wide(kept)).to(total.dtype)
    return dx, dx.transpose(1, 2).contiguous(), dweight, dbias


def bias_gelu(h: Tensor, bias: Tensor) -> Tensor:
    """GELU, tanh form, of h [N,D] + bias [D]."""
    wide = _wide(h).contiguous() + bias
    return (wide * _gate(wide)).to(h.dtype)


def bias_gelu_backward(grad: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """From grad [N,D]: the gradients of h [N,D] and bias [D]."""
    wide = _wide(h).contiguous() + bias
    gate = _gate(wide)
    slope = 2.0 * SLOPE * (1.0 + 3.0 * CUBIC * wide.square())
    dh = _wide(grad).contiguous() * (gate + wide * gate * (1.0 - gate) * slope)
    return dh.to(h.dtype), dh.sum(0).to(bias.dtype)


def _gate(x: Tensor) -> Tensor:
    """(1 + tanh z) / 2, which is the logistic function of 2z."""
    return torch.sigmoid(2.0 * SLOPE * (x + CUBIC * x**3))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
