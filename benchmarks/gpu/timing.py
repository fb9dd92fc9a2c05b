"""How long something takes on a device: CUDA events there, the clock on the CPU. Milliseconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

LEAST, MOST = 5, 200


def timed(act: Callable[[], Any], device: torch.device, seconds: float) -> list[float]:
    """Milliseconds of each of as many calls as fit into `seconds`, 5 to 200, one after the other without a pause.

    Warm it up first. The first call here is only for guessing how many fit.
    """
    calls = max(LEAST, min(MOST, round(1000 * seconds / max(1e-3, _one(act, device)))))
    if device.type != "cuda":
        return [_one(act, device) for _ in range(calls)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        act()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(marks)]


def settle(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def _one(act: Callable[[], Any], device: torch.device) -> float:
    settle(device)
    began = time.perf_counter()
    act()
    settle(device)
    return 1000 * (time.perf_counter() - began)
