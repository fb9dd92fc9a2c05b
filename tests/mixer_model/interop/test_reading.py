"""A file is told by its bytes, its config by what it states or by its shapes, and what cannot be read is refused with a reason."""

from __future__ import annotations

import argparse
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mixer_model.config import MixerConfig, config, preset_of
from mixer_model.interop import WeightsError, export_safetensors, load, read, to_timm
from mixer_model.mixer import Mixer

ERF = (
    "the file does not say its activation; taken is gelu (what timm computes; if they were converted from Google's, gelu_tanh is "
    "what was meant)"
)


@pytest.fixture
def state(small: MixerConfig) -> dict[str, Tensor]:
    return to_timm(Mixer(small).state_dict())


def refused(path: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read(path)


def test_timms_files_are_read_by_their_shapes(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "weights")
    torch.save(state, tmp_path / "weights.pth")
    torch.save(state, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    for name, layout in (
        ("weights", "safetensors with"),
        ("weights.pth", "a torch state dict with"),
        ("legacy", "a torch state dict"),
    ):
        found = read(tmp_path / name)
        assert found.config.to_dict() == {**small.to_dict(), "activation": "gelu"}
        assert found.layout.startswith(layout)
        assert found.notes == (ERF,)
        assert all(torch.equal(found.state[key], value) for key, value in state.items())
        asked = read(tmp_path / name, activation="gelu_tanh")
        assert (asked.config, asked.notes) == (small, ())


def test_a_trainers_checkpoint_gives_its_averaged_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    averaged = {f"module.{name}": value + 1 for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": state, "state_dict_ema": averaged}, tmp_path / "x")
    found = read(tmp_path / "x")
    assert found.notes[0] == "taken from 'state_dict_ema' in it (the averaged weights)"
    assert torch.equal(found.state["head.bias"], state["head.bias"] + 1)


def test_the_activation_is_the_one_of_timms_config(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    described = {"architecture": "mixer_b16_224", "model_args": {"act_layer": "gelu_tanh"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert read(tmp_path).config == small
    assert read(tmp_path).notes == ()
    described["model_args"] = {"act_layer": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(described))
    refused(tmp_path, "act_layer 'relu'; known are gelu, gelu_tanh")


def test_either_config_is_enough_and_two_must_agree(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    export_safetensors(state, path, small)
    beside = tmp_path / "x.json"
    text = beside.read_text()
    beside.unlink()
    assert load(path)[0] == small
    save_file(state, path)
    beside.write_text(text)
    assert (read(path).config, read(path).layout, read(path).notes) == (small, "safetensors of mixer", ())
    export_safetensors(state, path, small)
    beside.write_text(text.replace('"gelu_tanh"', '"gelu"'))
    refused(
        path,
        "x.safetensors and the JSON beside it do not agree: activation gelu_tanh and gelu. Remove the JSON",
    )
    beside.write_text(json.dumps({"mixer_config": {"patch": 8}}))
    refused(path, "describes no Mixer in 'mixer_config': dim, depth not given")
    beside.write_text("[not json")
    assert load(path)[0] == small


def test_anothers_json_in_the_folder_is_not_this_files(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    wide = Mixer(config(None, patch=4, dim=8, depth=1, image_size=8, classes=2))
    export_safetensors(wide.state_dict(), tmp_path / "model.safetensors", wide.config)
    save_file(state, tmp_path / "other.safetensors")
    assert load(tmp_path / "other.safetensors", activation="gelu_tanh")[0] == small
    assert load(tmp_path)[0] == wide.config


def test_an_activation_can_be_asked_for(small: MixerConfig, state: dict[str, Tensor], tmp_path: Path) -> None:
    export_safetensors(state, tmp_path / "x.safetensors", small)
    found = read(tmp_path / "x.safetensors", activation="gelu")
    assert found.config.activation == "gelu"
    assert found.notes == ("activation gelu as asked; the file says gelu_tanh",)
    with pytest.raises(WeightsError, match="activation 'relu' is not known; allowed: gelu, gelu_tanh"):
        read(tmp_path / "x.safetensors", activation="relu")


def test_known_traps_are_told(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "mixer_b16_224.goog_in21k_ft_in1k.safetensors")
    assert "mislabelled" in read(tmp_path / "mixer_b16_224.goog_in21k_ft_in1k.safetensors").notes[1]
    wide = config(None, patch=8, dim=4, depth=1, image_size=16, classes=21_843)
    export_safetensors(Mixer(wide).state_dict(), tmp_path / "wide.safetensors", wide)
    assert (
        "21,843 classes is the head of Google's ImageNet-21k" in read(tmp_path / "wide.safetensors").notes[0]
    )
    save_file(state, tmp_path / "model.safetensors")
    scaled = {
        "architecture": "mixer_b16_224",
        "pretrained_cfg": {"tag": "miil_in21k", "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
    (tmp_path / "config.json").write_text(json.dumps(scaled))
    assert "they want pixels with mean [0, 0, 0] and std [1, 1, 1]" in read(tmp_path).notes[1]


RELATIVES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "resmlp": (
        lambda s: s.update({"blocks.0.linear_tokens.weight": torch.zeros(16, 16)}),
        "weights of ResMLP, not of an MLP-Mixer",
    ),
    "gmlp": (
        lambda s: s.update({"blocks.0.mlp_channels.gate.proj.weight": torch.zeros(16, 16)}),
        "weights of gMLP",
    ),
    "gmixer": (
        lambda s: s.update({"blocks.0.mlp_tokens.fc2.weight": torch.zeros(16, 10)}),
        "gated MLPs .*: fc1 gives 20, fc2 takes 10",
    ),
    "vit": (lambda s: s.update({"pos_embed": torch.zeros(1, 17, 24)}), "weights of a transformer"),
    "no head": (
        lambda s: [s.pop("head.weight"), s.pop("head.bias")],
        r"have no head \(head.weight is missing\)",
    ),
    "no stem": (
        lambda s: s.pop("stem.proj.weight"),
        "not the weights of an MLP-Mixer: stem.proj.weight is missing; there are: ",
    ),
    "grey": (
        lambda s: s.update({"stem.proj.weight": torch.zeros(24, 1, 8, 8)}),
        "takes 1 channels in patches of 8 x 8",
    ),
    "not square": (
        lambda s: s.update({"blocks.0.mlp_tokens.fc1.weight": torch.zeros(20, 15)}),
        "is for 15 tokens, which no square image has",
    ),
    "a number": (
        lambda s: s.update({"head.weight": torch.tensor(1.0)}),
        r"head.weight is \[\]; it must have 2 axes",
    ),
    "a far block": (
        lambda s: s.update({"blocks.900.norm1.bias": torch.zeros(24)}),
        "a block 900 in 43 tensors",
    ),
    "a hole": (lambda s: s.pop("blocks.1.norm2.bias"), "blocks.1.norm2.bias is missing"),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_what_is_no_mixer_is_called_what_it_is(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    change, message = RELATIVES[name]
    change(state)
    save_file(state, tmp_path / "x")
    refused(tmp_path / "x", message)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")


def cut_zip(path: Path) -> None:
    torch.save({"a": torch.zeros(99)}, path)
    path.write_bytes(path.read_bytes()[:-300])


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty; safetensors, Google's .npz, and a state dict saved by torch"),
    "text": (lambda path: path.write_text("hello, weights"), "no file of weights"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS, not the file itself"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip file; unpack it first"),
    "zip": (zipped, "a zip of notes.txt"),
    "cut zip": (cut_zip, "a zip that is cut short or damaged"),
    "onnx": (lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch"), "an ONNX graph"),
    "a list": (lambda path: torch.save([1, 2], path), "holds no state dict of tensors, but a list"),
    "a dict": (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "but a dict of epoch, lr"),
    "code": (lambda path: torch.save({"args": argparse.Namespace(lr=1)}, path), "holds more than tensors, and code in files is never run"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_holds_no_weights_is_refused(tmp_path: Path, name: str) -> None:
    make, message = OTHERS[name]
    make(tmp_path / "x")
    refused(tmp_path / "x", message)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file"):
            load(path)


def test_a_cut_file_is_refused(small: MixerConfig, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    export_safetensors(Mixer(small).state_dict(), path, small)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"x\.safetensors is not a whole safetensors file"):
        load(path)


def test_presets_are_known_by_their_shape(small: MixerConfig) -> None:
    assert preset_of(config("H/14", classes=21_843, image_size=448, activation="gelu")) == "H/14"
    assert preset_of(config("H/14", depth=31)) is None
    assert preset_of(small) is None
