"""Files of weights to begin with, and runs that do: of the shape of tests.runs."""

from __future__ import annotations

from pathlib import Path

import torch

from mixer_model import interop
from mixer_model.config import MixerConfig, config
from mixer_model.mixer import Mixer
from orchestrator.frozen import Frozen
from orchestrator.resolving import freeze
from tests.runs import Small

SHAPE = config(
    None, patch=8, dim=32, depth=2, token_dim=16, channel_dim=64, classes=10, image_size=32
)  # that of tests.runs


def weights(path: Path, shape: MixerConfig = SHAPE, seed: int = 1, labels: list[str] | None = None) -> str:
    """A file of weights, none of them zero; with the names of its classes in the JSON beside it, where they are given."""
    model, generator = Mixer(shape), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    interop.export_safetensors(
        model.state_dict(), path, shape, {interop.LABELS_KEY: labels} if labels else None
    )
    return str(path)


def frozen_at(small: Small, name: str, *overrides: str) -> Frozen:
    """A new run, frozen and not led."""
    resolved = small.resolve(name, *overrides)
    freeze(resolved, small.said.append, submitted=True)
    return resolved.run.frozen()
