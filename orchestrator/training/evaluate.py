"""Run through the validation set: every sample exactly once at any world size, or not at all when it is time to leave."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch

from mixer_model.losses import is_right
from orchestrator.training.contact import Contact
from orchestrator.training.engine import Engine
from orchestrator.training.pulse import Pulse

Batches = Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
LOOK_EVERY_S = 1.0


def evaluate(
    engine: Engine, batches: Batches, contact: Contact | None, pulse: Pulse
) -> dict[str, Any] | None:
    """Top-1 accuracy and mean loss over all ranks' batches; None when told to leave meanwhile.

    Collective: every rank brings the same number of batches. A batch is images uint8 [m, H, W, 3], labels int64 [m] or [m, L] and
    real bool [m]; where not real, a sample only fills the shape. Rank 0 brings `contact`.
    """
    right = losses = seen = 0.0
    began, look = time.monotonic(), 1  # the first batch after which ranks agree, and then about once a second
    for number, (images, labels, real) in enumerate(batches, 1):
        pulse.mark("evaluate", turn=number)
        logits = engine.logits(images)
        labels, real = labels.to(logits.device), real.to(logits.device)
        right += float((is_right(logits, labels) & real).sum())
        losses += float(torch.where(real, engine.losses(logits, labels), 0.0).double().sum())
        seen += float(real.sum())
        if number == look:
            leave, seconds = engine.agree(_word(contact, time.monotonic() - began))
            if leave:
                return None
            look += max(1, int(LOOK_EVERY_S * number / seconds))
    right, losses, seen = engine.agree([right, losses, seen])
    return {"accuracy": right / seen, "loss": losses / seen, "samples": int(seen)}


def _word(contact: Contact | None, seconds: float) -> list[float]:
    """Rank 0's order to leave, and its clock, so that all look after the same batches."""
    return [float(contact.leave), max(seconds, 1e-6)] if contact else [0.0, 0.0]
