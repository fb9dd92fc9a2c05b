"""What joining an attempt settles for the process."""

from __future__ import annotations

import torch

from tests.gang import run_gang


def settled() -> bool:
    from orchestrator.training.engine import join

    join()
    return torch.backends.cudnn.deterministic


def test_convolutions_of_a_gpu_give_the_same_bits_twice() -> None:
    """Of `depthwise` and `ms`. The flag is read where a GPU is; it is set everywhere, so that it can be looked at here."""
    assert run_gang(1, settled) == [True]
