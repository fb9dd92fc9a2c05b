"""What an engine minimises, by the keys of the spec, against a plain loop that is told the same in torch's own words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mixer_model.config import MixerConfig, config
from mixer_model.draws import drop_rates, keep_masks
from mixer_model.losses import one_hot
from mixer_model.mixer import Mixer, to_input
from mixer_model.param_groups import param_groups
from orchestrator.spec import Spec
from orchestrator.spec_text import parse_spec
from tests.gang import run_gang

SPEC = """
name: t
model: {{patch: 4, dim: 16, depth: 3, token_dim: 8, channel_dim: 32, classes: 7, image_size: 16, {model}}}
data: {{train: /nowhere}}
train: {{global_batch: 6, micro_batch: 6, steps: 10, precision: fp32, zero: 1, compile: false, seed: 3}}
workers: {{max: 1}}
"""
MODELS = {
    "smoothed and rescaled": "drop_path: 0.5, drop_path_rescale: true, label_smoothing: 0.2",
    "plain": "drop_path: 0.5",
    "sigmoid": "loss: sigmoid",
    "sigmoid from a bias": "loss: sigmoid, head_bias: -1.5",
}
LABELS = torch.tensor([0, 1, 2, 3, 6, 6])
STEPS = 3


def batch(step: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(step)
    return torch.randint(0, 256, (6, 16, 16, 3), generator=draw, dtype=torch.uint8)


def by_engine() -> dict[str, Any]:
    """Of each model: the loss of every step, and one without smoothing on what was last seen."""
    from orchestrator.training.engine import Engine, join

    found, place = {}, join()
    for name, model in MODELS.items():
        engine = Engine(parse_spec(SPEC.format(model=model)), place)
        losses = []
        for step in range(STEPS):
            losses.append(float(engine.forward_backward(batch(step), LABELS, step, real=True)))
            engine.step(0.05)
        logits = engine.logits(batch(0))
        found[name] = {
            "losses": losses,
            "evaluated": engine.plain_losses(logits, LABELS).tolist(),
            "logits": logits.tolist(),
        }
    return found


def plainly(spec: Spec) -> list[float]:
    """The losses of a loop without an engine."""
    wanted, model = spec.model, Mixer(parsed_shape(spec), seed=3)
    bias = wanted.head_bias if wanted.head_bias is not None else -math.log(7)
    torch.nn.init.constant_(model.head.bias, bias if wanted.loss == "sigmoid" else 0.0)
    optimizer = torch.optim.AdamW(param_groups(model, 0.1), lr=0.05)
    losses = []
    for step in range(STEPS):
        keep = keep_masks(3, step, 3, 6, wanted.drop_path)
        if wanted.drop_path_rescale:
            keep = keep / (1 - torch.tensor(drop_rates(3, wanted.drop_path)))[:, None, None]
        logits = model(to_input(batch(step)), keep if wanted.drop_path else None)
        if wanted.loss == "sigmoid":
            loss = F.binary_cross_entropy_with_logits(logits, one_hot(LABELS, 7), reduction="sum") / 6
        else:
            loss = F.cross_entropy(logits, LABELS, label_smoothing=wanted.label_smoothing)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def parsed_shape(spec: Spec) -> MixerConfig:
    return config(spec.model.preset, **spec.model.overrides())


@pytest.mark.timeout(120)
def test_the_engine_minimises_what_the_spec_says() -> None:
    (found,) = run_gang(1, by_engine)
    for name, model in MODELS.items():
        expected = plainly(parse_spec(SPEC.format(model=model)))
        assert found[name]["losses"] == pytest.approx(expected, rel=1e-4), name
        assert len({round(loss, 6) for loss in expected}) == STEPS
    firsts = {name: lines["losses"][0] for name, lines in found.items()}
    assert firsts["plain"] == pytest.approx(math.log(7))
    start = 7 * math.log1p(1 / 7) + math.log(7)  # six outputs say no, one says yes, all with a chance of 1/8
    assert firsts["sigmoid"] == pytest.approx(start, rel=1e-5)
    smoothed = found["smoothed and rescaled"]
    unsmoothed = F.cross_entropy(torch.tensor(smoothed["logits"]), LABELS, reduction="none")
    assert smoothed["evaluated"] == pytest.approx(unsmoothed.tolist(), rel=1e-5)
