"""Whether FP8 trains as bf16 does: the same task, data and start in several precisions, at several seeds.

    seed -> data, weights -> steps in fp32, bf16, FP8 -> mean loss in blocks of steps -> differences against the noise

The task is learnable but not soon: each class has a faint pattern under loud noise, drawn anew for every step.
The noise that differences are held against is what another seed does to bf16.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu.blocks import rewire
from benchmarks.gpu.plan import OURS, Options, Setting
from benchmarks.gpu.training import MasterAdamW, compile_
from mixer_model.mixer import Mixer

PRECISIONS: Final[dict[str, Options]] = {
    "bf16": OURS,
    "fp8": replace(OURS, fp8="forward"),
    "fp8, fast sums": replace(OURS, fp8="all"),
    "fp32": OURS,
}
LOUD: Final = 2.0
"""The noise's deviation, the patterns' being 1."""
MARKS: Final = 20
RATE: Final = 3e-4
LEARNED: Final = 0.8
"""Below this share of the loss it began with, something was learned."""


def run(precision: str, seed: int, setting: Setting, device: torch.device) -> dict[str, Any]:
    """One curve: the mean loss of each twentieth of the steps, and of the last tenth."""
    options = PRECISIONS[precision]
    model = Mixer(setting.curve, seed=seed).to(device)
    if precision != "fp32":
        model.to(torch.bfloat16)
    rewire(model, options)
    compile_(model, options, device)
    losses = _train(model, seed, setting, device)
    block = max(1, len(losses) // MARKS)
    return {
        "precision": precision,
        "seed": seed,
        "steps": len(losses),
        "losses": [
            round(statistics.fmean(losses[at : at + block]), 5) for at in range(0, len(losses), block)
        ],
        "end": round(statistics.fmean(losses[-max(1, len(losses) // 10) :]), 5),
    }


def _train(model: nn.Module, seed: int, setting: Setting, device: torch.device) -> list[float]:
    optimizer = MasterAdamW(model, rate=RATE)
    drawing = torch.Generator(device).manual_seed(seed)
    shape = setting.curve
    patterns = torch.randn(
        shape.classes, 3, shape.image_size, shape.image_size, generator=drawing, device=device
    )
    losses: list[Tensor] = []
    for _ in range(setting.curve_steps):
        targets = torch.randint(shape.classes, (setting.curve_batch,), generator=drawing, device=device)
        noise = torch.randn((setting.curve_batch, *patterns.shape[1:]), generator=drawing, device=device)
        loss = F.cross_entropy(model((patterns[targets] + LOUD * noise) / LOUD).float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def verdict(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """For each FP8 and for fp32: how far from bf16 of the same seed, on the average, and whether seeds differ more."""
    ends: dict[str, dict[int, float]] = {}
    for each in curves.values():
        if "end" in each:
            ends.setdefault(each["precision"], {})[each["seed"]] = each["end"]
    base = ends.pop("bf16", {})
    if len(base) < 2:
        return {"all": "bf16 at two seeds or more is needed to say what is noise"}
    begun = [each["losses"][0] for each in curves.values() if each.get("precision") == "bf16"]
    if statistics.fmean(base.values()) > LEARNED * statistics.fmean(begun):
        return {"all": "bf16 learned nothing, so there is nothing to compare"}
    noise = statistics.stdev(base.values())
    said = {}
    for precision, found in ends.items():
        both = [found[seed] - base[seed] for seed in found if seed in base]
        if both:
            apart = statistics.fmean(both)
            word = "within" if abs(apart) <= noise else "NOT within"
            said[precision] = (
                f"{precision} - bf16 {apart:+.4f} on {len(both)} seeds, {word} noise ({noise:.4f})"
            )
    return said
