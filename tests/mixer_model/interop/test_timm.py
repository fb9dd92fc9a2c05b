"""Our weights in timm's MlpMixer, timm's in ours, and files that are refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from mixer_model import PRESETS
from mixer_model.config import MixerConfig, config
from mixer_model.interop import (
    LABELS_KEY,
    WeightsError,
    check_state,
    export_google,
    export_safetensors,
    export_timm,
    load,
    read,
    timm_arguments,
    to_timm,
)
from mixer_model.interop.onnx import export_onnx
from mixer_model.interop.ours import packed
from mixer_model.mixer import Mixer

SHAPES: dict[str, dict[str, int | str]] = {
    "small": {"patch": 8, "dim": 24, "depth": 3, "image_size": 32},
    "odd widths": {"patch": 4, "dim": 29, "depth": 2, "token_dim": 13, "channel_dim": 71, "image_size": 12},
    "jax's gelu": {"patch": 8, "dim": 16, "depth": 2, "image_size": 32, "activation": "gelu_tanh"},
}


def random_mixer(shape: MixerConfig) -> Mixer:
    model = Mixer(shape)
    shaken(model)
    return model


def shaken(model: torch.nn.Module) -> None:
    """Every parameter random, so that none hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=generator)


def timm_mixer(timm: Any, shape: MixerConfig) -> torch.nn.Module:
    model: torch.nn.Module = timm.models.mlp_mixer.MlpMixer(**timm_arguments(shape))
    return model.eval()


@pytest.mark.parametrize("name", SHAPES)
def test_an_export_gives_timm_the_same_logits(timm: Any, tmp_path: Path, name: str) -> None:
    shape = config(None, **SHAPES[name], classes=11)
    model = random_mixer(shape)
    export_safetensors(model.state_dict(), tmp_path / "x.safetensors", shape)
    other = timm_mixer(timm, shape)
    other.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
    images = torch.randn(3, 3, shape.image_size, shape.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(images), other(images)
    assert float(ours.abs().max()) > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_weights_of_timm_load_here(timm: Any) -> None:
    shape = config(None, **SHAPES["small"], classes=11)
    other, model = timm_mixer(timm, shape), Mixer(shape)
    shaken(other)  # timm's head begins at zero: all logits would be equal
    model.load_state_dict(other.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(images), other(images)
    assert float(theirs.abs().max()) > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_timms_names_and_shapes(timm: Any, name: str) -> None:
    with torch.device("meta"):
        other = timm.models.mlp_mixer.MlpMixer(**timm_arguments(PRESETS[name]))
    check_state(other.state_dict(), PRESETS[name])


def test_a_file_comes_back_as_it_went(small: MixerConfig, tmp_path: Path) -> None:
    model = random_mixer(small)
    export_safetensors(model.state_dict(), tmp_path / "x.safetensors", small)
    found, state = load(tmp_path / "x.safetensors")
    assert found == small
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.safetensors"]


def test_the_same_weights_are_the_same_bytes(small: MixerConfig, tmp_path: Path) -> None:
    state = random_mixer(small).state_dict()
    for copy in range(6):
        export_safetensors(state, tmp_path / f"{copy}.safetensors", small)
    assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1


def test_the_bytes_are_the_librarys_but_for_the_order_of_its_metadata(small: MixerConfig) -> None:
    """Imports are known by their SHA-256: another order of tensors would be other weights."""
    state = random_mixer(small).state_dict()
    for place, name in enumerate(sorted(state)):
        state[name] = state[name].to((torch.float32, torch.float16, torch.float64, torch.bfloat16)[place % 4])
    for given in (state, random_mixer(small).state_dict()):
        metadata = {"format": "pt", "mixer_config": json.dumps(small.to_dict())}
        ours, theirs = packed(given, small), save(given, metadata)
        size = int.from_bytes(theirs[:8], "little")
        header = json.loads(theirs[8 : 8 + size])
        header["__metadata__"] = metadata
        text = json.dumps(header, separators=(",", ":"))
        assert ours[8 : 8 + size].decode().rstrip() == text
        assert (ours[:8], ours[8 + size :]) == (theirs[:8], theirs[8 + size :])


def test_a_file_is_written_as_it_goes_and_never_held_whole(tmp_path: Path) -> None:
    wide = config(None, patch=8, dim=256, depth=4, image_size=32, classes=7)
    state = random_mixer(wide).state_dict()
    tracemalloc.start()
    try:
        export_safetensors(state, tmp_path / "x.safetensors", wide)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "x.safetensors").stat().st_size / 2


def test_bf16_weights_stay_bf16(small: MixerConfig, tmp_path: Path) -> None:
    export_safetensors(Mixer(small).to(torch.bfloat16).state_dict(), tmp_path / "x", small)
    assert {value.dtype for value in load(tmp_path / "x")[1].values()} == {torch.bfloat16}


def test_states_are_plain_tensors(small: MixerConfig) -> None:
    turned = {
        name: value.detach().t().contiguous().t() if value.ndim == 2 else value
        for name, value in Mixer(small).named_parameters()
    }
    plain = to_timm(turned, small)
    assert all(value.is_contiguous() and not value.requires_grad for value in plain.values())


def test_a_state_that_does_not_fit_is_refused_by_name(small: MixerConfig, tmp_path: Path) -> None:
    state = Mixer(small).state_dict()
    state["module.head.bias"] = state.pop("head.bias")
    state["head.weight"] = torch.zeros(9, 24)
    message = (
        r"a Mixer of patch 8, .*: head.bias is missing; module.head.bias is not a parameter of it; "
        r"head.weight is \[9, 24\], not \[7, 24\]"
    )
    with pytest.raises(WeightsError, match=message):
        export_safetensors(state, tmp_path / "x.safetensors", small)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.npz", "x.onnx"])
@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "NaN or infinity: norm.bias"), (3, r"\(torch.int8\)")]
)
def test_nothing_is_written_that_reading_refuses(
    small: MixerConfig, tmp_path: Path, name: str, value: float, message: str
) -> None:
    state = Mixer(small).state_dict()
    state["norm.bias"] = torch.full((24,), value, dtype=torch.int8 if value == 3 else torch.float32)
    writers: dict[str, Any] = {".safetensors": export_safetensors, ".pth": export_timm, ".npz": export_google}
    with pytest.raises(WeightsError, match=message):
        writers.get(Path(name).suffix, export_onnx)(state, tmp_path / name, small)
    assert list(tmp_path.iterdir()) == []


def test_many_faults_are_counted(small: MixerConfig) -> None:
    with pytest.raises(WeightsError, match="; and 39 more"):
        check_state({}, small)


def test_an_export_replaces_the_one_before(small: MixerConfig, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for seed in (1, 2):
        export_safetensors(Mixer(small, seed=seed).state_dict(), path, small)
    assert torch.equal(load(path)[1]["stem.proj.weight"], Mixer(small, seed=2).stem.proj.weight)


@pytest.mark.parametrize("name", ["S/32", "H/14"])
def test_a_folder_is_what_timm_makes_a_network_of(timm: Any, tmp_path: Path, name: str) -> None:
    """H/14 has no name in timm: the arguments for its class are written all the same."""
    shape = config(
        name, depth=8, classes=11, image_size=2 * PRESETS[name].patch, dim=32 if name == "H/14" else 512
    )
    model = random_mixer(shape)
    labels = [*"abcdefghijk"]
    export_timm(model.state_dict(), tmp_path / "out", shape, {LABELS_KEY: labels})
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    if name == "S/32":
        act = functools.partial(torch.nn.GELU, approximate="tanh")
        other = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, act_layer=act).eval()
        assert described["pretrained_cfg"]["mean"] == [0.5] * 3
        assert other.pretrained_cfg["label_names"] == labels
    else:
        assert "architecture" not in described
        other = timm.models.mlp_mixer.MlpMixer(num_classes=11, **described["model_args"]).eval()
        other.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    images = torch.rand(2, 3, shape.image_size, shape.image_size) * 2 - 1
    with torch.no_grad():
        ours, theirs = model(images), other(images)
    apart = float((ours - theirs).abs().max() / ours.abs().max())
    assert apart < (1e-5 if name == "S/32" else 0.05)
    found = read(tmp_path / "out")
    assert (found.config, found.labels) == (shape, tuple(labels))


def test_a_pth_is_written_and_read(small: MixerConfig, tmp_path: Path) -> None:
    model = random_mixer(small)
    export_timm(model.state_dict(), tmp_path / "x.pth", small)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth", "x.pth.json"]
    plainly = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(plainly) == list(model.state_dict())
    assert load(tmp_path / "x.pth")[0] == small


def test_other_token_mixers_are_not_written_as_what_they_are_not(small: MixerConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(small, mixer="resmlp")
    for write in (export_timm, export_google):
        with pytest.raises(WeightsError, match="no token mixing by 'resmlp', only 'mlp': export it as"):
            write(Mixer(small).state_dict(), tmp_path / "x", other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("hidden", "width"), [(49, 88), (61, 184), (29, 200), (640, 1280)])
def test_timm_rounds_a_ratio_to_the_width_that_was_meant(hidden: int, width: int) -> None:
    """It takes int(ratio * width), which for 49 of 88 would be 48."""
    shape = config(None, patch=4, dim=width, depth=1, token_dim=hidden, channel_dim=hidden, image_size=8)
    assert [int(ratio * width) for ratio in timm_arguments(shape)["mlp_ratio"]] == [hidden, hidden]


def test_a_folder_says_how_pictures_are_made_for_googles_weights(small: MixerConfig, tmp_path: Path) -> None:
    export_timm(random_mixer(small).state_dict(), tmp_path / "out", small)
    pictures = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert (pictures["mean"], pictures["std"]) == ([0.5] * 3, [0.5] * 3)
    assert (pictures["crop_pct"], pictures["interpolation"]) == (0.875, "bicubic")
