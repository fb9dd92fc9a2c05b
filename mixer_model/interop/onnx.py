"""The network as an ONNX graph, with any number of images, checked against torch before it is there.

    Mixer -> torch.onnx.export (torch.export, onnxscript) -> a graph beside `path` -> onnxruntime's logits = torch's -> in place

Needs the extra `onnx`. The graph takes `images` [batch,3,H,W] in fp32, scaled to [-1,1], and gives `logits` [batch,K]. Its metadata
holds our config. Weights of more than SPLIT_BYTES go to `<file>.data` beside it, since one protobuf ends at 2 GiB. onnxruntime tells
its maker of its use unless it is told not to: here it is told.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..config import IMAGE_CHANNELS, MixerConfig
from ..mixer import Mixer
from .checks import check_state
from .errors import WeightsError
from .ours import CONFIG_KEY

OPSET: Final = 20  # the first with GELU as one operator
SPLIT_BYTES: Final = 1_900_000_000
TOLERANCE: Final = 1e-5
"""Largest difference of a logit, as a share of the largest logit: sums in fp32 in another order, over 32 blocks."""
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(state: Mapping[str, Tensor], path: Path, config: MixerConfig) -> float:
    """Writes the network to `path`; the largest difference of its logits from torch's, as a share of the largest logit.

    WeightsError where state and config do not fit, where the extra is not installed, where the exporter or onnxruntime fails, and
    where the graph computes something else; then nothing is written.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise WeightsError(
            f"ONNX needs {', '.join(missing)}: pip install 'mixer-pretrain[onnx]', or take another format"
        )
    check_state(state, config)
    model = Mixer(config, seed=None).to_empty(device="cpu").float()
    model.load_state_dict(dict(state), strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        graph = Path(folder) / path.name
        with _told("torch's ONNX exporter fails on this network"):
            _write(model.eval(), graph)
        with _told("onnxruntime does not run the ONNX graph"):
            difference = _difference(model, graph)
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"the ONNX graph does not compute the same: its logits differ by {difference:.1e} of the largest, allowed is "
                f"{TOLERANCE:.0e}; nothing was written. Another torch or onnxruntime may do"
            )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the data before the graph that names it
            file.replace(path.parent / file.name)
    return difference


def _write(model: Mixer, path: Path) -> None:
    example = torch.zeros(2, IMAGE_CHANNELS, model.config.image_size, model.config.image_size)
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[CONFIG_KEY] = json.dumps(model.config.to_dict())
        size = sum(value.nbytes for value in model.state_dict().values())
        program.save(path, external_data=size > SPLIT_BYTES)


def _difference(model: Mixer, path: Path) -> float:
    """Of random images, in batches of one and of three."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when the library is loaded
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    generator, size, worst = torch.Generator().manual_seed(0), model.config.image_size, 0.0
    for batch in (1, 3):
        images = torch.rand(batch, IMAGE_CHANNELS, size, size, generator=generator) * 2 - 1
        with torch.no_grad():
            wanted = model(images)
        (given,) = session.run(["logits"], {"images": images.numpy()})
        apart = float((torch.from_numpy(given) - wanted).abs().max())
        worst = max(worst, apart / max(float(wanted.abs().max()), 1e-6))
    return worst


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever a library raises, which has no common class, as a WeightsError; a full disk stays what it is."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:300]
        raise WeightsError(
            f"{what}: {type(error).__name__}: {first}; nothing was written. Take another format, or another torch or onnxruntime"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """The exporter speaks of its own stages, in prints, warnings and log lines; a user of this file is told the difference instead."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
