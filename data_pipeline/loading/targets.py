"""The labels of a batch as one array: int64 [m], or [m, L] with -1 for none where samples have up to L of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

NONE = -1


def empty_labels(m: int, per_sample: int) -> torch.Tensor:
    """Room for the labels of m samples."""
    return torch.full((m,) if per_sample == 1 else (m, per_sample), NONE, dtype=torch.int64)


def put_labels(room: npt.NDArray[np.int64], j: int, labels: tuple[int, ...]) -> None:
    """Write the labels of sample j, over what was there."""
    if room.ndim == 1:
        (room[j],) = labels
    else:
        room[j] = NONE
        room[j, : len(labels)] = labels
