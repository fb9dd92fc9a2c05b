"""Pictures of a run's weights: in the report, as one PNG by `mixer report RUN --weights`, and why there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.pages.gallery import weights, write_weights
from orchestrator.pages.report import render
from tests.scripted_run import ScriptedRun, killed_once


def command(run: ScriptedRun, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["report", run.run.url, "--weights", *args])
    return done.exit_code, done.output + str(done.exception or "")


def test_the_sheet_holds_every_unit_and_filter(tmp_path: Path) -> None:
    run = killed_once(tmp_path)
    code, said = command(run, "-o", str(tmp_path / "w.png"), "--json")
    assert code == 0, said
    facts = json.loads(said)
    assert (facts["run"], facts["step"]) == ("digits-abc123", 120)
    assert [(p["of"], p["units"]) for p in facts["panels"]] == [
        ("block 1", 32), ("block 2", 32), ("block 3", 32), ("stem", 64),
    ]  # fmt: skip
    with Image.open(tmp_path / "w.png") as image:
        assert f"{image.width} x {image.height}" == facts["pixels"]


def test_it_needs_no_torch(tmp_path: Path) -> None:
    run = killed_once(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom orchestrator.run_store import Run\nfrom orchestrator.accounts.status import Book\n"
        "from orchestrator.pages.report import render\nfrom orchestrator.pages.gallery import write_weights\n"
        f"book = Book(Run({run.run.url!r}))\nassert 'data:image/png' in render(book)\n"
        f"write_weights(book, Path({str(tmp_path / 'w.png')!r}))\nprint({{'torch', 'ray'}} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"
    assert (tmp_path / "w.png").exists()


def test_the_report_says_what_the_pictures_show(tmp_path: Path) -> None:
    section = weights(killed_once(tmp_path).book())
    for words in (
        "Weights of step 120",
        "block 3",
        "all 32 units",
        "all 64 filters",
        "Fig. 5 and 6",
        "Fig. 7",
        "report digits-abc123 --weights",
    ):
        assert words in section
    assert section.count("data:image/png;base64,") == 4


def test_a_run_without_a_checkpoint_has_no_picture(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    code, said = command(run, "-o", str(tmp_path / "w.png"))
    assert code != 0
    assert (
        "digits-abc123 has no committed checkpoint yet; `mixer logs digits-abc123` shows what it does" in said
    )
    assert not (tmp_path / "w.png").exists()


def test_a_picture_is_asked_for_as_a_png(tmp_path: Path) -> None:
    code, said = command(killed_once(tmp_path), "-o", str(tmp_path / "w.html"))
    assert code != 0
    assert "w.html; with --weights it is a picture: give a name that ends in .png" in said


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    one = run.begin()
    run.steps(one, 1, 20)
    run.save(one, 20, change={"blocks.1.mlp_tokens.fc1.weight": np.full((32, 64), np.nan, np.float32)})
    code, said = command(run, "-o", str(tmp_path / "w.png"))
    assert code != 0
    why = "blocks.1.mlp_tokens.fc1.weight holds numbers that are not finite"
    assert f"the weights of digits-abc123 cannot be drawn: {why}" in said
    assert not (tmp_path / "w.png").exists()
    assert f"It cannot be drawn: {why}" in render(run.book())


def test_without_token_weights_the_stem_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixer_model.pictures.OVER_POSITIONS", {})
    book = killed_once(tmp_path).book()
    facts = write_weights(book, tmp_path / "w.png")
    assert [panel["of"] for panel in facts["panels"]] == ["stem"]
    assert facts["missing"] in weights(book).replace("&#x27;", "'")
    assert "'mlp' has no weight for each position" in facts["missing"]
