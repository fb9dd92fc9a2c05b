"""What matrix products reach here, on random numbers: large ones, which are the ceiling, and those of a training step one after another.

The step's own, with nothing between them, are the most that a network can reach whose other work costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from mixer_model.config import MixerConfig

SQUARE = {"cpu": 2048, "cuda": 8192}


def products(
    shape: MixerConfig, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[Callable[[], torch.Tensor], int]]:
    """By name: a product x W^T, and its floating-point operations."""
    side, rows = SQUARE[device.type], batch * shape.tokens
    sizes = {
        f"{side} cubed": (side, side, side),
        "channels, first": (rows, shape.dim, shape.channel_dim),
        "channels, second": (rows, shape.channel_dim, shape.dim),
    }
    return {
        name: (_product(*size, device, dtype), 2 * size[0] * size[1] * size[2])
        for name, size in sizes.items()
    }


def own_products(
    shape: MixerConfig, batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], None], int]:
    """The products of a step of the blocks, forward and both of backward, in the blocks' layouts; their operations."""
    rows, columns = batch * shape.tokens, batch * shape.dim
    x, hidden = (torch.randn(rows, n, device=device, dtype=dtype) for n in (shape.dim, shape.channel_dim))
    up, down = (torch.randn(n, m, device=device, dtype=dtype) for n, m in _both(shape.channel_dim, shape.dim))
    tokens, mixed = (
        torch.randn(n, columns, device=device, dtype=dtype) for n in (shape.tokens, shape.token_dim)
    )
    first, second = (
        torch.randn(n, m, device=device, dtype=dtype) for n, m in _both(shape.token_dim, shape.tokens)
    )
    pairs = [
        *((x, up.T), (hidden, down.T)),  # channels: forward, gradients of inputs, of weights
        *((x, down), (hidden, up), (hidden.T, x), (x.T, hidden)),
        *((first, tokens), (second, mixed)),  # tokens, likewise
        *((first.T, mixed), (second.T, tokens), (mixed, tokens.T), (tokens, mixed.T)),
    ]

    def step() -> None:
        for _ in range(shape.depth):
            for left, right in pairs:
                torch.mm(left, right)

    return step, shape.depth * sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in pairs)


def _both(n: int, m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (n, m), (m, n)


def _product(m: int, k: int, n: int, device: torch.device, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    x = torch.randn(m, k, device=device, dtype=dtype)
    w = torch.randn(n, k, device=device, dtype=dtype)
    return lambda: F.linear(x, w)
