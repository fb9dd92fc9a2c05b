"""Where a run begins: weights of a file, frozen by their digest, copied beside the run, or refused before anything is written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file, save
from typer.testing import CliRunner

from data_pipeline.storage import open_store
from mixer_model import interop, resize
from mixer_model.config import config
from mixer_model.mixer import Mixer
from orchestrator import cli, tensor_file
from orchestrator.accounts.status import Book
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import load_manifest
from orchestrator.checkpoints.reading import read_weights
from orchestrator.errors import SpecError, UserError
from orchestrator.frozen import Frozen
from orchestrator.listing import list_store
from orchestrator.pages.report import render
from orchestrator.resolving import resolve
from orchestrator.run_store import Run
from orchestrator.tables import status_table
from orchestrator.urls import located
from orchestrator.weights import initial
from orchestrator.weights.importing import import_weights
from tests.conftest import BucketMaker
from tests.orchestrator.weights.starts import SHAPE, frozen_at, weights
from tests.runs import Small


def test_the_copy_beside_the_run_is_an_ordinary_file_that_is_proven_by_the_frozen_spec(
    small: Small, tmp_path: Path
) -> None:
    source = weights(tmp_path / "a.safetensors")
    frozen = frozen_at(
        small, "tuned", f"model.init={source}", "model.image_size=64", "model.token_dim=64", "model.classes=12",
        "model.loss=sigmoid",
    )  # fmt: skip
    init = frozen.init
    assert init is not None
    assert (init.source, init.step, init.head, init.factor) == (source, None, "new", 2)
    copy = Path(small.store) / "runs" / "tuned" / init.path / "model.safetensors"
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == init.sha256
    shape, state = interop.load(copy)
    target = config(None, **{**SHAPE.to_dict(), "image_size": 64, "token_dim": 64, "classes": 12})
    assert shape == target
    wanted = resize.fit(load_file(source), SHAPE, target, head_bias=-torch.tensor(12.0).log().item())
    assert all(torch.equal(state[name], value) for name, value in wanted.items())
    store = open_store(f"{small.store}/runs/tuned")
    manifest = load_manifest(store, init.path, init.manifest)
    manifest.check_cover()
    assert reading.verify(store, init.path, manifest) == []
    read = read_weights(store, init.path, manifest)
    assert all((read[name] == value.numpy()).all() for name, value in state.items())
    assert Frozen.from_yaml(frozen.to_yaml()) == frozen


def test_a_parameter_larger_than_a_slice_is_found_slice_by_slice(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every published size has such ones: a slice is 4 MB."""
    monkeypatch.setattr(initial, "SLICE_ELEMENTS", 100)
    source = weights(tmp_path / "a.safetensors")
    init = frozen_at(small, "tuned", f"model.init={source}").init
    assert init is not None
    store = open_store(f"{small.store}/runs/tuned")
    manifest = load_manifest(store, init.path, init.manifest)
    assert max(slice.length for slice in manifest.slices) == 100
    assert reading.verify(store, init.path, manifest) == []
    read = read_weights(store, init.path, manifest)
    assert all((read[name] == value.numpy()).all() for name, value in load_file(source).items())


def test_identity_is_what_the_weights_are_not_where_they_lay(small: Small, tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    before = frozen_at(small, "tuned", f"model.init={source}")
    copy = shutil.copy(source, tmp_path / "b.safetensors")
    assert not small.resolve("tuned", f"model.init={copy}").new
    other = weights(tmp_path / "c.safetensors", seed=2)
    with pytest.raises(SpecError, match=r"differs in 1 key\(s\): model.init: 'sha256:[0-9a-f]{64}' -> "):
        small.resolve("tuned", f"model.init={other}")
    with pytest.raises(SpecError, match=r"model.init: 'sha256:[0-9a-f]{64}' -> None"):
        small.resolve("tuned")
    Path(source).unlink()
    again = small.resolve("tuned", f"model.init={source}")
    assert (again.new, again.frozen.init, again.frozen.fingerprint) == (
        False,
        before.init,
        before.fingerprint,
    )
    by_name = resolve("tuned", store=small.store, overrides=["workers.max=1"])
    assert by_name.frozen.init == before.init


def test_the_same_weights_are_the_same_start_whatever_file_they_come_in(small: Small, tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    state = dict(reversed(load_file(source).items()))
    (tmp_path / "b.safetensors").write_bytes(save(state, {interop.CONFIG_KEY: json.dumps(SHAPE.to_dict())}))
    one = small.resolve("one", f"model.init={source}").frozen.init
    two = small.resolve("two", f"model.init={tmp_path / 'b.safetensors'}").frozen.init
    assert one
    assert two
    assert (one.sha256, one.manifest) == (two.sha256, two.manifest)
    interop.export_google(state, tmp_path / "Mixer-Q_8.npz", SHAPE)
    import_weights(str(tmp_path / "Mixer-Q_8.npz"), store=small.store)
    for file in (tmp_path / "Mixer-Q_8.npz", Path(small.store) / "weights" / "mixer-q_8"):
        other = small.resolve("other", f"model.init={file}").frozen.init
        assert other
        assert other.sha256 == one.sha256


def test_half_precision_is_a_start_too(small: Small, tmp_path: Path) -> None:
    state = {
        name: value.to(torch.bfloat16)
        for name, value in load_file(weights(tmp_path / "a.safetensors")).items()
    }
    interop.export_safetensors(state, tmp_path / "half.safetensors", SHAPE)
    interop.export_safetensors(
        {name: value.float() for name, value in state.items()}, tmp_path / "full.safetensors", SHAPE
    )
    half, full = (
        small.resolve("x", f"model.init={tmp_path / name}.safetensors").frozen.init
        for name in ("half", "full")
    )
    assert half
    assert full
    assert half.sha256 == full.sha256


def broken(path: Path, what: str) -> str:
    """A file that is no start for the small run."""
    if what == "junk":
        path.write_bytes(b"junk")
    elif what == "not finite":
        state = Mixer(SHAPE).state_dict()
        state["norm.bias"][3] = float("nan")
        path.write_bytes(save(state, {interop.CONFIG_KEY: json.dumps(SHAPE.to_dict())}))
    elif what != "gone":
        weights(path, config(None, **{**SHAPE.to_dict(), "dim": 24}))
    return str(path)


@pytest.mark.parametrize(
    ("what", "overrides", "said"),
    [
        ("gone", (), r"model.init .*x.safetensors: no(thing|.*file)"),
        ("junk", (), r"model.init .*x.safetensors: .*safetensors"),
        ("not finite", (), r"model.init \S*x.safetensors: these weights hold NaN or infinity: norm.bias"),
        ("narrow", (), r"dim is 32, and the weights have 24; set dim to 24"),
        ("narrow", ("model.dim=24", "model.image_size=64"), r"at 64 pixels it must be 64, 2² times the weights' 16"),
        ("narrow", ("model.dim=24", "model.image_size=48"), r"image_size is 48.*whole multiples of that \(32, 64, 96"),
        ("narrow", ("model.dim=24", "model.classes=11", "model.head=keep"), r"set classes to 10, or head to 'new'"),
        ("no-such-run", (), r"model.init .*/runs/no-such-run: no run is there; the store has unsaved. Give the name of one"),
        ("unsaved", (), r"model.init .*/runs/unsaved: the run has no committed checkpoint yet"),
    ],
)  # fmt: skip
def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(
    small: Small, tmp_path: Path, what: str, overrides: tuple[str, ...], said: str
) -> None:
    frozen_at(small, "unsaved")
    before = sorted(Path(small.store).rglob("*"))
    source = what if what in ("no-such-run", "unsaved") else broken(tmp_path / "x.safetensors", what)
    with pytest.raises(UserError, match=said) as caught:
        small.resolve("tuned", f"model.init={source}", *overrides)
    assert caught.value.exit_code == 2
    assert sorted(Path(small.store).rglob("*")) == before


def test_a_guessed_activation_is_called_a_guess_and_the_way_out_is_named(
    small: Small, tmp_path: Path
) -> None:
    bare = tmp_path / "timm.safetensors"  # as timm's Google weights: nothing says which GELU was meant
    bare.write_bytes(save(load_file(weights(tmp_path / "a.safetensors"))))
    with pytest.raises(UserError) as caught:
        small.resolve("tuned", f"model.init={bare}")
    said = str(caught.value)
    assert "activation is 'gelu_tanh', and the weights have 'gelu'" in said
    assert f"if they were trained with gelu_tanh, `mixer import {bare} --activation gelu_tanh`" in said
    assert "Note: the file does not say its activation; taken is gelu" in said
    stated = weights(tmp_path / "b.safetensors", config(None, **{**SHAPE.to_dict(), "activation": "gelu"}))
    with pytest.raises(UserError) as caught:
        small.resolve("tuned", f"model.init={stated}")
    assert str(caught.value).endswith("set activation to 'gelu'")


@pytest.mark.parametrize(
    ("name", "said"), [("x", "no file is there"), ("x" * 300, "it cannot be read: File name too long")]
)
def test_a_first_file_that_cannot_be_read_is_one_line(
    small: Small, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(UserError, match=rf"model.init .*x.npz: {said}"):
        small.resolve("tuned", f"model.init={tmp_path / name}.npz")


def test_a_head_without_an_init_does_nothing_and_is_refused(small: Small) -> None:
    with pytest.raises(SpecError, match="head got 'new'; it goes with init"):
        small.resolve("x", "model.head=new")


def test_specs_frozen_before_there_was_an_init_still_load(small: Small) -> None:
    frozen = frozen_at(small, "plain")
    tree = yaml.safe_load(frozen.to_yaml())
    assert "init" not in tree
    del tree["spec"]["model"]["init"], tree["spec"]["model"]["head"]
    assert Frozen.from_yaml(yaml.safe_dump(tree)) == frozen


def test_status_report_and_verify_know_where_a_run_begins(small: Small, tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    init = frozen_at(small, "tuned", f"model.init={source}").init
    assert init is not None
    book = Book(Run(f"{small.store}/runs/tuned"))
    told = book.status()["init"]
    assert (told["source"], told["head"], told["factor"]) == (source, "keep", 1)
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(status_table(book.status()))
    for text in (console.export_text(), render(book)):
        assert f"{source}: its head kept" in text
    assert CliRunner().invoke(cli.app, ["verify", book.run.url]).exit_code == 0
    copy = Path(book.run.url) / init.path / "model.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    verified = CliRunner().invoke(cli.app, ["verify", book.run.url])
    assert verified.exit_code == 1
    assert f"{init.path}/model.safetensors: SHA-256 differs" in verified.output


def test_a_folder_whose_run_was_never_made_is_not_listed(small: Small, tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    frozen_at(small, "whole")
    resolved = small.resolve("half", f"model.init={source}")
    assert resolved.initial is not None
    resolved.initial.write(resolved.run.store)  # and then killed
    assert [row["run"] for row in list_store(small.store)] == ["whole"]
    assert small.resolve("half", f"model.init={source}").new


def test_weights_and_runs_may_lie_in_a_bucket(
    small: Small, tmp_path: Path, rclone_bucket: BucketMaker
) -> None:
    bucket, source = rclone_bucket(), weights(tmp_path / "a.safetensors")
    open_store(f"{bucket}/weights/a").put("model.safetensors", Path(source).read_bytes())
    there = Small(small.folder, bucket)
    one = frozen_at(there, "one", f"model.init={bucket}/weights/a").init
    here = small.resolve("two", f"model.init={source}").frozen.init
    assert one
    assert here
    assert one.source == f"{bucket}/weights/a/model.safetensors"
    assert one.sha256 == here.sha256
    assert load_manifest(open_store(f"{bucket}/runs/one"), one.path, one.manifest).kinds == ["weight"]
    with pytest.raises(UserError, match=r"model.init s3://.*/b.npz: nothing at s3://"):
        there.resolve("x", f"model.init={bucket}/weights/b.npz")


@pytest.mark.parametrize(
    ("init", "url"),
    [
        ("digits-abc123", "s3://b/p/runs/digits-abc123"),
        ("s3://other/runs/digits-abc123/", "s3://other/runs/digits-abc123"),
        ("s3://b/weights/b16.npz", "s3://b/weights/b16.npz"),
        ("s3://b/weights/b16", "s3://b/weights/b16/model.safetensors"),
        ("/disk/model_best.pth.tar", "/disk/model_best.pth.tar"),
        ("/disk/b16.safetensors", "/disk/b16.safetensors"),
        ("/disk/b16", "/disk/b16/model.safetensors"),
    ],
)
def test_what_an_init_means(init: str, url: str) -> None:
    assert located(init, "s3://b/p") == url


def test_the_header_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(5)}
    head, places = tensor_file.header(
        ((name, value.shape, 4 * value.numel()) for name, value in tensors.items()), {"x": "y"}
    )
    data = head + b"".join(value.numpy().tobytes() for value in tensors.values())
    (tmp_path / "x.safetensors").write_bytes(data)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert places == [len(head), len(head) + 24]


def test_a_head_bias_beside_a_head_that_is_kept_is_said_to_do_nothing(small: Small, tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    frozen_at(small, "kept", f"model.init={source}", "model.head_bias=-3")
    assert "model.head_bias -3 does nothing: the head is kept" in small.said[-1]
    small.said.clear()
    frozen_at(small, "new", f"model.init={source}", "model.head=new", "model.head_bias=-3")
    assert not any("does nothing" in line for line in small.said)


def test_what_a_config_says_beside_the_weights_is_not_their_identity(small: Small, tmp_path: Path) -> None:
    source = weights(tmp_path / "a.safetensors")
    one = small.resolve("one", f"model.init={source}").frozen.init
    two = small.resolve("two", f"model.init={source}", "model.drop_path=0.1").frozen.init
    other = small.resolve("three", f"model.init={weights(tmp_path / 'b.safetensors', seed=2)}").frozen.init
    assert one
    assert two
    assert other
    assert one.digest == two.digest != other.digest
    assert one.sha256 != two.sha256, "the files differ, and each is proven by its own"


def test_a_run_that_knows_the_files_digest_only_is_still_resumed_by_another_path(
    small: Small, tmp_path: Path
) -> None:
    source = weights(tmp_path / "a.safetensors")
    frozen_at(small, "old", f"model.init={source}")
    path = Path(small.store) / "runs" / "old" / "spec.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["init"]["weights"]
    path.write_text(yaml.safe_dump(tree))
    copy = shutil.copy(source, tmp_path / "b.safetensors")
    assert not small.resolve("old", f"model.init={copy}").new
    with pytest.raises(SpecError, match=r"differs in 1 key\(s\): model.init"):
        small.resolve("old", f"model.init={weights(tmp_path / 'c.safetensors', seed=2)}")
