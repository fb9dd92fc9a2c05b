"""Weights in files the rest of the field loads, and back.

    Mixer.state_dict() -> to_timm (checked, plain) -> x.safetensors -> load -> (config, state)

Our parameters carry timm's names, so nothing is renamed: what this file adds is that a state which is not
whole, or is not of the shape it claims, is refused before it is written and after it is read. A file is there
entirely or not at all. It stores weights only; the state of an optimizer or of a run lives in checkpoints,
which are not this package's.

JAX's and timm's Mixers differ in one function: JAX means GELU's tanh approximation. The file's metadata holds
our whole config.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .config import ConfigError, MixerConfig, require_mlp
from .config import config as _config
from .mixer import Mixer

CONFIG_KEY: Final = "mixer_config"


class WeightsError(ValueError):
    """A state or file that is not the weights of the Mixer it should be. The message names the parameters."""


def to_timm(state: Mapping[str, Tensor], config: MixerConfig | None = None) -> dict[str, Tensor]:
    """The state as timm's MlpMixer of the same shape loads it with strict=True: on the CPU, contiguous.

    With `config`, names and shapes are checked against it. Raises WeightsError naming what is missing,
    unknown or misshapen.
    """
    if config is not None:
        check_state(state, config)
    return {name: value.detach().to("cpu").contiguous() for name, value in state.items()}


def check_state(state: Mapping[str, Tensor], config: MixerConfig) -> None:
    """Raises WeightsError unless `state` has exactly the parameters of such a Mixer, in their shapes."""
    wanted = {name: tuple(value.shape) for name, value in Mixer(config, seed=None).state_dict().items()}
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} is not a parameter of it" for name in state if name not in wanted]
    faults += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(f"these weights do not fit {_describe(config)}: {'; '.join(faults[:3])}{more}")


def export_safetensors(
    state: Mapping[str, Tensor], path: str | os.PathLike[str], config: MixerConfig
) -> None:
    """Writes `state` to `path` as safetensors, with its config. Raises WeightsError when they do not fit."""
    metadata = {"format": "pt", CONFIG_KEY: json.dumps(config.to_dict())}
    _write_whole(Path(path), save(to_timm(state, config), metadata))


def load(path: str | os.PathLike[str]) -> tuple[MixerConfig, dict[str, Tensor]]:
    """The config and state `export_safetensors` wrote. Raises WeightsError for any other file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    config = _read_config(path, metadata)
    check_state(state, config)
    return config, state


def timm_arguments(config: MixerConfig) -> dict[str, Any]:
    """Keyword arguments with which timm.models.mlp_mixer.MlpMixer has this shape and computes this function.

    timm has no name for most shapes (H/14 among them), and its named ones take no other numbers; the class
    takes all. Raises ConfigError where tokens are not mixed by an MLP.
    """
    require_mlp(config, "timm's MlpMixer")
    arguments: dict[str, Any] = {
        "num_classes": config.classes,
        "img_size": config.image_size,
        "patch_size": config.patch,
        "num_blocks": config.depth,
        "embed_dim": config.dim,
        "mlp_ratio": (_ratio(config.token_dim, config.dim), _ratio(config.channel_dim, config.dim)),
    }
    if config.activation == "gelu_tanh":
        arguments["act_layer"] = functools.partial(nn.GELU, approximate="tanh")
    return arguments


def _ratio(hidden: int, width: int) -> float:
    """hidden/width, up by the last bit where timm's int(ratio * width) would come out one short."""
    ratio = hidden / width
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _read_config(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> MixerConfig:
    if CONFIG_KEY not in metadata:
        raise WeightsError(
            f"{path} does not say what Mixer it holds (no {CONFIG_KEY!r}); was it written by mixer?"
        )
    try:
        return _config(None, **json.loads(metadata[CONFIG_KEY]))
    except (json.JSONDecodeError, TypeError, ConfigError) as error:
        raise WeightsError(f"{path} describes no Mixer in {CONFIG_KEY!r}: {error}") from error


def _write_whole(path: Path, data: bytes) -> None:
    """Beside it, to the disk, then into place."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _describe(config: MixerConfig) -> str:
    return (
        f"a Mixer of patch {config.patch}, width {config.dim}, depth {config.depth}, "
        f"{config.classes} classes, {config.image_size} pixels"
    )
