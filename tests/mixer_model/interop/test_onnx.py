"""The ONNX graph: the same logits for any number of images, one file, its config inside, and silence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixer_model.config import MixerConfig, config
from mixer_model.interop import WeightsError, export_safetensors, onnx
from mixer_model.interop.onnx import export_onnx
from mixer_model.mixer import Mixer
from tests.mixer_model.mixers import OTHERS, shape_of

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
runtime: Any = pytest.importorskip("onnxruntime")


def random_mixer(shape: MixerConfig) -> Mixer:
    made, generator = Mixer(shape), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return made.eval()


@pytest.fixture(scope="module")
def model() -> Mixer:
    return random_mixer(
        config(None, patch=8, dim=24, depth=2, token_dim=20, channel_dim=40, classes=7, image_size=32)
    )


@pytest.fixture(scope="module")
def graph(model: Mixer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exporting takes seconds, so it is done once."""
    path = tmp_path_factory.mktemp("graph") / "x.onnx"
    assert 0 < export_onnx(model.state_dict(), path, model.config) < 1e-5
    return path


def test_onnxruntime_gives_the_same_logits_for_any_number_of_images(model: Mixer, graph: Path) -> None:
    assert [file.name for file in graph.parent.iterdir()] == ["x.onnx"]
    session = runtime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    assert json.loads(session.get_modelmeta().custom_metadata_map["mixer_config"]) == model.config.to_dict()
    for count in (1, 2, 7):
        images = torch.rand(count, 3, 32, 32) * 2 - 1
        (given,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(given, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", OTHERS)
def test_a_graph_of_any_token_mixer_takes_any_number_of_images(mixer: str, tmp_path: Path) -> None:
    """`len` of a traced tensor is a plain number: a batch read so is fixed in the graph, and the check, with one and three, fails."""
    other = random_mixer(shape_of(mixer, depth=1))
    assert export_onnx(other.state_dict(), tmp_path / "x.onnx", other.config) < 1e-5


def test_what_the_libraries_raise_is_told_as_one_error(
    model: Mixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "IMAGE_CHANNELS", 4)  # images that the network does not take
    with pytest.raises(
        WeightsError, match=r"torch's ONNX exporter fails on this network: \w+: .* nothing was"
    ):
        export_onnx(model.state_dict(), tmp_path / "x.onnx", model.config)
    monkeypatch.setattr(onnx, "_write", lambda _, path: path.write_bytes(b"no graph"))
    with pytest.raises(WeightsError, match=r"onnxruntime does not run the ONNX graph: \w+: "):
        export_onnx(model.state_dict(), tmp_path / "x.onnx", model.config)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_is_not_written(
    model: Mixer, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the graph has tanh's GELU and the network erf's, the smallest mistake there is to make."""
    monkeypatch.setattr(onnx, "_write", lambda _, path: shutil.copy(graph, path))
    with pytest.raises(
        WeightsError, match=r"does not compute the same: its logits differ by .* nothing was written"
    ):
        export_onnx(
            model.state_dict(), tmp_path / "x.onnx", dataclasses.replace(model.config, activation="gelu")
        )
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "SPLIT_BYTES", 0)
    model = random_mixer(config(None, patch=4, dim=8, depth=1, image_size=8, classes=2))
    export_onnx(model.state_dict(), tmp_path / "x.onnx", model.config)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.onnx", "x.onnx.data"]


def test_without_the_extra_it_says_what_to_install(
    model: Mixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = onnx.importlib.util.find_spec
    monkeypatch.setattr(
        onnx.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(
        WeightsError, match=r"ONNX needs onnxruntime: pip install 'mixer-pretrain\[onnx\]', or take another"
    ):
        export_onnx(model.state_dict(), tmp_path / "x.onnx", model.config)


PROBE = """
import sys
from pathlib import Path
from mixer_model.interop.onnx import _difference
from mixer_model.interop.reading import read
from mixer_model.mixer import Mixer
found = read(sys.argv[2])
model = Mixer(found.config)
model.load_state_dict(found.state)
assert _difference(model, Path(sys.argv[1])) < 1e-5
"""


def test_onnxruntime_tells_nobody(model: Mixer, graph: Path, tmp_path: Path) -> None:
    """From 1.31 on it keeps an identifier of the machine in a cache, and sends what it does to its maker."""
    export_safetensors(model.state_dict(), tmp_path / "x.safetensors", model.config)
    env = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE, str(graph), str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.rglob("*onnxruntime*"))
