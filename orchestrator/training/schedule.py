"""The learning rate as a pure function of the number of optimizer steps completed, and when something is due."""

from __future__ import annotations

import math
from collections.abc import Iterable


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, schedule: str) -> float:
    """The rate of the update after `step` completed ones: linear warmup to `peak`, then `schedule` down to 0 at `steps`.

    Warmup and linear decay: MLP-Mixer (arXiv:2105.01601, section 3).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return peak * (1 - done)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak


def batches_to_skip(left_out: Iterable[int], passed: Iterable[int], position: int, batch: int) -> list[int]:
    """The batches a run leaves out, in order: those it has `passed` before `position` (items), of `left_out` only those still to come.

    Batch b is items b * batch to (b + 1) * batch. What was trained on before a batch was to be left out stays trained on.
    """
    return sorted({*passed, *(number for number in left_out if number * batch >= position)})


def due(step: int, every: int | None) -> bool:
    """Whether something done each `every` steps is due after `step` completed ones."""
    return every is not None and step > 0 and step % every == 0
