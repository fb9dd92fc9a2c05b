"""timm's MlpMixer and its files. Our parameters carry its names, so nothing is renamed, both ways load with strict=True.

What is around them differs: a checkpoint of timm's trainer holds the state under `state_dict`, with `module.` in front when it was
saved from DistributedDataParallel; its folders (`local-dir:`, the hub's layout) say in `config.json` which architecture and with which
arguments. timm's GELU is erf's unless `act_layer` says otherwise, and it has no name for H/14.
"""

from __future__ import annotations

import functools
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..config import PRESETS, MixerConfig
from .checks import check_state, check_values, plain, require_mlp
from .errors import WeightsError
from .files import write_whole, written
from .ours import WEIGHTS, config_text, export_safetensors, sidecar

# In timm's order: the averaged weights are what it validates with.
_CODE: Final = re.compile(r"Unsupported (global|class)|not an allowed|Can only|Trying to ")
_WRAPPERS: Final = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES: Final = ("module.", "_orig_mod.", "model.")
_NAMED: Final = {"S/32": "s32", "S/16": "s16", "B/32": "b32", "B/16": "b16", "L/32": "l32", "L/16": "l16"}
_ACTIVATIONS: Final = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
_PICTURES: Final = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "first_conv": "stem.proj",
    "classifier": "head",
}


def to_timm(state: Mapping[str, Tensor], config: MixerConfig | None = None) -> dict[str, Tensor]:
    """The state as timm's MlpMixer of the same shape loads it with strict=True: on the CPU, contiguous.

    With `config`, names and shapes are checked against it. Raises WeightsError naming what is missing, unknown, misshapen or not
    finite.
    """
    if config is not None:
        require_mlp(config, "timm's MlpMixer")
        check_state(state, config)
    check_values(state)
    return plain(state)


def timm_arguments(config: MixerConfig) -> dict[str, Any]:
    """Keyword arguments with which timm.models.mlp_mixer.MlpMixer has this shape and computes this function.

    timm has no name for most shapes (H/14 among them), and its named ones take no other numbers; the class takes all.
    Raises WeightsError where tokens are not mixed by an MLP.
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


def timm_architecture(config: MixerConfig) -> str | None:
    """The name under which timm.create_model makes it, or None."""
    wanted = (config.patch, config.dim, config.depth)
    for preset, name in _NAMED.items():
        shape = PRESETS[preset]
        if (shape.patch, shape.dim, shape.depth) == wanted:
            return f"mixer_{name}_224"
    return None


def export_timm(
    state: Mapping[str, Tensor], path: Path, config: MixerConfig, beside: Mapping[str, Any] | None = None
) -> Path:
    """Writes a folder for `timm.create_model("local-dir:...")`, or a `.safetensors`, `.pth` or `.bin`, by the suffix; what was written.

    `beside` is said in the JSON too.
    """
    whole, said = to_timm(state, config), {**_described(config), **(beside or {})}
    if path.suffix in (".pth", ".bin", ".pt"):
        write_whole(sidecar(path), config_text(config, said).encode())
        with written(path) as part:
            torch.save(whole, part)
        return path
    file = path if path.suffix == ".safetensors" else path / WEIGHTS
    export_safetensors(whole, file, config, said)
    return path


def read_torch(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state in a file of torch.save, and what is to be said of it. Only tensors and plain values are loaded, no code is run."""
    _prove(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its unpickler raises whatever a damaged file makes it stumble over
        if isinstance(error, pickle.UnpicklingError) and _CODE.search(str(error)):
            raise WeightsError(
                f"{path} holds more than tensors, and code in files is never run. Where it came from, save the weights alone: "
                f"torch.save(model.state_dict(), FILE). torch says: {_said(error)}"
            ) from error
        raise WeightsError(f"{path} is not a whole file of torch.save: {_said(error)}") from error
    return unwrapped(path, held)


def _prove(path: Path) -> None:
    """WeightsError where the checksum of a part of it is wrong: torch reads the numbers all the same. Its older format has none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a whole file of torch.save: {error}") from error
    if damaged:
        raise WeightsError(
            f"{path} is damaged: the checksum of {damaged} in it is wrong; fetch it again. (Or it was saved without checksums, by "
            "torch.serialization.set_crc32_options(False): save it again with them)"
        )


def _said(error: Exception) -> str:
    """One line of what torch says, the one with the cause where it says many."""
    lines = str(error).splitlines()
    told = next(
        (line for line in lines if "WeightsUnpickler error" in line), lines[0] if lines else "it ends early"
    )
    return f"{told.strip()[:200]} ({type(error).__name__})"


def unwrapped(path: Path, held: object) -> tuple[dict[str, Tensor], list[str]]:
    """The state inside what was loaded."""
    notes = []
    wrapper = next(
        (key for key in _WRAPPERS if isinstance(held, Mapping) and isinstance(held.get(key), Mapping)), None
    )
    if isinstance(held, Mapping) and wrapper:
        notes.append(
            f"taken from {wrapper!r} in it" + (" (the averaged weights)" if wrapper.endswith("_ema") else "")
        )
        held = held[wrapper]
    if (
        not isinstance(held, Mapping)
        or not held
        or not all(isinstance(value, Tensor) for value in held.values())
    ):
        raise WeightsError(
            f"{path} holds no state dict of tensors, but {_kind(held)}; save model.state_dict() alone"
        )
    return bare({str(name): value for name, value in held.items()}), notes


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what DistributedDataParallel, torch.compile and wrappers put in front of every name."""
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def activation_of(described: Mapping[str, Any]) -> str | None:
    """The activation in a `config.json` of timm's, if it names one. WeightsError for one that no Mixer here has."""
    layer = (described.get("model_args") or {}).get("act_layer")
    if layer is None:
        return None
    if not isinstance(layer, str) or layer not in _ACTIVATIONS:
        raise WeightsError(f"its config.json says act_layer {layer!r}; known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[layer]


def _described(config: MixerConfig) -> dict[str, Any]:
    """What timm wants to know beside the weights. No `act_layer`: timm's Mixers take a class there, which JSON cannot name."""
    arguments = timm_arguments(config)
    arguments.pop("act_layer", None)
    classes, architecture = arguments.pop("num_classes"), timm_architecture(config)
    if architecture:
        for fixed in ("patch_size", "num_blocks", "embed_dim"):
            del arguments[fixed]
    size = {
        "input_size": [3, config.image_size, config.image_size],
        "fixed_input_size": True,
        "num_classes": classes,
    }
    named = {"architecture": architecture} if architecture else {}
    return {**named, "num_classes": classes, "model_args": arguments, "pretrained_cfg": {**size, **_PICTURES}}


def _ratio(hidden: int, width: int) -> float:
    """hidden/width, up by the last bit where timm's int(ratio * width) would come out one short."""
    ratio = hidden / width
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _kind(held: object) -> str:
    if isinstance(held, Mapping):
        return f"a dict of {', '.join(map(str, list(held)[:4])) or 'nothing'}"
    return f"a {type(held).__name__}"
