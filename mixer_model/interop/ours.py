"""Our own file: safetensors under our names, the whole config in its metadata and in a JSON file beside it.

`model.safetensors` has `config.json` beside it, as is usual; any other `x.safetensors` has `x.json`, so that several can share a
folder. Either place alone is enough to read the file; when both speak, they must agree. Files of other layouts, which state nothing
inside, have their own suffix in the name of theirs (`x.pth.json`): else `x.pth` would be described by what lies beside `x.safetensors`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import ConfigError, MixerConfig
from ..config import config as _config
from .checks import check_state, check_values, plain
from .errors import WeightsError
from .files import write_whole, written

CONFIG_KEY: Final = "mixer_config"
LABELS_KEY: Final = "label_names"
"""In the JSON, where the classes have names: those of the head's outputs, in order. The key is the one in timm's configs."""
_NAMES: Final = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""The format's names of precisions, in the order in which the library writes them."""
_ORDER: Final = tuple(_NAMES)
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def sidecar(path: Path) -> Path:
    """Where the config of the file lies."""
    if path.name == WEIGHTS:
        return path.with_name(CONFIG)
    return path.with_suffix(".json") if path.suffix == ".safetensors" else path.with_name(f"{path.name}.json")


def export_safetensors(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    config: MixerConfig,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Writes `state` to `path` with its config, there and beside it. `beside` is said there too. WeightsError when they do not fit."""
    path = Path(path)
    chunks = _checked_chunks(state, config)
    write_whole(sidecar(path), config_text(config, beside).encode())
    with written(path) as part, part.open("wb") as file:
        file.writelines(chunks)


def packed(state: Mapping[str, Tensor], config: MixerConfig) -> bytes:
    """The bytes of such a file, the same ones each time. WeightsError when state and config do not fit, or it is not finite."""
    return b"".join(_checked_chunks(state, config))


def _checked_chunks(state: Mapping[str, Tensor], config: MixerConfig) -> Iterator[bytes | memoryview]:
    """The file piece by piece, so that nothing is held but the weights themselves; the checks are made before the first."""
    check_state(state, config)
    check_values(state)
    tensors = sorted(plain(state).items(), key=lambda item: (_ORDER.index(item[1].dtype), item[0]))
    return _chunks(tensors, {"format": "pt", CONFIG_KEY: json.dumps(config.to_dict())})


def _chunks(tensors: list[tuple[str, Tensor]], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The library's bytes, but with the metadata in order: it writes them as chance has it, and a file is known by its SHA-256."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, value in tensors:
        place = [at, at := at + value.nbytes]
        header[name] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for _, value in tensors:
        yield value.reshape(-1).view(torch.uint8).numpy().data


def config_text(config: MixerConfig, beside: Mapping[str, Any] | None = None) -> str:
    """What stands in the JSON file."""
    return json.dumps({CONFIG_KEY: config.to_dict(), **(beside or {})}, indent=2) + "\n"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], MixerConfig | None]:
    """The tensors, and the config if the file has one. WeightsError where it is cut or its config is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    if CONFIG_KEY not in metadata:
        return state, None
    try:
        return state, parsed(json.loads(metadata[CONFIG_KEY]))
    except (json.JSONDecodeError, TypeError, ConfigError) as error:
        raise WeightsError(f"{path} describes no Mixer in {CONFIG_KEY!r}: {error}") from error


def parsed(fields: dict[str, Any]) -> MixerConfig:
    """The config that such fields are. TypeError or ConfigError where they are none."""
    return _config(None, **fields)
