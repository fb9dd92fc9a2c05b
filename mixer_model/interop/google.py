"""Google's `.npz` of Mixers: the flat parameter tree of the published JAX code, both ways.

    stem/kernel [P,P,3,C]                        <-> stem.proj.weight [C,3,P,P]
    MixerBlock_i/LayerNorm_0/{scale,bias}        <-> blocks.i.norm1.{weight,bias}      (LayerNorm_1: norm2)
    MixerBlock_i/token_mixing/Dense_0/kernel     <-> blocks.i.mlp_tokens.fc1.weight, transposed   (Dense_1: fc2)
    MixerBlock_i/channel_mixing/...              <-> blocks.i.mlp_channels...
    pre_head_layer_norm/{scale,bias}, head/...   <-> norm.{weight,bias}, head...

Source: google-research/vision_transformer, vit_jax/models_mixer.py, and the files in its bucket. Read but never written are what
google-research/big_vision (models/mlp_mixer.py, utils.py) reads too: its checkpoints, with `params/` or `opt/target/` in front and
bfloat16 as two bytes without a name, and the tree of an older internal code (`embedding`, `Mixer/encoderblock_i`, ...).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import MixerConfig
from .checks import check_state, check_values, plain, require_mlp
from .errors import WeightsError
from .files import write_whole, written
from .ours import config_text, sidecar

Array = npt.NDArray[Any]
_LEAVES: Final = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LAYERS: Final = {
    "stem": "stem.proj",
    "pre_head_layer_norm": "norm",
    "head": "head",
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "token_mixing/Dense_0": "mlp_tokens.fc1",
    "token_mixing/Dense_1": "mlp_tokens.fc2",
    "channel_mixing/Dense_0": "mlp_channels.fc1",
    "channel_mixing/Dense_1": "mlp_channels.fc2",
}
_DAMAGE: Final = (ValueError, OSError, KeyError, EOFError, TypeError, RuntimeError, MemoryError)
"""What numpy and zipfile raise of a damaged file, beside their own; MemoryError for a shape that no memory holds."""
_PATHS: Final = {layer: path for path, layer in _LAYERS.items()}


def from_google(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Our state of such a tree; a name that no Mixer has keeps its own, for `check_state` to tell. WeightsError for one given twice."""
    state: dict[str, Tensor] = {}
    for name, array in _as_published(arrays).items():
        tensor = _tensor(name, array)
        ours = _our_name(name)
        if (ours or name) in state:
            raise WeightsError(f"{name} is given twice, under two names; which one is meant cannot be known")
        state[ours or name] = (
            _turned(tensor, back=True).contiguous() if ours and name.endswith("/kernel") else tensor
        )
    return state


def to_google(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under Google's names, in its shapes. Names that no Mixer has stay."""
    tree = {}
    for name, tensor in state.items():
        path = _google_name(name)
        tree[path or name] = _turned(tensor, back=False) if path and path.endswith("/kernel") else tensor
    return tree


def read_npz(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Our state of the file, and what is to be said of it. No pickle is loaded. WeightsError where it is damaged or holds objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, left_out = _parameters(file.files)
            arrays = {short: file[name] for short, name in names.items()}
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"{path} cannot be read as a .npz of plain arrays: {error}") from error
    notes = [f"{left_out} other arrays in it are left out (optimizer, step)"] if left_out else []
    try:
        return from_google(arrays), notes
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def export_google(
    state: Mapping[str, Tensor], path: Path, config: MixerConfig, beside: Mapping[str, Any] | None = None
) -> None:
    """Writes `state` as Google's `.npz`, in fp32, and its config beside it, since the layout cannot say the activation; `beside` too.

    WeightsError when it does not fit, is not finite, or when Google's code has no such Mixer.
    """
    require_mlp(config, "Google's code")
    check_state(state, config)
    check_values(state)
    tree = {name: value.float().contiguous().numpy() for name, value in to_google(plain(state)).items()}
    write_whole(sidecar(path), config_text(config, beside).encode())
    with written(path) as part, part.open("wb") as file:
        np.savez(file, **tree)  # type: ignore[arg-type]  # numpy's stub wants to know the keyword allow_pickle


def _parameters(names: list[str]) -> tuple[dict[str, str], int]:
    """Names below the parameters of a checkpoint of big_vision, or all of them; and how many others there are."""
    for prefix in ("params/", "opt/target/"):
        inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
        if inside:
            return inside, len(names) - len(inside)
    return {name: name for name in names}, 0


def _as_published(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The tree as the published code names it."""
    if not any(name.startswith("Mixer/") for name in arrays):
        return dict(arrays)
    norms = sorted(
        {int(n[1]) for name in arrays if (n := re.search(r"encoderblock_\d+/LayerNorm_(\d+)/", name))}
    )
    published = {name: _published_name(name, norms) for name in arrays}
    if twice := [name for name, to in published.items() if list(published.values()).count(to) > 1]:
        raise WeightsError(f"{' and '.join(twice[:2])} are the same parameter, given twice")
    return {published[name]: _squeezed(name, array) for name, array in arrays.items()}


def _published_name(name: str, norms: list[int]) -> str:
    name = re.sub(r"^embedding/", "stem/", name)
    name = re.sub(r"^Mixer/encoder_norm/", "pre_head_layer_norm/", name)
    name = re.sub(r"^Mixer/encoderblock_(\d+)/", r"MixerBlock_\1/", name)
    # In that code layers of all kinds were counted together, so a block's second norm may be any number.
    name = re.sub(r"/LayerNorm_(\d+)/", lambda found: f"/LayerNorm_{norms.index(int(found[1]))}/", name)
    return re.sub(
        r"/(token|channel)_mixing_phase_0/(kernel|bias)([12])$",
        lambda found: f"/{found[1]}_mixing/Dense_{int(found[3]) - 1}/{found[2]}",
        name,
    )


def _squeezed(name: str, array: Array) -> Array:
    """Kernels and biases of the older MLPs have axes of length 1 in front."""
    return array.squeeze() if "_mixing_phase_0/" in name else array


def _our_name(name: str) -> str | None:
    found = re.fullmatch(r"(?:MixerBlock_(\d+)/)?(.+)/(\w+)", name)
    if not found or found[2] not in _LAYERS or found[3] not in _LEAVES:
        return None
    if found[3] != "bias" and (found[3] == "scale") != ("norm" in _LAYERS[found[2]]):
        return None  # norms have a scale, all others a kernel
    block = f"blocks.{found[1]}." if found[1] else ""
    return f"{block}{_LAYERS[found[2]]}.{_LEAVES[found[3]]}"


def _google_name(name: str) -> str | None:
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if not found or found[2] not in _PATHS:
        return None
    leaf = "bias" if found[3] == "bias" else "scale" if "norm" in found[2] else "kernel"
    block = f"MixerBlock_{found[1]}/" if found[1] else ""
    return f"{block}{_PATHS[found[2]]}/{leaf}"


def _turned(tensor: Tensor, *, back: bool) -> Tensor:
    """A kernel [in,out] or [P,P,in,out] to torch's [out,in] or [out,in,P,P]; the reverse unless `back`."""
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1) if back else tensor.permute(2, 3, 1, 0)
    return tensor.t() if tensor.ndim == 2 else tensor


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return (
            torch.from_numpy(array.view(np.uint16).astype(np.int32) << 16)
            .view(torch.float32)
            .to(torch.bfloat16)
        )
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise WeightsError(f"{name} holds {array.dtype}; weights are numbers of at most 8 bytes")
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
