"""The kernels in Triton. Import it only where `ops.available()` says so; `reference` has the formulas.

Norms walk over the channels of a tile of tokens in pieces: once for the sums, and once more, from the GPU's cache, for
the result, which leaves turned by 90 degrees in whole lines. The variance is E[x^2] - E[x]^2 in float32, as
JAX's is. Sums over all rows (gradients of weights and biases) are made per program in float32 and added up by
torch: the same bits every time.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS: Final = 64
CHANNELS: Final = 64
ROWS: Final = 32
COLUMNS: Final = 128
ROW_STEPS: Final = 16
"""Tiles of rows that one program of the backward of `bias_gelu` walks over."""


def norm_transpose(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.norm_transpose`."""
    x = x.contiguous()
    batch, tokens, channels = x.shape
    out = x.new_empty(batch, channels, tokens)
    mean = x.new_empty(batch, tokens, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    grid = (triton.cdiv(tokens, TOKENS), batch)
    _norm[grid](x, weight, bias, out, mean, rstd, eps, tokens, channels, TOKENS, CHANNELS)
    return out, mean, rstd


def norm_transpose_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.norm_transpose_backward`; `grad` must be contiguous."""
    x = x.contiguous()
    batch, tokens, channels = x.shape
    tiles = triton.cdiv(tokens, TOKENS)
    dx = torch.empty_like(x)
    sums = x.new_empty(2, batch * tiles, channels, dtype=torch.float32)
    _norm_backward[(tiles, batch)](
        grad, x, weight, mean, rstd, dx, sums[0], sums[1], tokens, channels, TOKENS, CHANNELS
    )
    dweight, dbias = sums.sum(1).to(weight.dtype)
    return dx, dweight.clone(), dbias.clone()


def add_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `reference.add_norm`."""
    x, y = x.contiguous(), y.contiguous()
    batch, tokens, channels = x.shape
    total, normed = torch.empty_like(x), torch.empty_like(x)
    mean = x.new_empty(batch, tokens, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    grid = (triton.cdiv(tokens, TOKENS), batch)
    _add_norm[grid](x, y, weight, bias, total, normed, mean, rstd, eps, tokens, channels, TOKENS, CHANNELS)
    return total, normed, mean, rstd


def add_norm_backward(
    grad: Tensor, kept: Tensor, total: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `reference.add_norm_backward`; all must be contiguous."""
    batch, tokens, channels = total.shape
    tiles = triton.cdiv(tokens, TOKENS)
    dx = torch.empty_like(total)
    dy = total.new_empty(batch, channels, tokens)
    sums = total.new_empty(2, batch * tiles, channels, dtype=torch.float32)
    _add_norm_backward[(tiles, batch)](
        grad, kept, total, weight, mean, rstd, dx, dy, sums[0], sums[1], tokens, channels, TOKENS, CHANNELS
    )
    dweight, dbias = sums.sum(1).to(weight.dtype)
    return dx, dy, dweight.clone(), dbias.clone()


def bias_gelu(h: Tensor, bias: Tensor) -> Tensor:
    """As `reference.bias_gelu`."""
    h = h.contiguous()
    rows, columns = h.shape
    out = torch.empty_like(h)
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))
    _gelu[grid](h, bias, out, rows, columns, ROWS, COLUMNS)
    return out


def bias_gelu_backward(grad: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference.bias_gelu_backward`; `grad` must be contiguous."""
    h = h.contiguous()
    rows, columns = h.shape
    dh = torch.empty_like(h)
    programs = triton.cdiv(rows, ROWS * ROW_STEPS)
    sums = h.new_empty(programs, columns, dtype=torch.float32)
    grid = (programs, triton.cdiv(columns, COLUMNS))
    _gelu_backward[grid](grad, h, bias, dh, sums, rows, columns, ROWS, COLUMNS, ROW_STEPS)
    return dh, sums.sum(0).to(bias.dtype)


@triton.jit
def _norm(
    x,
    weight,
    bias,
    out,
    mean,
    rstd,
    eps,
    tokens: tl.constexpr,
    channels: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: TOKENS tokens of one sample, all channels."""
    sample = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = token < tokens
    x += sample * tokens * channels
    out += sample * tokens * channels
    total = tl.zeros([TOKENS], tl.float32)
    squares = tl.zeros([TOKENS], tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = here[:, None] & (channel < channels)[None, :]
        tile = tl.load(x + token[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        total += tl.sum(tile, 1)
        squares += tl.sum(tile * tile, 1)
    middle = total / channels
    inverse = 1.0 / tl.sqrt(tl.maximum(squares / channels - middle * middle, 0.0) + eps)
    tl.store(mean + sample * tokens + token, middle, mask=here)
    tl.store(rstd + sample * tokens + token, inverse, mask=here)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        tile = tl.load(x + token[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
        normed = (tile - middle[:, None]) * inverse[:, None] * scale[None, :] + shift[None, :]
        turned = tl.trans(normed.to(out.dtype.element_ty))
        where = out + channel[:, None].to(tl.int64) * tokens + token[None, :]
        tl.store(where, turned, mask=exists[:, None] & here[None, :])


@triton.jit
def _norm_backward(
    grad,
    x,
    weight,
    mean,
    rstd,
    dx,
    dweight,
    dbias,
    tokens: tl.constexpr,
    channels: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: TOKENS tokens of one sample, all channels, and its rows of the partial sums."""
    sample = tl.program_id(1).to(tl.int64)
    row = sample * tl.num_programs(0) + tl.program_id(0)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = token < tokens
    x += sample * tokens * channels
    dx += sample * tokens * channels
    grad += sample * tokens * channels
    middle = tl.load(mean + sample * tokens + token, mask=here, other=0.0)
    inverse = tl.load(rstd + sample * tokens + token, mask=here, other=0.0)
    inner_sum = tl.zeros([TOKENS], tl.float32)
    along_sum = tl.zeros([TOKENS], tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        tile = tl.load(x + token[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        where = grad + channel[:, None].to(tl.int64) * tokens + token[None, :]
        given = tl.trans(tl.load(where, mask=exists[:, None] & here[None, :], other=0.0)).to(tl.float32)
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        unit = (tile - middle[:, None]) * inverse[:, None]
        inner = given * scale[None, :]
        inner_sum += tl.sum(inner, 1)
        along_sum += tl.sum(tl.where(inside, inner * unit, 0.0), 1)
        tl.store(
            dweight + row * channels + channel, tl.sum(tl.where(inside, given * unit, 0.0), 0), mask=exists
        )
        tl.store(dbias + row * channels + channel, tl.sum(given, 0), mask=exists)
    inner_mean = inner_sum / channels
    along_mean = along_sum / channels
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        place = token[:, None] * channels + channel[None, :]
        tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        where = grad + channel[:, None].to(tl.int64) * tokens + token[None, :]
        given = tl.trans(tl.load(where, mask=exists[:, None] & here[None, :], other=0.0)).to(tl.float32)
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        unit = (tile - middle[:, None]) * inverse[:, None]
        result = inverse[:, None] * (
            given * scale[None, :] - inner_mean[:, None] - unit * along_mean[:, None]
        )
        tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm(
    x,
    y,
    weight,
    bias,
    total,
    normed,
    mean,
    rstd,
    eps,
    tokens: tl.constexpr,
    channels: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: TOKENS tokens of one sample, all channels. The sum is made twice: the second time it is not read back."""
    sample = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = token < tokens
    start = sample * tokens * channels
    sums = tl.zeros([TOKENS], tl.float32)
    squares = tl.zeros([TOKENS], tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        place = start + token[:, None] * channels + channel[None, :]
        turned = start + channel[:, None] * tokens + token[None, :]
        tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        added = tl.trans(tl.load(y + turned, mask=exists[:, None] & here[None, :], other=0.0)).to(tl.float32)
        rounded = (tile + added).to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        wide = rounded.to(tl.float32)
        sums += tl.sum(wide, 1)
        squares += tl.sum(wide * wide, 1)
    middle = sums / channels
    inverse = 1.0 / tl.sqrt(tl.maximum(squares / channels - middle * middle, 0.0) + eps)
    tl.store(mean + sample * tokens + token, middle, mask=here)
    tl.store(rstd + sample * tokens + token, inverse, mask=here)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        place = start + token[:, None] * channels + channel[None, :]
        turned = start + channel[:, None] * tokens + token[None, :]
        tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        added = tl.trans(tl.load(y + turned, mask=exists[:, None] & here[None, :], other=0.0)).to(tl.float32)
        wide = (tile + added).to(total.dtype.element_ty).to(tl.float32)
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
        result = (wide - middle[:, None]) * inverse[:, None] * scale[None, :] + shift[None, :]
        tl.store(normed + place, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm_backward(
    grad,
    kept,
    total,
    weight,
    mean,
    rstd,
    dx,
    dy,
    dweight,
    dbias,
    tokens: tl.constexpr,
    channels: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: TOKENS tokens of one sample, all channels; the same gradient leaves both as it is and turned."""
    sample = tl.program_id(1).to(tl.int64)
    row = sample * tl.num_programs(0) + tl.program_id(0)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    here = token < tokens
    start = sample * tokens * channels
    middle = tl.load(mean + sample * tokens + token, mask=here, other=0.0)
    inverse = tl.load(rstd + sample * tokens + token, mask=here, other=0.0)
    inner_sum = tl.zeros([TOKENS], tl.float32)
    along_sum = tl.zeros([TOKENS], tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        place = start + token[:, None] * channels + channel[None, :]
        tile = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        unit = (tile - middle[:, None]) * inverse[:, None]
        inner = given * scale[None, :]
        inner_sum += tl.sum(inner, 1)
        along_sum += tl.sum(inner * unit, 1)
        tl.store(dweight + row * channels + channel, tl.sum(given * unit, 0), mask=exists)
        tl.store(dbias + row * channels + channel, tl.sum(given, 0), mask=exists)
    inner_mean = inner_sum / channels
    along_mean = along_sum / channels
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        exists = channel < channels
        inside = here[:, None] & exists[None, :]
        place = start + token[:, None] * channels + channel[None, :]
        turned = start + channel[:, None] * tokens + token[None, :]
        tile = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        through = tl.load(kept + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
        unit = (tile - middle[:, None]) * inverse[:, None]
        inner = given * scale[None, :]
        result = through + inverse[:, None] * (inner - inner_mean[:, None] - unit * along_mean[:, None])
        rounded = result.to(dx.dtype.element_ty)
        tl.store(dx + place, rounded, mask=inside)
        tl.store(dy + turned, tl.trans(rounded), mask=exists[:, None] & here[None, :])


@triton.jit
def _gelu(h, bias, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One program: a tile of ROWS by COLUMNS."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row[:, None].to(tl.int64) * columns + column[None, :]
    shift = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    value = tl.load(h + place, mask=inside, other=0.0).to(tl.float32) + shift[None, :]
    gate = tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    tl.store(out + place, (value * gate).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_backward(
    grad,
    h,
    bias,
    dh,
    sums,
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_STEPS: tl.constexpr,
):
    """One program: ROW_STEPS tiles of ROWS by COLUMNS below one another, and their sums by column."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < columns
    shift = tl.load(bias + column, mask=exists, other=0.0).to(tl.float32)
    total = tl.zeros([COLUMNS], tl.float32)
    for step in range(ROW_STEPS):
        row = (tl.program_id(0) * ROW_STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & exists[None, :]
        place = row[:, None].to(tl.int64) * columns + column[None, :]
        value = tl.load(h + place, mask=inside, other=0.0).to(tl.float32) + shift[None, :]
        given = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        gate = tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
        slope = 1.5957691216057308 * (1.0 + 0.134145 * value * value)
        result = given * (gate + value * gate * (1.0 - gate) * slope)
        total += tl.sum(result, 0)
        tl.store(dh + place, result.to(dh.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0).to(tl.int64) * columns + column, total, mask=exists)
