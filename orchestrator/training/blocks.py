"""How the blocks of a Mixer run: compiled or not, and what their backward passes compute again.

Block.forward -> compiled, one graph for all blocks, for training and for evaluation -> recomputed, where the spec says so

`forward` is assigned rather than the block compiled, so that ZeRO-3's hooks stay outside the graph. To be done before DeepSpeed sees the
model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixer_model.layers import recompute_gelu
from mixer_model.mixer import Mixer
from orchestrator.spec import Train

Forward = Callable[[Tensor, Tensor | None], Tensor]


def prepare(model: Mixer, train: Train) -> None:
    """Let the blocks of `model` run as `train` says."""
    if train.recompute == "gelu":
        recompute_gelu(model)
    for block in model.blocks:
        if train.compile:
            block.forward = _one_graph(torch.compile(block.forward, dynamic=False, fullgraph=True))
        if train.recompute == "block":
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def _one_graph(compiled: Forward) -> Forward:
    """`compiled`, by the graph of training in evaluation too: a graph of its own would be compiled in the middle of a run.

    What the graph keeps for a backward pass goes when the block is done.
    """

    def forward(x: Tensor, keep: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            return compiled(x, keep)
        with torch.enable_grad():
            return compiled(x.detach().requires_grad_(), keep).detach()

    return forward
