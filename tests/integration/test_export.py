"""What comes out of a run: weights that timm loads, and an evaluation that agrees with the run's own."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mixer_model import interop
from mixer_model.interop import timm_arguments
from mixer_model.mixer import to_input
from orchestrator.cli import app
from orchestrator.errors import UserError
from orchestrator.logs import lines
from orchestrator.weights.network import evaluate_run, export_run, load_network
from orchestrator.weights.probe import Wanted, few_shot
from orchestrator.weights.probe import lines as said_of
from tests.mixer_model.conftest import timm  # noqa: F401  (a fixture)
from tests.runs import Small

pytestmark = pytest.mark.timeout(240)


def test_a_runs_weights_load_strictly_into_timm_and_give_the_same_logits(
    small: Small,
    tmp_path: Path,
    timm: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    code, book = small.lead("out", "train.steps=30", "workers.min=2")
    assert code == 0
    file = export_run(book.run, tmp_path / "out.safetensors")
    model, _, step = load_network(book.run)
    assert step == 30
    theirs = timm.models.mlp_mixer.MlpMixer(**timm_arguments(model.config)).eval()
    theirs.load_state_dict(load_file(file), strict=True)
    images = to_input(
        torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-5, atol=1e-5)
    for form in ("npz", "timm"):
        path = tmp_path / form if form == "timm" else tmp_path
        done = CliRunner().invoke(app, ["export", book.run.url, "--format", form, "-o", str(path), "--json"])
        told = json.loads(done.stdout)
        assert (told["step"], told["format"]) == (30, form)
        shape, state = interop.load(told["file"])
        assert shape == model.config
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        words = ["export", book.run.url, "--format", form, "-o", str(Path(told["beside"]) / "below-a-file")]
        refused = CliRunner().invoke(app, words).exception
        assert isinstance(refused, UserError)
        assert f"--out {words[-1]} cannot be written: " in str(refused)
    assert {path.name for path in tmp_path.glob("out.*")} == {
        "out.safetensors",
        "out.json",
        "out.npz",
        "out.npz.json",
    }
    facts = evaluate_run(book.run)
    seen = book.status()["evaluation"]
    assert (facts["samples"], facts["step"], facts["crop"]) == (360, 30, "auto")
    assert facts["accuracy"] == pytest.approx(seen["accuracy"], abs=1 / 360)
    assert facts["top5"] == pytest.approx(seen["top5"], abs=1 / 360)
    assert facts["loss"] == pytest.approx(seen["loss"], rel=1e-4)
    assert facts["accuracy"] < facts["top5"] <= 1
    assert f"top-5 {seen['top5']:.2%}" in "\n".join(lines(book.entries, book.events))

    other = evaluate_run(book.run, crop="whole", data=book.frozen.spec.data.train)
    assert (other["samples"], other["crop"]) == (1437, "whole")
    probed = few_shot(book.run, Wanted((5, 10), seeds=3))
    five, ten = probed["few_shot"]
    assert (five["shots"], ten["shots"], len(ten["accuracies"])) == (5, 10, 3)
    assert 0.5 < five["accuracy"] < ten["accuracy"] <= 1
    assert ten["std"] == pytest.approx(stdev(ten["accuracies"]))
    assert (probed["samples"], probed["classes"], probed["pool"]["short"]) == (360, 10, [])
    typed = CliRunner().invoke(app, ["eval", book.run.url, "--few-shot", "10", "--seeds", "2", "--json"])
    assert json.loads(typed.stdout)["few_shot"][0]["accuracies"] == ten["accuracies"][:2]
    alone = CliRunner().invoke(app, ["eval", book.run.url, "--seeds", "2"])
    assert str(alone.exception) == "--train-data, --pool and --seeds go with --few-shot N"
    scarce = few_shot(book.run, Wanted((10,), seeds=1, pool=40))
    assert scarce["pool"]["read"] == 40
    assert f"{len(scarce['pool']['short'])} classes have fewer than 10" in said_of(scarce)[-1]
    with pytest.raises(UserError, match="--crop got middle; allowed: auto, resmall-crop, resize-crop, whole"):
        evaluate_run(book.run, crop="middle")
