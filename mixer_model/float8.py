"""A linear layer whose three matrix products run in FP8, weights and gradients kept as they were.

    x, W -> one scale each -> e4m3 -> y = x W^T + b;  backward: dy -> e5m2, so dx = dy W and dW = dy^T x are FP8 too

Each tensor has one scale, the largest value of its type over the tensor's largest magnitude, found anew in every
step: nothing is carried from one to the next. The types are those of arXiv:2209.05433 (section 3): e4m3 for what
goes forward, e5m2 for gradients. On CUDA the products are torch's scaled ones, on any other device the same
rounded values are multiplied in float32, so its logic is tested where there is no GPU. It is written in plain torch
operations: a compiler can fold the maxima and the rounding into whatever made the tensor.

Nothing in a run's spec chooses it yet; the benchmark on a GPU does.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

FORWARD: Final = torch.float8_e4m3fn
BACKWARD: Final = torch.float8_e5m2
MULTIPLE: Final = 16
"""The scaled products of a GPU take no width, and no number of rows, that is not a multiple of this."""
LEAST: Final = 1e-12


class Float8Linear(nn.Linear):
    """An nn.Linear, parameters and all, that computes in FP8: [..., in] -> [..., out] of the input's type.

    `fast` lets the GPU's matrix units keep sums of products in fewer bits between steps of a product:
    "forward" there only, "all" for the gradients too, "none" never.
    """

    def __init__(self, inputs: int, outputs: int, *, fast: str = "forward") -> None:
        _check_multiple("width", inputs)
        _check_multiple("width", outputs)
        if fast not in ("none", "forward", "all"):
            raise ValueError(f"fast is {fast!r}; allowed: none, forward, all")
        with torch.device("meta"):
            super().__init__(inputs, outputs)
        self.fast = fast

    @classmethod
    def of(cls, linear: nn.Linear, *, fast: str = "forward") -> Float8Linear:
        """A Float8Linear with the parameters of `linear` themselves, not copies. It must have a bias."""
        made = cls(linear.in_features, linear.out_features, fast=fast)
        made.weight, made.bias = linear.weight, linear.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        _check_multiple("number of rows", rows.shape[0])
        out: Tensor = _Product.apply(rows, self.weight, self.bias, self.fast)  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], self.out_features)


def to_float8(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` rounded to `kind`, and what to multiply that with to have x again: a float32 scalar. Never inf or NaN
    for a finite `x`; of zeros, zeros."""
    largest = torch.finfo(kind).max
    scale = largest / x.abs().amax().float().clamp(min=LEAST)
    return (x.float() * scale).clamp(-largest, largest).to(kind).contiguous(), scale.reciprocal()


def product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], kind: torch.dtype, fast: bool) -> Tensor:
    """a [M,K] times the transpose of b [N,K], both as `to_float8` gives them and contiguous: [M,N] in `kind`."""
    (left, left_scale), (right, right_scale) = a, b
    if left.is_cuda:
        return torch._scaled_mm(
            left, right.t(), scale_a=left_scale, scale_b=right_scale, out_dtype=kind, use_fast_accum=fast
        )
    return ((left.float() @ right.float().t()) * (left_scale * right_scale)).to(kind)


class _Product(torch.autograd.Function):
    """x [M,K], weight [N,K], bias [N] -> x W^T + b, [M,N]. Of x it keeps the rounded values: half the bytes of
    bf16, and no second search for the largest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, fast: str) -> Tensor:
        x8, x_scale = to_float8(x, FORWARD)
        w8, w_scale = to_float8(weight, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.fast, ctx.kinds = fast == "all", (x.dtype, weight.dtype)
        return product((x8, x_scale), (w8, w_scale), x.dtype, fast != "none") + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        grad = to_float8(grads[0], BACKWARD)
        dx = product(grad, _turned(w8, w_scale), ctx.kinds[0], ctx.fast)
        dweight = product(_turned(*grad), _turned(x8, x_scale), ctx.kinds[1], ctx.fast)
        return dx, dweight, grads[0].sum(0), None


def _turned(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The transpose, laid out anew: the GPU's FP8 products read both sides along the axis they sum over."""
    return values.t().contiguous(), scale


def _check_multiple(what: str, value: int) -> None:
    if value % MULTIPLE:
        raise ValueError(f"the {what} is {value}; FP8 products take multiples of {MULTIPLE}")
