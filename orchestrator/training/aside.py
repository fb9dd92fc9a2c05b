"""Agreement between micro-batches, on the CPU: what a rank asks the others must not make the device's stream wait.

NCCL runs a collective on the stream, behind all that is queued there. So where the step's group is NCCL this has a gloo group of its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from orchestrator.training.engine import Place


class Aside:
    """All ranks of this attempt, on the CPU."""

    def __init__(self, place: Place) -> None:
        self._foreign = place.device.type == "cuda"
        self._group: Any = None

    def any(self, mine: bool) -> bool:
        """Whether it is so on some rank. Collective."""
        if self._foreign and self._group is None:
            self._group = dist.new_group(backend="gloo")
        total = torch.tensor(float(mine), dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return float(total) > 0
