"""`mixer import`: from any file to weights in a store or a folder that load as what they are, and nothing lost on the way."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from data_pipeline.storage import NotFound, Store, open_store
from mixer_model.config import MixerConfig, config
from mixer_model.interop import export_google, export_safetensors, load, read
from mixer_model.mixer import Mixer
from orchestrator.cli import app
from orchestrator.errors import UserError
from orchestrator.weights import importing
from orchestrator.weights.importing import import_weights

SHAPE = config(None, patch=8, dim=24, depth=2, token_dim=20, channel_dim=40, classes=7, image_size=32)


def weights(shape: MixerConfig = SHAPE, seed: int = 0) -> dict[str, torch.Tensor]:
    return Mixer(shape, seed=seed).state_dict()


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    export_google(weights(), tmp_path / "Mixer-X_8.npz", SHAPE)
    (tmp_path / "Mixer-X_8.npz.json").unlink()  # Google's files have none
    return tmp_path / "Mixer-X_8.npz"


def test_an_import_is_there_whole_and_says_what_it_is(npz: Path, tmp_path: Path) -> None:
    facts = import_weights(str(npz), store=str(tmp_path / "store"))
    folder = tmp_path / "store" / "weights" / "mixer-x_8"
    assert facts["url"] == f"{folder}/model.safetensors"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert facts["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    shown = ("layout", "preset", "classes", "image_size", "activation", "params", "precision")
    assert [facts[key] for key in shown] == [
        "Google's npz",
        None,
        7,
        32,
        "gelu_tanh",
        sum(value.numel() for value in weights().values()),
        "float32",
    ]
    shape, state = load(facts["url"])
    assert shape == SHAPE
    assert all(torch.equal(state[name], value) for name, value in weights().items())
    told = json.loads((folder / "config.json").read_text())
    assert told["sha256"] == facts["sha256"]
    assert told["from"]["sha256"] == hashlib.sha256(npz.read_bytes()).hexdigest()
    assert told["from"]["file"] == "Mixer-X_8.npz"


def test_the_line_for_a_spec_is_the_model_it_is(npz: Path, tmp_path: Path) -> None:
    facts = import_weights(str(npz), store=str(tmp_path / "store"))
    model: dict[str, Any] = yaml.safe_load(facts["spec"])["model"]
    assert model.pop("init") == facts["url"]
    assert config(None, **model) == SHAPE


def test_the_line_for_a_spec_names_another_token_mixer(tmp_path: Path) -> None:
    shape = config(None, patch=4, dim=16, depth=1, image_size=16, classes=3, mixer="resmlp")
    source = tmp_path / "other.safetensors"
    export_safetensors(Mixer(shape).state_dict(), source, shape)
    model: dict[str, Any] = yaml.safe_load(
        import_weights(str(source), store=str(tmp_path / "store"))["spec"]
    )["model"]
    model.pop("init")
    assert config(None, **model) == shape
    assert "token_dim" not in model, "resmlp has no hidden width"


def test_the_same_weights_may_come_again_and_others_may_not_take_their_name(
    npz: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    first = import_weights(str(npz), name="a", store=store)
    assert import_weights(str(npz), name="a", store=store) == first
    export_safetensors(weights(seed=1), tmp_path / "other.safetensors", SHAPE)
    with pytest.raises(
        UserError, match=r"other weights are at .*/weights/a already.*give these another --name"
    ):
        import_weights(str(tmp_path / "other.safetensors"), name="a", store=store)
    assert torch.equal(load(first["url"])[1]["stem.proj.weight"], weights()["stem.proj.weight"])
    Path(first["url"]).unlink()  # as if the first import had been killed before its weights
    assert (
        import_weights(str(tmp_path / "other.safetensors"), name="a", store=store)["sha256"]
        != first["sha256"]
    )


def test_names_of_classes_come_along_and_are_not_replaced_by_others(tmp_path: Path) -> None:
    store, source = str(tmp_path / "store"), tmp_path / "a.safetensors"

    def bring(labels: list[str] | None) -> list[str] | None:
        export_safetensors(weights(), source, SHAPE, {"label_names": labels} if labels else None)
        import_weights(str(source), store=store)
        return read(tmp_path / "store" / "weights" / "a").labels

    names = tuple("abcdefg")
    assert [bring(None), bring([*names]), bring([*names]), bring(None)] == [None, names, names, names]
    with pytest.raises(
        UserError, match=r"the same weights are at .*/weights/a already, with other names of classes"
    ):
        bring([*reversed(names)])


def test_a_bucket_is_a_store_too(npz: Path, tmp_path: Path, rclone_bucket: Callable[[], str]) -> None:
    url = f"{rclone_bucket()}/some/prefix"
    facts = import_weights(str(npz), name="a", store=url)
    assert facts["url"] == f"{url}/weights/a/model.safetensors"
    assert {info.key for info in open_store(url).list()} == {
        "weights/a/config.json",
        "weights/a/model.safetensors",
    }
    again = import_weights(facts["url"], out=tmp_path / "out")
    assert (again["sha256"], again["layout"]) == (facts["sha256"], "safetensors of mixer")
    assert import_weights(f"{url}/weights/a", out=tmp_path / "out.safetensors")["sha256"] == facts["sha256"]
    assert sorted(path.name for path in tmp_path.rglob("out*")) == ["out", "out.json", "out.safetensors"]
    with pytest.raises(NotFound, match=r"nothing at .*/weights/b/model.safetensors"):
        import_weights(f"{url}/weights/b", out=tmp_path / "out")


def test_of_two_imports_under_one_name_one_wins_and_nothing_is_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        export_safetensors(weights(seed=seed), tmp_path / f"{seed}.safetensors", SHAPE)
    ready = threading.Barrier(2)

    def together(url: str) -> Store:
        ready.wait(timeout=20)
        return open_store(url)

    monkeypatch.setattr(importing, "open_store", together)

    def bring(seed: int, name: str) -> str | None:
        try:
            facts = import_weights(
                str(tmp_path / f"{seed}.safetensors"), name=name, store=str(tmp_path / "store")
            )
        except UserError:
            return None
        return str(facts["sha256"])

    for attempt in range(4):
        name = f"a{attempt}"
        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(bring, (1, 2), (name, name)))
        there = tmp_path / "store" / "weights" / name
        sha256 = hashlib.sha256((there / "model.safetensors").read_bytes()).hexdigest()
        assert [each for each in won if each] == [sha256]
        assert json.loads((there / "config.json").read_text())["sha256"] == sha256


@pytest.mark.parametrize("left", ["nothing", "of others", "none of json"])
def test_an_import_that_was_killed_before_its_config_is_completed_by_the_next(
    npz: Path, tmp_path: Path, left: str
) -> None:
    facts = import_weights(str(npz), name="a", store=str(tmp_path / "store"))
    said = Path(facts["beside"])
    whole = said.read_bytes()
    said.unlink()
    if left != "nothing":
        said.write_text('{"sha256": "0"}' if left == "of others" else "{")
    assert import_weights(str(npz), name="a", store=str(tmp_path / "store")) == facts
    assert said.read_bytes() == whole


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 300}.npz"  # no file system takes that
    with pytest.raises(UserError, match=r"x.npz cannot be read: File name too long"):
        import_weights(str(path), name="a", store=str(tmp_path / "store"))


@pytest.mark.parametrize("out", ["first.safetensors", "folder"])
def test_a_json_that_mixer_did_not_write_is_never_replaced_by_an_import(
    npz: Path, tmp_path: Path, out: str
) -> None:
    target = tmp_path / "there" / out
    theirs = target / "config.json" if out == "folder" else target.with_suffix(".json")
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"run": "first", "history": []}')
    with pytest.raises(UserError, match=rf"{theirs} is there and no config that mixer wrote: remove it"):
        import_weights(str(npz), out=target)
    assert theirs.read_text() == '{"run": "first", "history": []}'
    assert [path for path in target.parent.rglob("*") if path.is_file()] == [theirs]
    theirs.unlink()
    facts = import_weights(str(npz), out=target)
    assert facts["beside"] == str(theirs)
    assert import_weights(str(npz), out=target) == facts  # its own it may


def test_half_precision_is_written_in_full(tmp_path: Path) -> None:
    save_file(
        {name: value.to(torch.bfloat16) for name, value in weights().items()}, tmp_path / "x.safetensors"
    )
    facts = import_weights(str(tmp_path / "x.safetensors"), out=tmp_path / "out", activation="gelu_tanh")
    assert (facts["precision"], facts["notes"]) == (
        "bfloat16",
        ["written in float32, as runs keep their weights"],
    )
    assert {value.dtype for value in load(tmp_path / "out")[1].values()} == {torch.float32}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["BAD"],
            "bad.npz is no file of weights; safetensors, Google's .npz, and a state dict saved by torch (.pth, .bin) are read",
        ),
        (["none.npz"], "no file none.npz"),
        (["NPZ", "--name", "A/B"], "--name got 'A/B': lower case letters, digits"),
        (["重み.npz"], "重み.npz has no name that fits; give one by --name: lower case letters"),
        (["NPZ", "--name", ""], "--name got '': lower case letters"),
        (["NPZ", "--activation", "relu"], "activation 'relu' is not known; allowed: gelu, gelu_tanh"),
        (["NPZ", "--store", "x", "-o", "y"], "--out and --store were both given; give one of them"),
    ],
)
def test_what_the_user_can_mend_is_said_and_nothing_is_written(
    npz: Path, tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.npz").write_text("hello")
    monkeypatch.setenv("MIXER_STORE", str(tmp_path / "store"))
    real = [{"BAD": str(tmp_path / "bad.npz"), "NPZ": str(npz)}.get(word, word) for word in words]
    done = CliRunner().invoke(app, ["import", *real])
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)
    assert not (tmp_path / "store").exists()


def test_the_command_prints_facts_and_json(npz: Path, tmp_path: Path) -> None:
    words = ["import", str(npz), "--store", str(tmp_path / "store"), "--name", "a"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "activation  gelu_tanh" in shown.output
    assert "note  the file does not say its activation; taken is gelu_tanh (JAX's)" in shown.output
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert told["url"].endswith("/weights/a/model.safetensors")
    assert told["spec"].startswith("model: {patch: 8, dim: 24,")


def test_weights_that_go_into_a_file_here_need_no_name_in_a_store(npz: Path, tmp_path: Path) -> None:
    named = npz.rename(npz.with_name("重み.npz"))
    assert import_weights(str(named), out=tmp_path / "x.safetensors")["url"] == str(
        tmp_path / "x.safetensors"
    )
