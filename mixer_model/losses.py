"""Losses, one number per sample, and the targets they take.

    logits [B,K], targets -> loss float32 [B]

Targets are classes int64 [B], several classes a sample int64 [B,L] with -1 for none, or shares float [B,K]. Whole
numbers are always taken for classes: a 0 or 1 for each class must come as floats. Of several classes each has an
equal share of the softmax's target and a full one of the sigmoids'. With label smoothing e the softmax's target t
becomes (1 - e) t + e/K (Szegedy et al., arXiv:1512.00567, section 7). One loss per sample and not a mean, because who
averages must know the global batch. Computed in fp32 whatever the logits are. Mixup mixes a micro-batch with itself
rolled by one, as big_vision does; its weight comes from `draws.mixup_lambda`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of the softmax, [B]. `targets` are classes int64 [B] or [B,L], or shares float [B,K].

    `smoothing`, from 0 up to 1, is the share of the target that all K classes get alike.
    """
    _check(logits, targets)
    wanted = targets.float() if targets.is_floating_point() else targets
    if targets.ndim == 2 and not targets.is_floating_point():
        wanted = F.normalize(multi_hot(targets, logits.shape[1]), p=1.0, dim=1)
    return F.cross_entropy(logits.float(), wanted, reduction="none", label_smoothing=smoothing)


def sigmoid_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of one sigmoid per class, summed over classes, [B]. Targets as in
    `softmax_cross_entropy`."""
    _check(logits, targets)
    hot = one_hot if targets.ndim == 1 else multi_hot
    wanted = targets.float() if targets.is_floating_point() else hot(targets, logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none").sum(dim=1)


LOSSES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
}
"""The losses by the names a spec uses."""


def training_loss(name: str, smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss called `name` with labels smoothed. ValueError for a loss that is not known, or cannot be smoothed."""
    if name not in LOSSES:
        raise ValueError(f"no loss {name!r}; allowed: {', '.join(LOSSES)}")
    if not smoothing:
        return LOSSES[name]
    if name != "softmax" or not 0 < smoothing < 1:
        raise ValueError(f"label smoothing is {smoothing} for {name}; it is from 0 up to 1, for softmax only")
    return partial(softmax_cross_entropy, smoothing=smoothing)


def one_hot(targets: Tensor, classes: int) -> Tensor:
    """Classes int64 [B] as shares float32 [B,classes]."""
    return F.one_hot(targets, classes).to(torch.float32)


def multi_hot(targets: Tensor, classes: int) -> Tensor:
    """Classes int64 [B,L], -1 for none, as float32 [B,classes]: 1 for each that a sample has. A class not below `classes` is an error."""
    counts = torch.zeros(len(targets), classes, device=targets.device)
    counts.scatter_add_(1, targets.clamp(min=0), (targets >= 0).float())
    return counts.clamp_(max=1.0)


def is_right(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the likeliest class is one of the sample's, bool [B]. `targets` int64 [B] or [B,L]."""
    found = logits.argmax(1)
    return found == targets if targets.ndim == 1 else (found[:, None] == targets).any(1)


def is_among(logits: Tensor, targets: Tensor, first: int = 5) -> Tensor:
    """Whether one of the `first` likeliest classes is one of the sample's, bool [B]. `targets` int64 [B] or [B,L]."""
    found = logits.topk(first, dim=1).indices
    return (found[:, :, None] == targets.reshape(len(targets), 1, -1)).flatten(1).any(1)


def mixup(images: Tensor, targets: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Each sample mixed with the one before it in the micro-batch, the first with the last.

    `images` float [B,...] and `targets` float [B,K] become weight * own + (1 - weight) * other's. A `weight`
    of 1 changes nothing. Raises ValueError for targets that are classes: make them shares with `one_hot`
    first.
    """
    if not targets.is_floating_point():
        raise ValueError(
            f"mixup mixes shares float [B,K], given {targets.dtype} {list(targets.shape)}; use one_hot first"
        )
    return mixed(images, weight), mixed(targets, weight)


def mixed(values: Tensor, weight: float) -> Tensor:
    """`weight` of each of the float values [B,...] and 1 - `weight` of the one before it, of the first the last."""
    return values if weight == 1 else values.lerp(values.roll(1, dims=0), 1 - weight)


def _check(logits: Tensor, targets: Tensor) -> None:
    shares = targets.is_floating_point()
    fits = targets.shape == logits.shape if shares else targets.ndim <= 2 and len(targets) == len(logits)
    if logits.ndim != 2 or not fits:
        raise ValueError(
            f"logits are {list(logits.shape)} and targets {targets.dtype} {list(targets.shape)}; "
            "allowed: logits [B,K] with classes int64 [B] or [B,L], or shares float [B,K]"
        )
