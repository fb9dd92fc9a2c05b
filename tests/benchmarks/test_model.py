"""What the figures of the networks stand on: the same function, the same step, and arithmetic on seconds."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.model import engine, networks, step
from benchmarks.model.clock import Clock
from mixer_model.config import config
from mixer_model.mixer import Mixer
from orchestrator.spec_text import parse_spec

CPU = torch.device("cpu")
TINY = config(None, patch=8, dim=16, depth=2, image_size=32, classes=5)


def test_timms_is_the_same_function() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    job = networks.Job(TINY, 2, CPU, torch.float32)
    images = torch.randn(2, 3, 32, 32)
    ours, theirs = networks._ours(job.shape), networks._timms(job.shape)
    torch.nn.init.normal_(ours.get_parameter("head.weight"))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(images), ours(images))


def test_a_step_moves_every_weight() -> None:
    model = Mixer(TINY)
    torch.nn.init.normal_(model.head.weight)
    before = [value.clone() for value in model.state_dict().values()]
    job = networks.Job(TINY, 2, CPU, torch.float32)
    networks._step(model, networks._optimizer(model), job)()
    assert not any(
        torch.equal(old, new) for old, new in zip(before, model.state_dict().values(), strict=True)
    )


def test_a_measurement_has_shares_ratios_and_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.model.ceiling.SQUARE", {"cpu": 64})
    job = networks.Job(TINY, 2, CPU, torch.float32)
    found = step.measure(job, ["ours eager"], Clock(CPU, 1), rounds=2)
    assert 0 < found["share"]["ours eager"] < 1
    assert len(found["seconds"]["ours eager"]) == 2
    assert step._ratios({"ours eager": [1.0, 2.0, 1.0], "timm eager": [1.5, 3.0, 9.0]}) == {"eager": 1.5}
    known = {"share": {"ours compiled": 0.89}, "ratio": {"compiled": 1.1}}
    assert [bar["reached"] for bar in step.bars("S/16", "bf16", known)] == [True, True]
    assert [bar["reached"] for bar in step.bars("S/16", "fp32", known)] == [False, True]
    assert step.bars("small", "fp32", known) == []


def test_the_plain_loop_learns_with_masters() -> None:
    """A loop whose masters never reached its bf16 weights would be a faster one."""
    model = "patch: 8, dim: 16, depth: 2, image_size: 32"
    text = engine.SPEC.format(model=model, batch=4, precision="bf16")
    spec = parse_spec(text, ["train.compile=false"])
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    act = engine.plain_step(spec, images, torch.arange(4))
    losses = [float(act()) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
