"""Random numbers of a micro-batch, keyed by what they are for: stochastic depth and mixup.

    (seed, item, purpose) -> a Philox stream of its own -> uniform numbers -> a mask, a mixing weight

`item` is the first item of the micro-batch's slot, so the draws are the same at any world size and after any
restart. Each purpose has its own part of the counter space, apart from the stream that starts at counter 0,
which data augmentation of the same item may use. Uniform numbers come straight from the raw 64-bit words, and
no distribution of numpy's is used: those may change between its versions. Nothing here has state.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

STOCHASTIC_DEPTH: Final = 1
MIXUP: Final = 2
_KEYS: Final = 1 << 64


def keep_masks(
    seed: int, item: int, depth: int, micro_batch: int, rate: float, *, rescale: bool = False
) -> torch.Tensor:
    """Which samples go through which MLP: float32 [depth, 2, micro_batch] of 0 and 1, on the CPU.

    Row [i, 0] is for block i's token MLP, [i, 1] for its channel MLP. A sample is dropped with probability
    rate * i / (depth - 1): none in the first block, `rate` in the last, the same for both MLPs of a block,
    drawn apart. With `rescale` what is kept counts 1 / (1 - its block's rate) instead of 1, as in timm.
    """
    drawn = _uniform(seed, item, STOCHASTIC_DEPTH, depth * 2 * micro_batch).reshape(depth, 2, micro_batch)
    dropped = np.array(drop_rates(depth, rate)).reshape(depth, 1, 1)
    kept = 1.0 / (1.0 - dropped) if rescale else 1.0
    return torch.from_numpy(((drawn >= dropped) * kept).astype(np.float32))


def drop_rates(depth: int, rate: float) -> list[float]:
    """The share of samples each block drops: linear from 0 to `rate`; a single block drops none."""
    return [rate * block / max(1, depth - 1) for block in range(depth)]


def mixup_lambda(seed: int, item: int, alpha: float) -> float:
    """The weight of a micro-batch's own images in mixup, in [0.5, 1]: max(l, 1 - l) with l from Beta(alpha,
    alpha).

    `alpha` 0 means no mixup and gives 1.0; a negative one raises ValueError.
    """
    if alpha < 0:
        raise ValueError(f"mixup is {alpha}; it must be 0 (off) or more")
    if alpha == 0:
        return 1.0
    share = _beta(_stream(seed, item, MIXUP), alpha)
    return max(share, 1.0 - share)


def _beta(stream: np.random.Philox, alpha: float) -> float:
    """One Beta(alpha, alpha) number: Joehnk's rejection up to 1, rejection from the uniform above.

    Joehnk's accepts at least every second pair there; the other draws under a density scaled to peak at 1.
    """
    while True:
        first, second = _as_uniform(stream.random_raw(2))
        if alpha <= 1.0:
            left, right = np.log1p(-first) / alpha, np.log1p(-second) / alpha
            if np.logaddexp(left, right) <= 0.0:
                with np.errstate(over="ignore"):  # of a small alpha: e^inf, and a share of 0
                    return float(1.0 / (1.0 + np.exp(right - left)))
        elif second <= (4.0 * first * (1.0 - first)) ** (alpha - 1.0):
            return float(first)


def _uniform(seed: int, item: int, purpose: int, count: int) -> npt.NDArray[np.float64]:
    return _as_uniform(_stream(seed, item, purpose).random_raw(count))


def _stream(seed: int, item: int, purpose: int) -> np.random.Philox:
    for name, value in (("seed", seed), ("item", item)):
        if not 0 <= value < _KEYS:
            raise ValueError(f"{name} is {value}; it must be from 0 up to 2**64 - 1")
    key = np.array([seed, item], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, purpose], dtype=np.uint64))


def _as_uniform(raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """53 of each word's 64 bits as a number in [0, 1)."""
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
