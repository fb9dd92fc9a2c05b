"""Run through the validation set: every sample exactly once at any world size, or not at all when it is time to leave.

batches -> logits -> sums over samples (`scores`) -> summed over ranks -> `facts`: accuracy, top5, loss, samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from data_pipeline.loading.bad_samples import TooManyBadSamples
from mixer_model.losses import is_among, is_right
from orchestrator.training.contact import Contact
from orchestrator.training.engine import Engine
from orchestrator.training.pulse import Pulse

Batches = Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
LOOK_EVERY_S = 1.0
FIVE = 5
NOTHING = (0.0, 0.0, 0.0, 0.0)


def evaluate(
    engine: Engine, batches: Batches, contact: Contact | None, pulse: Pulse
) -> dict[str, Any] | None:
    """Top-1 and top-5 accuracy and mean loss over all ranks' batches; None when told to leave meanwhile.

    Collective: every rank brings the same number of batches. A batch is images uint8 [m, H, W, 3], labels int64 [m] or [m, L] and
    real bool [m]; where not real, a sample only fills the shape. Rank 0 brings `contact`. Labels are not smoothed.
    """
    sums: Sequence[float] = NOTHING
    began, look = time.monotonic(), 1  # the first batch after which ranks agree, and then about once a second
    for number, (images, labels, real) in enumerate(batches, 1):
        pulse.mark("evaluate", turn=number)
        logits = engine.logits(images)
        labels, real = labels.to(logits.device), real.to(logits.device)
        sums = added(sums, scores(logits, labels, real, engine.plain_losses(logits, labels)))
        if number == look:
            leave, seconds = engine.agree(_word(contact, time.monotonic() - began))
            if leave:
                return None
            look += max(1, int(LOOK_EVERY_S * number / seconds))
    return facts(engine.agree(list(sums)), engine.spec.model.classes)


def scores(
    logits: torch.Tensor, labels: torch.Tensor, real: torch.Tensor, losses: torch.Tensor
) -> list[float]:
    """Of the `real` samples of a batch: how many are right, how many among the first five classes, their losses, how many they are.

    `logits` [m, K], `labels` int64 [m] or [m, L], `real` bool [m], `losses` [m].
    """
    right = is_right(logits, labels) & real
    among = is_among(logits, labels, min(FIVE, logits.shape[1])) & real
    loss = torch.where(real, losses, 0.0).double()
    return torch.stack([part.double().sum() for part in (right, among, loss, real)]).tolist()


def added(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """The sums of two parts of a set."""
    return [a + b for a, b in zip(one, other, strict=True)]


def facts(sums: Sequence[float], classes: int) -> dict[str, Any]:
    """What `scores` summed over the whole set come to. `top5` stands there from five classes on.

    TooManyBadSamples when there was none to count.
    """
    right, among, losses, seen = sums
    if not seen:
        raise TooManyBadSamples("no sample of the validation set decodes; run `mixer verify` on it")
    top5 = {"top5": among / seen} if classes >= FIVE else {}
    return {"accuracy": right / seen, **top5, "loss": losses / seen, "samples": int(seen)}


def _word(contact: Contact | None, seconds: float) -> list[float]:
    """Rank 0's order to leave, and its clock, so that all look after the same batches."""
    return [float(contact.leave), max(seconds, 1e-6)] if contact else [0.0, 0.0]
