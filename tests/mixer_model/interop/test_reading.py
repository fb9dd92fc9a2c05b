"""A file is told by its bytes, its config by what it states or by its shapes, and what cannot be read is refused with a reason."""

from __future__ import annotations

import argparse
import dataclasses
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
from mixer_model.interop import (
    WeightsError,
    export_google,
    export_safetensors,
    export_timm,
    load,
    read,
    to_timm,
)
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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_wrappers_put_in_front_of_every_name_is_taken_off(
    state: dict[str, Tensor], tmp_path: Path, prefix: str
) -> None:
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "x")
    assert list(read(tmp_path / "x").state) == list(state)


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


def test_a_damaged_json_is_named_and_not_passed_over(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """It may be the only place that says the activation."""
    save_file(state, tmp_path / "x.safetensors")
    for name in ("x.json", "config.json"):
        (tmp_path / name).write_text('{"mixer_config": {"patch"')
        refused(
            tmp_path / "x.safetensors",
            rf"{name} lies beside x.safetensors and .* cannot be read as JSON: .* remove it",
        )
        (tmp_path / name).unlink()
    assert read(tmp_path / "x.safetensors").config.dim == small.dim


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model_args": [1]}, r"config.json: model_args is \[1\]; it must be a mapping"),
        ({"model_args": {"act_layer": ["x"]}}, r"act_layer \['x'\]; known are gelu, gelu_tanh"),
        ({"architecture": "mixer", "pretrained_cfg": "x"}, r"pretrained_cfg is 'x'; it must be a mapping"),
        ({"mixer_config": [1]}, "describes no Mixer in 'mixer_config'"),
    ],
)
def test_what_a_json_says_in_the_wrong_kind_is_refused(
    state: dict[str, Tensor], tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(said))
    refused(tmp_path, message)


def test_files_of_the_same_name_each_have_their_own_activation(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """x.pth, x.npz and x.safetensors in one folder, written in any order."""
    erf = dataclasses.replace(small, activation="gelu")
    export_timm(state, tmp_path / "x.pth", small)
    export_google(state, tmp_path / "x.npz", small)
    export_safetensors(state, tmp_path / "x.safetensors", erf)
    assert {path.name for path in tmp_path.glob("*.json")} == {"x.json", "x.pth.json", "x.npz.json"}
    for suffix, wanted in ((".pth", small), (".npz", small), (".safetensors", erf)):
        found = read(tmp_path / f"x{suffix}")
        assert (found.config, found.notes) == (wanted, ())


def test_the_json_of_another_file_is_said_not_to_be_read(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    export_safetensors(state, tmp_path / "x.safetensors", small)
    torch.save(state, tmp_path / "x.pth")
    found = read(tmp_path / "x.pth")
    assert found.config.activation == "gelu"
    assert found.notes == (
        "x.json is not read: it is for x.safetensors; this file's would be x.pth.json",
        ERF,
    )


def test_numbers_that_end_like_a_zip_are_safetensors_all_the_same(
    small: MixerConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    export_safetensors(state, path, small)
    path.write_bytes(path.read_bytes()[:-22] + b"PK\x05\x06" + bytes(18))
    assert zipfile.is_zipfile(path)
    assert load(path)[0] == small


def test_one_flipped_bit_of_a_pth_is_found(state: dict[str, Tensor], tmp_path: Path) -> None:
    """torch.load does not look at the checksums."""
    path = tmp_path / "x.pth"
    torch.save(state, path)
    data, at = (
        bytearray(path.read_bytes()),
        path.read_bytes().index(state["stem.proj.weight"].numpy().tobytes()),
    )
    data[at + 9] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path)["stem.proj.weight"], state["stem.proj.weight"])
    refused(path, r"x\.pth is damaged: the checksum of x/data/\d+ in it is wrong; fetch it again")


def test_a_pth_cut_anywhere_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path, cut = tmp_path / "x.pth", tmp_path / "cut.pth"
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        for length in (*range(3, 1000, 31), len(data) // 2, len(data) - 1):
            cut.write_bytes(data[:length])
            # Where the cut goes through the name of a function, what is left asks for another one: that is code.
            refused(
                cut,
                r"cut\.pth (is not a whole file of torch\.save|is a zip that is cut short|holds more than)",
            )


def test_precisions_that_are_none_of_weights_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["head.bias"] = state["head.bias"].to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "x")
    refused(
        tmp_path / "x",
        r"\(float16, bfloat16, float32, float64\); these are not: head.bias \(torch.float8_e4m3fn\)",
    )
    state["head.bias"] = torch.zeros(7).to_sparse()
    torch.save(state, tmp_path / "x")
    refused(tmp_path / "x", "sparse, or without numbers: head.bias")


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
    "vit alone": (
        lambda s: s.update(
            {"blocks.0.attn.qkv.weight": torch.zeros(72, 24), "cls_token": torch.zeros(1, 1, 24)}
        ),
        "weights of a transformer",
    ),
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


def a_zip_whose_list_is_wrong(path: Path) -> None:
    zipped(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02")] ^= 1
    path.write_bytes(data)


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty; safetensors, Google's .npz, and a state dict saved by torch"),
    "text": (lambda path: path.write_text("hello, weights"), "no file of weights"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "a pointer of Git LFS, not the file itself"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip file; unpack it first"),
    "zip": (zipped, "a zip of notes.txt"),
    "cut zip": (cut_zip, "a zip that is cut short or damaged"),
    "bad zip": (a_zip_whose_list_is_wrong, "a zip that is cut short or damaged"),
    "bad pickle": (lambda path: path.write_bytes(b"\x80\x02" + b"\x95\xa7" * 99), "x is not a whole file of torch.save"),
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
