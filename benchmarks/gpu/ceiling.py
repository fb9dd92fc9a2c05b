"""What the card can do: matrix products of random numbers, in bf16 and FP8, and a copy.

    products(setting) -> TFLOP/s of each -> the fastest bf16 one is the ceiling that steps are measured against

Besides large squares these are the products of one block of the network itself, forward and both of the backward:
all of them in a row give the speed of a network that did nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.gpu.plan import Setting
from benchmarks.gpu.timing import timed
from mixer_model.config import MixerConfig
from mixer_model.cost import cost
from mixer_model.float8 import BACKWARD, FORWARD, product

SQUARES: Final = (4096, 8192, 16384)
SMALL_SQUARES: Final = (64, 128)
COPIED: Final = 1 << 31


@dataclass(frozen=True)
class Product:
    """An [M,K] by [K,N] product, the way torch's linear layers lay out its sides."""

    name: str
    m: int
    n: int
    k: int
    way: str
    """"out": x W^T; "dx": dy W; "dw": dy^T x."""

    @property
    def flops(self) -> int:
        return 2 * self.m * self.n * self.k


def products(shape: MixerConfig, batch: int) -> list[Product]:
    """The twelve of one block: four linear layers, each forward and twice backward."""
    turned, rows = batch * shape.dim, batch * shape.tokens
    layers = {
        "token fc1": (turned, shape.token_dim, shape.tokens),
        "token fc2": (turned, shape.tokens, shape.token_dim),
        "channel fc1": (rows, shape.channel_dim, shape.dim),
        "channel fc2": (rows, shape.dim, shape.channel_dim),
    }
    made = []
    for name, (m, n, k) in layers.items():
        made += [
            Product(name, m, n, k, "out"),
            Product(name, m, k, n, "dx"),
            Product(name, n, k, m, "dw"),
        ]
    return made


def measure(setting: Setting, device: torch.device) -> dict[str, Any]:
    """TFLOP/s by product, the ceiling (bf16 and FP8), the network's own, and TB/s of a copy."""
    squares = SQUARES if device.type == "cuda" else SMALL_SQUARES
    shape = setting.shapes[setting.main]
    own = products(shape, setting.batch)
    alone = [Product("square", side, side, side, "out") for side in squares]
    bf16 = {_name(each): _rate(each, _bf16(each, device), setting, device) for each in [*alone, *own]}
    channels = [each for each in own if each.name.startswith("channel")]
    fp8: dict[str, float | str] = {}
    for each in [*alone, *channels]:
        for fast in (False, True):
            fp8[_name(each) + (", fast sums" if fast else "")] = _fp8_rate(each, fast, setting, device)
    spent = sum(each.flops / bf16[_name(each)] for each in own)
    mix = sum(each.flops for each in own) / spent
    return {
        "bf16_tflops": max(bf16.values()),
        "own_tflops": digits(mix),
        "own_images_per_s": round(mix * 1e12 / cost(shape).flops_train, 1),
        "fp8_tflops": max((value for value in fp8.values() if isinstance(value, float)), default=None),
        "copy_tbs": _copy(setting, device),
        "bf16": bf16,
        "fp8": fp8,
    }


def digits(value: float) -> float:
    """To four digits: products of a tiny network are millionths of a TFLOP."""
    return float(f"{value:.4g}")


def _name(each: Product) -> str:
    return f"{each.name} {each.way} [{each.m},{each.k}]x[{each.k},{each.n}]"


def _rate(each: Product, act: Callable[[], Any], setting: Setting, device: torch.device) -> float:
    for _ in range(3):
        act()
    return digits(each.flops / statistics.median(timed(act, device, setting.seconds / 5)) / 1e9)


def _bf16(each: Product, device: torch.device) -> Callable[[], Tensor]:
    def random(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.bfloat16)

    if each.way == "out":
        left, right = random(each.m, each.k), random(each.n, each.k).t()
    elif each.way == "dx":
        left, right = random(each.m, each.k), random(each.k, each.n)
    else:
        left, right = random(each.k, each.m).t(), random(each.k, each.n)
    return lambda: left @ right


def _fp8_rate(each: Product, fast: bool, setting: Setting, device: torch.device) -> float | str:
    """The rate, or why there is none: not every card multiplies FP8."""
    one = torch.ones((), device=device)
    kind = FORWARD if each.way == "out" else BACKWARD
    left = torch.randn(each.m, each.k, device=device).to(kind)
    right = torch.randn(each.n, each.k, device=device).to(FORWARD)
    try:
        return _rate(each, lambda: product((left, one), (right, one), torch.bfloat16, fast), setting, device)
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _copy(setting: Setting, device: torch.device) -> float:
    """TB/s, bytes read and written, of a copy that fits in no cache."""
    count = COPIED if device.type == "cuda" else 1 << 20
    source = torch.randint(0, 255, (count,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    times = timed(lambda: target.copy_(source), device, setting.seconds / 5)
    return digits(2 * count / statistics.median(times) / 1e9)
