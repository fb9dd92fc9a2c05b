"""A linear probe on frozen features from a few samples of each class, by ridge regression in closed form.

    features [N,D], labels [N] -> fit -> Probe -> classes of other features

The protocol is that of the few-shot numbers of MLP-Mixer (arXiv:2105.01601, section 3) as its authors' code has it (google-research/
big_vision, evaluators/fewshot_lsr.py): features whitened by the mean and standard deviation of the training ones, a constant
feature of 100 as bias, targets -1 and 1, penalty 2^10. Everything in fp64. N samples, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

L2: Final = 2.0**10
BIAS: Final = 100.0
"""Large, so that the penalty hardly touches the bias."""
EPS: Final = 1e-5
"""Added to the standard deviation of each feature."""
_DOMAIN: Final = 0x73686F7473  # "shots": keeps these draws apart from others of the same seed


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier: `weights` [D+1,K] on features less `mean` [D] over `std` [D], and the constant feature."""

    mean: Tensor
    std: Tensor
    weights: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """The class of each of `features` [M,D], int64 [M]."""
        return (_whitened(features, self.mean, self.std) @ self.weights).argmax(dim=1)


def fit(features: Tensor, labels: Tensor, classes: int, *, l2: float = L2) -> Probe:
    """The Probe of `features` float [N,D] with `labels` int64 [N] below `classes`. ValueError for other shapes, or none at all."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features):
        raise ValueError(
            f"features are {list(features.shape)} and labels {list(labels.shape)}; give [N,D] and [N], N at least 1"
        )
    wide = features.double()
    mean, std = wide.mean(dim=0), wide.std(dim=0, correction=0) + EPS
    x = _whitened(wide, mean, std)
    y = 2.0 * F.one_hot(labels, classes).to(x) - 1.0
    return Probe(mean, std, ridge(x, y, l2))


def ridge(x: Tensor, y: Tensor, l2: float) -> Tensor:
    """The W [D,K] that makes |xW - y|^2 + l2 |W|^2 smallest, for x [N,D] and y [N,K].

    By the eigenvectors of x^T x where N >= D, else of the smaller x x^T: (x^T x + l2)^-1 x^T y = x^T (x x^T + l2)^-1 y.
    """
    if len(x) >= x.shape[1]:
        return _solve(x.T @ x, x.T @ y, l2)
    return x.T @ _solve(x @ x.T, y, l2)


def _solve(square: Tensor, right: Tensor, l2: float) -> Tensor:
    """(square + l2)^-1 right, of a symmetric `square`."""
    values, vectors = torch.linalg.eigh(square)
    solved: Tensor = vectors @ ((vectors.T @ right) / (values[:, None] + l2))
    return solved


def choose(labels: npt.NDArray[np.int64], shots: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of the samples with `labels` [N] a probe is fitted on: `shots` of each class, all of a class that has fewer.

    A function of the arguments; with more shots the same samples and more. Raw words of Philox, as everywhere in this package.
    ValueError where there is nothing to choose.
    """
    if not len(labels) or shots < 1:
        raise ValueError(f"there are {len(labels)} labels and shots is {shots}; both must be at least 1")
    by_class = np.argsort(labels, kind="stable")
    classes = np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)
    return np.concatenate(
        [there[_mixed(seed, int(labels[there[0]]), len(there))[:shots]] for there in classes]
    )


def _mixed(seed: int, label: int, count: int) -> npt.NDArray[np.int64]:
    """The numbers 0..count-1 in the order of (seed, label)."""
    key, counter = np.array([seed, label], np.uint64), np.array([0, 0, 0, _DOMAIN], np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(count), kind="stable")


def _whitened(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[M,D] to [M,D+1]: whitened, with the constant feature."""
    return F.pad((features.double() - mean) / std, (0, 1), value=BIAS)
