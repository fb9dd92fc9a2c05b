"""The most that matrix products reach here: large ones, and the largest ones of the network itself, on random numbers."""

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


def _product(m: int, k: int, n: int, device: torch.device, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    x = torch.randn(m, k, device=device, dtype=dtype)
    w = torch.randn(n, k, device=device, dtype=dtype)
    return lambda: F.linear(x, w)
