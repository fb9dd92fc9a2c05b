"""Our own file: safetensors under our names, the whole config in its metadata and in a JSON file beside it.

`model.safetensors` has `config.json` beside it, as is usual; any other `x.safetensors` has `x.json`, so that several can share a
folder. Either place alone is enough to read the file; when both speak, they must agree. Files of other layouts, which state nothing
inside, have their own suffix in the name of theirs (`x.pth.json`): else `x.pth` would be described by what lies beside `x.safetensors`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import ConfigError, MixerConfig
from ..config import config as _config
from .checks import check_state, check_values, plain
from .errors import WeightsError
from .files import write_whole

CONFIG_KEY: Final = "mixer_config"
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
    data = packed(state, config)
    write_whole(sidecar(path), config_text(config, beside).encode())
    write_whole(path, data)


def packed(state: Mapping[str, Tensor], config: MixerConfig) -> bytes:
    """The bytes of such a file, the same ones each time. WeightsError when state and config do not fit, or it is not finite."""
    check_state(state, config)
    check_values(state)
    return _in_order(save(plain(state), {"format": "pt", CONFIG_KEY: json.dumps(config.to_dict())}))


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata sorted: the library writes them in an order of chance, and a file is known by its SHA-256."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[8 + size :]))


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
