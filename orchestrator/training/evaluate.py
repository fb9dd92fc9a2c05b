"""Run through the validation set: every sample exactly once at any world size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from orchestrator.training.engine import Engine

Batches = Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def evaluate(engine: Engine, batches: Batches) -> dict[str, Any]:
    """Top-1 accuracy and mean loss over all ranks' batches. Collective: every rank brings the same number of batches.

    A batch is images uint8 [m, H, W, 3], labels int64 [m] and real bool [m]; where not real, a sample only fills the shape.
    """
    right = losses = seen = 0.0
    for images, labels, real in batches:
        logits = engine.logits(images)
        labels, real = labels.to(logits.device), real.to(logits.device)
        right += float(((logits.argmax(1) == labels) & real).sum())
        losses += float(torch.where(real, engine.losses(logits, labels), 0.0).double().sum())
        seen += float(real.sum())
    right, losses, seen = engine.agree([right, losses, seen])
    return {"accuracy": right / seen, "loss": losses / seen, "samples": int(seen)}
