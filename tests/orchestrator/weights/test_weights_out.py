"""What is known of an export or an evaluation before it begins, so of a run that has nothing to export yet; and what is said of a file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mixer_model.config import config
from mixer_model.mixer import Mixer
from orchestrator.cli import app
from orchestrator.errors import UserError
from orchestrator.resolving import freeze
from orchestrator.run_store import Run
from orchestrator.weights import network
from orchestrator.weights.importing import import_weights
from orchestrator.weights.network import evaluated_as, export_as
from tests.orchestrator.weights.starts import weights
from tests.runs import make_small
from tests.scripted_run import killed_once
from tests.torchvision_stand_in import timm_imported


@pytest.fixture
def first(tmp_path: Path, digits: str) -> Run:
    """A run, frozen and not led."""
    resolved = make_small(tmp_path, digits).resolve("first")
    freeze(resolved, lambda text: None, submitted=True)
    return resolved.run


@pytest.mark.parametrize(
    ("form", "out", "theirs"),
    [
        ("safetensors", None, "first.json"),
        ("safetensors", "x.safetensors", "x.json"),
        ("safetensors", "there", "there/first.json"),
        ("timm", "there", "there/config.json"),
        ("timm", "x.pth", "x.pth.json"),
        ("npz", "x.npz", "x.npz.json"),
    ],
)
def test_a_json_that_mixer_did_not_write_is_never_replaced_by_an_export(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, out: str | None, theirs: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path(theirs).write_text('{"run": "first", "history": []}')  # as `mixer report first --json > first.json`
    with pytest.raises(UserError, match=rf"{theirs} is there and no config that mixer wrote: remove it"):
        export_as(first, Path(out) if out else None, form)
    Path(theirs).write_text('{"mixer_config": {}}')
    with pytest.raises(UserError, match="no committed checkpoint"):
        export_as(first, Path(out) if out else None, form)


@pytest.mark.parametrize(
    ("form", "out", "said"),
    [
        (
            "safetensors",
            "x.pth",
            "--format safetensors writes .safetensors: give such a name, or --format timm",
        ),
        (
            "safetensors",
            "x.npz",
            "--format safetensors writes .safetensors: give such a name, or --format npz",
        ),
        ("npz", "x.onnx", "--format npz writes .npz: give such a name, or --format onnx"),
        ("onnx", "x.json", "--format onnx writes .onnx: give such a name"),
        (
            "timm",
            "x.npz",
            "--format timm writes .safetensors or .pth or .bin or .pt: give such a name, or --format npz",
        ),
    ],
)
def test_a_file_is_not_given_the_suffix_of_another_format(
    first: Run, tmp_path: Path, form: str, out: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        export_as(first, tmp_path / out, form)
    assert str(caught.value) == f"--out got {tmp_path / out}; {said}"
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match="no committed checkpoint"):
        export_as(first, tmp_path / "folder.npz", form)


def test_what_is_imported_is_not_given_the_suffix_of_another_format(tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"x.pth; what is written is a .safetensors, or a folder with one"):
        import_weights(source, out=tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("command", ["export", "import", "report", "look"])
def test_an_out_that_is_a_url_is_refused_and_no_folder_of_its_name_is_made(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, [command, first.url, "-o", "s3://bucket/x.safetensors"])
    assert isinstance(done.exception, UserError)
    assert "--out got s3://bucket/x.safetensors; it is a file or folder on this machine" in str(
        done.exception
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "words", [["report"], ["report", "--weights"], ["export", "--format", "tensorboard"]]
)
def test_an_out_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path, words: list[str]) -> None:
    run, taken = killed_once(tmp_path).run, tmp_path / "taken"
    taken.write_text("somebody's")
    for place in (taken / "x.png", *([tmp_path / "there.png"] if "report" in words else [])):
        (tmp_path / "there.png").mkdir(exist_ok=True)
        done = CliRunner().invoke(app, [words[0], run.url, *words[1:], "-o", str(place)])
        assert isinstance(done.exception, UserError), done.output
        assert f"--out {place} cannot be written: " in str(done.exception)
    assert taken.read_text() == "somebody's"


def test_a_picture_that_cannot_be_written_is_the_users_to_mend(first: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["look", first.url, "-o", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert f"--out {tmp_path} cannot be written: Is a directory" in str(done.exception)


def test_another_set_is_evaluated_on_also_where_the_training_set_is_gone(
    first: Run, tmp_path: Path, digits: str
) -> None:
    frozen = first.frozen()
    spec = frozen.spec
    moved = spec.model_copy(update={"data": spec.data.model_copy(update={"train": str(tmp_path / "gone")})})
    seen = evaluated_as(first, replace(frozen, spec=moved), "whole", f"{digits}/val")
    assert seen.spec.data.val == f"{digits}/val"
    assert seen.val == frozen.val
    fewer = spec.model_copy(update={"model": spec.model.model_copy(update={"classes": 7})})
    with pytest.raises(UserError, match="has label 9; the run has 7 classes, and labels begin with 0"):
        evaluated_as(first, replace(frozen, spec=fewer), None, f"{digits}/val")


def test_another_set_must_number_the_classes_as_the_training_set_does(
    first: Run, tmp_path: Path, digits: str
) -> None:
    other = shutil.copytree(f"{digits}/val", tmp_path / "other")
    (other / "index.json").unlink()
    names = tmp_path / "names.txt"
    names.write_text("\n".join(str(number) for number in range(9, -1, -1)))
    assert CliRunner().invoke(app, ["index", str(other), "--classes", str(names)]).exit_code == 0
    with pytest.raises(UserError, match=r"class 0 is '0' in .* and '9' in .*do not mean the same"):
        evaluated_as(first, first.frozen(), None, str(other))
    frozen = first.frozen()
    data = frozen.spec.data.model_copy(update={"train": str(tmp_path / "gone")})
    gone = replace(frozen, spec=frozen.spec.model_copy(update={"data": data}))
    with pytest.raises(
        UserError, match=rf"class 0 is '0' .*with --classes {first.url}/classes/[0-9a-f]{{16}}.json"
    ):
        evaluated_as(first, gone, None, str(other))
    next(Path(first.url, "classes").iterdir()).unlink()  # as in runs of older versions
    with pytest.raises(UserError, match=r"class 0 is '0' in .*do not mean the same"):
        evaluated_as(first, frozen, None, str(other))
    assert evaluated_as(first, gone, None, str(other)).val is not None


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
def test_timm_computes_the_same_by_the_line_that_is_said(tmp_path: Path, activation: str) -> None:
    """Its GELU is erf's unless told: the trap of Google's weights in timm."""
    shape = config(None, patch=4, dim=16, depth=2, image_size=16, classes=3, activation=activation)
    model, generator = Mixer(shape).double().eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    (said,) = network._write(model, tmp_path / "x.safetensors", "timm", {})
    built, loads, _ = said.partition(".load_state_dict(")
    assert loads
    with timm_imported() as timm:
        other = eval(built, {"timm": timm, "partial": partial, "torch": torch}).double().eval()
    other.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(other(images), model(images), atol=1e-12, rtol=1e-12)


def test_an_npz_of_erfs_gelu_says_that_jax_computes_another(tmp_path: Path) -> None:
    for activation, said in (("gelu_tanh", 0), ("gelu", 1)):
        model = Mixer(config(None, patch=4, dim=16, depth=1, image_size=16, classes=3, activation=activation))
        notes = network._write(model, tmp_path / f"{activation}.npz", "npz", {})
        assert ["by tanh; this network was trained with erf's" in note for note in notes] == [True] * said
