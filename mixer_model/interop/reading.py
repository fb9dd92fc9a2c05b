"""Any file of Mixer weights as (config, state), with what is to be said of it.

    path -> kind_of (its bytes) -> npz | torch | safetensors -> the config it states, or the one its shapes have -> checked -> Found

A file of ours states its config, inside or in the JSON beside it. Of any other the shapes say all but the activation: `.npz` is from
JAX, so "gelu_tanh"; torch's files are timm's, so "gelu" (erf), which is what their own library computes, also for weights that timm
converted from Google's. `activation` overrides both. Nothing is guessed in silence: see `Found.notes`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..config import ACTIVATIONS, ConfigError, MixerConfig, config
from .checks import check_state, check_values
from .errors import WeightsError
from .google import read_npz, to_google
from .kinds import kind_of
from .ours import CONFIG, CONFIG_KEY, LABELS_KEY, WEIGHTS, parsed, read_safetensors, sidecar
from .shapes import shape_of
from .timm import activation_of, bare, read_torch

LAYOUTS: Final = {
    "npz": "Google's npz",
    "torch": "a torch state dict with timm's names",
    "safetensors": "safetensors with timm's names",
}
OURS: Final = "safetensors of mixer"


@dataclass(frozen=True, slots=True)
class Found:
    """What a file of weights turned out to be."""

    config: MixerConfig
    state: dict[str, Tensor]
    """Under our names, on the CPU, in the file's precision."""
    layout: str
    """Which kind of file, in words."""
    notes: tuple[str, ...] = ()
    """What was assumed, left out or is known to go wrong with such files; a sentence each."""
    labels: tuple[str, ...] | None = None
    """What the head's outputs are called, in order, where a JSON of ours beside the file says so."""


def load(
    path: str | os.PathLike[str], *, activation: str | None = None
) -> tuple[MixerConfig, dict[str, Tensor]]:
    """Config and state of a file of any layout. Raises as `read` does."""
    found = read(path, activation=activation)
    return found.config, found.state


def read(path: str | os.PathLike[str], *, activation: str | None = None) -> Found:
    """What the file is, checked whole. A folder means the `model.safetensors` in it.

    FileNotFoundError where nothing is there; WeightsError for what is no Mixer, is damaged, or is not all there.
    """
    path = Path(path)
    path = path / WEIGHTS if path.is_dir() else path
    if activation is not None and activation not in ACTIVATIONS:
        raise WeightsError(f"activation {activation!r} is not known; allowed: {', '.join(ACTIVATIONS)}")
    kind = kind_of(path)
    inside: MixerConfig | None = None
    notes: list[str] = []
    if kind == "npz":
        state, notes = read_npz(path)
    elif kind == "torch":
        state, notes = read_torch(path)
    else:
        state, inside = read_safetensors(path)
        state = bare(state)
    beside = _beside(path)
    stated = _stated(path, inside, beside)
    notes += _passed_over(path)
    layout = OURS if stated and kind == "safetensors" else LAYOUTS[kind]
    shape, said = _config_of(path, state, kind, stated, beside, activation)
    _check(path, state, shape, google=kind == "npz")
    notes += [*said, *_traps(path, shape, beside, stated is not None)]
    return Found(shape, state, layout, tuple(notes), _labels(path, shape, beside))


def _config_of(
    path: Path,
    state: Mapping[str, Tensor],
    kind: str,
    stated: MixerConfig | None,
    beside: Mapping[str, Any],
    asked: str | None,
) -> tuple[MixerConfig, list[str]]:
    """The config, and how it was come by where that is not from the file alone."""
    if stated:
        if asked in (None, stated.activation):
            return stated, []
        changed = config(None, **{**stated.to_dict(), "activation": asked})
        return changed, [f"activation {asked} as asked; the file says {stated.activation}"]
    try:
        said = activation_of(beside)
        shape = shape_of(state, asked or said or ("gelu_tanh" if kind == "npz" else "gelu"))
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path}: {error}") from error
    if asked or said:
        return shape, []
    why = (
        "JAX's"
        if kind == "npz"
        else "what timm computes; if they were converted from Google's, gelu_tanh is what was meant"
    )
    return shape, [f"the file does not say its activation; taken is {shape.activation} ({why})"]


def _labels(path: Path, shape: MixerConfig, beside: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names that a JSON of ours has for the outputs. WeightsError where they are none."""
    labels = beside.get(LABELS_KEY) if CONFIG_KEY in beside else None
    if labels is None:
        return None
    listed = isinstance(labels, list) and all(isinstance(name, str) for name in labels)
    if not listed or len(labels) > shape.classes:
        raise WeightsError(
            f"the JSON beside {path} has {LABELS_KEY} that are not a name for each of {shape.classes} classes; write the file again, "
            "or take them out"
        )
    return tuple(labels)


def _stated(path: Path, inside: MixerConfig | None, beside: Mapping[str, Any]) -> MixerConfig | None:
    """The config that the file, or the JSON beside it, states."""
    if CONFIG_KEY not in beside:
        return inside
    try:
        outside = parsed(beside[CONFIG_KEY])
    except (TypeError, ConfigError) as error:
        raise WeightsError(f"the JSON beside {path} describes no Mixer in {CONFIG_KEY!r}: {error}") from error
    if inside and inside != outside:
        told, other = inside.to_dict(), outside.to_dict()
        keys = ", ".join(f"{key} {told[key]} and {other[key]}" for key in told if told[key] != other[key])
        raise WeightsError(
            f"{path} and the JSON beside it do not agree: {keys}. Remove the JSON, or write the file again"
        )
    return outside


def _beside(path: Path) -> dict[str, Any]:
    """The JSON that describes the file, ours or timm's; empty when there is none."""
    for candidate in dict.fromkeys((sidecar(path), path.with_name(CONFIG))):
        try:
            tree = json.loads(candidate.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(
                f"{candidate} lies beside {path.name} and may say what that is, but cannot be read as JSON: {error}. Write the weights "
                "again, or remove it"
            ) from error
        if isinstance(tree, dict) and ({CONFIG_KEY, "architecture", "model_args"} & set(tree)):
            _check_mappings(candidate, tree)
            # A config.json is model.safetensors' own; of another file of its folder it may say how timm builds it, no more.
            return (
                tree if candidate == sidecar(path) else {key: tree[key] for key in tree if key != CONFIG_KEY}
            )
    return {}


def _check_mappings(path: Path, tree: Mapping[str, Any]) -> None:
    """WeightsError where timm's keys in the JSON at `path` hold something else than they do there."""
    for key in ("model_args", "pretrained_cfg"):
        if not isinstance(tree.get(key) or {}, Mapping):
            raise WeightsError(
                f"{path}: {key} is {tree[key]!r}; it must be a mapping. Write the weights again, or remove the file"
            )


def _passed_over(path: Path) -> list[str]:
    """A note of the JSON that would describe a `.safetensors` of the same name, where this file is none and has none of its own."""
    other = path.with_suffix(".json")
    if other in (sidecar(path), path.with_name(CONFIG)) or sidecar(path).exists() or not other.exists():
        return []
    return [
        f"{other.name} is not read: it is for {path.stem}.safetensors; this file's would be {sidecar(path).name}"
    ]


def _check(path: Path, state: Mapping[str, Tensor], shape: MixerConfig, *, google: bool) -> None:
    try:
        check_state(state, shape, to_google if google else None)
        check_values(to_google(state) if google else state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _traps(path: Path, shape: MixerConfig, beside: Mapping[str, Any], ours: bool) -> list[str]:
    """What is known to mislead in the files that go around."""
    notes = []
    pictures = beside.get("pretrained_cfg") or {}
    if "goog_in21k_ft_in1k" in f"{path.name} {pictures.get('tag', '')} {beside.get('architecture', '')}":
        notes.append(
            "goog_in21k_ft_in1k is mislabelled: by its accuracy and its authors it was trained on ImageNet-1k alone (timm issue 651)"
        )
    if shape.classes == 21_843:
        notes.append(
            "21,843 classes is the head of Google's ImageNet-21k; data sets numbered otherwise have 21,841"
        )
    scale = [pictures.get(key) or [0.5] * 3 for key in ("mean", "std")]
    if not ours and scale != [[0.5] * 3, [0.5] * 3]:
        notes.append(
            f"they want pixels with mean {scale[0]} and std {scale[1]}; here pixels are in [-1, 1], mean and std 0.5"
        )
    return notes
