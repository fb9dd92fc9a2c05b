"""The engine that a run trains with, around a network of this benchmark: DeepSpeed ZeRO in one process that is its whole world.

    a process group of one, on the loopback -> the product's under_zero(), with its configuration -> Zero.take(loss)

What is compared with a plain loop is that engine: network, weights, compiled blocks and AdamW are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mixer_model.mixer import Mixer
from orchestrator.spec import Train
from orchestrator.training import engine, fragments


class Zero:
    """What a Training takes for its model and for its optimizer."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits

    def take(self, loss: Tensor) -> None:
        """Backward, and the update."""
        self.inner.backward(loss)
        self.inner.step()


@contextmanager
def under_zero(
    model: Mixer, stage: int, batch: int, device: torch.device, *, rate: float, decay: float
) -> Iterator[Zero]:
    """`model`, bf16 and with its blocks prepared, under ZeRO. Afterwards its group, hooks and memory are given back."""
    train = Train.model_validate(
        {
            "global_batch": batch,
            "micro_batch": batch,
            "steps": 1,
            "optimizer": {"lr": rate, "weight_decay": decay},
            "clip": None,
            "zero": stage,
        }
    )
    with _alone(device):
        made = Zero(engine.under_zero(model, train, 1, device))
        try:
            yield made
        finally:
            _empty(model, made.inner)


def _empty(model: Mixer, inner: Any) -> None:
    """Give back the memory of an engine. DeepSpeed 0.19.8 keeps ZeRO-3 networks in lists and caches: there they stay, without tensors."""
    inner.destroy()
    for holder in (fragments.inner(inner), inner.optimizer, *model.parameters()):
        vars(holder).clear()
    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.data.new_empty(0), None


@contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """A process group of this process alone, joined as a rank joins its own."""
    settled = torch.backends.cudnn.deterministic  # joining sets it, and rows that follow have none of that
    os.environ.setdefault("LOCAL_RANK", "0")
    engine.preload(device)  # what cannot be imported fails before there is a group
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)  # port 0: one that is free
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=0, world_size=1)
    try:
        engine.join(gpus=int(device.type == "cuda"))
        yield
    finally:
        engine.leave()
        torch.backends.cudnn.deterministic = settled
