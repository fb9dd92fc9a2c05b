"""Our Mixer and timm's of the same shape, plain or compiled, each with a whole training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from mixer_model.config import MixerConfig
from mixer_model.interop import timm_arguments
from mixer_model.mixer import Mixer
from mixer_model.param_groups import param_groups
from tests.torchvision_stand_in import timm_imported

WAYS = ("ours compiled", "timm compiled", "ours eager", "timm eager")


@dataclass(frozen=True)
class Job:
    """What all contestants do the same: the shape, its micro-batch, where, and in which numbers."""

    shape: MixerConfig
    batch: int
    device: torch.device
    dtype: torch.dtype


def training_step(way: str, job: Job) -> Callable[[], None]:
    """Forward, backward and AdamW of one of WAYS on one batch; compiled where it says so, and done twice already."""
    whose, how = way.split()
    model = (_ours if whose == "ours" else _timms)(job.shape).to(job.device, job.dtype)
    forward: Callable[[torch.Tensor], torch.Tensor] = model
    if how == "compiled" and isinstance(model, Mixer):  # as orchestrator.training.blocks does
        for block in model.blocks:
            block.forward = torch.compile(block.forward, dynamic=False, fullgraph=True)
    elif how == "compiled":
        forward = torch.compile(model, dynamic=False)
    step = _step(forward, _optimizer(model), job)
    for _ in range(2):
        step()
    return step


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(param_groups(model, 0.1), lr=1e-3, fused=True)


def _step(
    forward: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Optimizer, job: Job
) -> Callable[[], None]:
    side = job.shape.image_size
    images = torch.randn(job.batch, 3, side, side, device=job.device, dtype=job.dtype)
    labels = torch.randint(0, job.shape.classes, (job.batch,), device=job.device)

    def step() -> None:
        loss = F.cross_entropy(forward(images).float(), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _ours(shape: MixerConfig) -> nn.Module:
    return Mixer(shape, seed=0)


def _timms(shape: MixerConfig) -> nn.Module:
    """timm's, with our GELU and our weights."""
    with timm_imported() as timm:
        model: nn.Module = timm.models.mlp_mixer.MlpMixer(**timm_arguments(shape))
    model.load_state_dict(Mixer(shape, seed=0).state_dict(), strict=True)
    return model
