"""The weights a run begins with when its spec names them (`model.init`): found, fitted to its network, copied beside it.

init -> a run's newest checkpoint, or a file -> (config, weights) -> resize.fit -> Initial: its facts are frozen with the spec

The copy lies under `init/<digest>/` as `model.safetensors`, an ordinary file of weights, with the manifest of a checkpoint that holds
weights only: so any rank reads what it owns, proven, and what becomes of the source changes nothing. It is written before spec.yaml,
which makes the run; a folder without spec.yaml is no run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from data_pipeline.storage import Store, StoreError
from mixer_model import interop, resize
from mixer_model.config import ConfigError, MixerConfig
from mixer_model.config import config as mixer_config
from orchestrator import tensor_file
from orchestrator.checkpoints.manifest import Float32, Manifest, Slice, load_manifest
from orchestrator.checkpoints.reading import read_weights
from orchestrator.classes import Named, of_run
from orchestrator.errors import MixerError, UserError
from orchestrator.frozen import InitFacts
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run, effective, likest, list_runs
from orchestrator.spec import Model, Spec
from orchestrator.urls import IMPORTED, is_file
from orchestrator.weights.fetched import at_hand

FILE = IMPORTED  # so that a run's copy can itself be a model.init
ASSUMED = "does not say its activation"  # in a note of mixer_model.interop.reading
SLICE_ELEMENTS = 1 << 20  # 4 MB: what a checksum covers


@dataclass
class Found:
    """Weights by name, of a network of `shape`; of a run, with the step they are of."""

    shape: MixerConfig
    state: dict[str, Tensor]
    step: int | None = None
    notes: tuple[str, ...] = ()  # what was assumed of a file, or is known to go wrong with such ones
    classes: Named | None = None  # what the outputs are called


class Initial:
    """A run's first weights, fitted, and not written yet. `facts` is what is frozen of them."""

    def __init__(self, source: str, found: Found, model: Model) -> None:
        target = mixer_config(model.preset, **model.overrides())
        wanted = resize.plan(found.shape, target, model.head)
        self.notes = (*found.notes, *_idle(model, wanted.head))
        self.classes = found.classes
        state = resize.fit(found.state, found.shape, target, head=model.head, head_bias=model.first_bias)
        self._arrays = {name: _float32(name, value) for name, value in sorted(state.items())}
        self._header, offsets = tensor_file.header(
            ((name, values.shape, values.nbytes) for name, values in self._arrays.items()),
            {"format": "pt", interop.CONFIG_KEY: json.dumps(target.to_dict())},
        )
        self._size = len(self._header) + sum(values.nbytes for values in self._arrays.values())
        sha256 = self._digest()
        self._manifest = self._describe(offsets, sha256).to_bytes()
        self.facts = InitFacts(
            source=source,
            step=found.step,
            head=wanted.head,
            factor=wanted.factor,
            sha256=sha256,
            path=f"init/{sha256[:16]}",
            manifest=hashlib.sha256(self._manifest).hexdigest(),
            weights=_identity(self._arrays),
        )

    def write(self, store: Store) -> None:
        """Write the copy into the run's folder; then the weights are let go. Once only."""
        store.put_stream(f"{self.facts.path}/{FILE}", self._size, self._chunks())
        store.put(f"{self.facts.path}/manifest.json", self._manifest)
        self._arrays = {}

    def _chunks(self) -> Iterator[bytes | memoryview]:
        yield self._header
        for values in self._arrays.values():
            yield values.reshape(-1).view("u1").data

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _describe(self, offsets: list[int], sha256: str) -> Manifest:
        return Manifest(
            step=0,
            position=0,
            attempt=0,
            params={name: list(values.shape) for name, values in self._arrays.items()},
            files={FILE: {"bytes": self._size, "sha256": sha256}},
            slices=[
                item
                for (name, values), offset in zip(self._arrays.items(), offsets, strict=True)
                for item in _slices(name, values.reshape(-1), offset)
            ],
            state={"updates": 0},
            kinds=("weight",),
        )


def prepare(spec: Spec) -> Initial | None:
    """The first weights that `spec` names by their whole url; None where they are drawn. UserError where there are none that fit."""
    source = spec.model.init
    if source is None:
        return None
    notes: tuple[str, ...] = ()
    try:
        found = _of_file(source) if is_file(source) else _of_run(source)
        notes = (*_way_out(source, found, spec.model), *found.notes)
        return Initial(source, found, spec.model)
    except (ConfigError, interop.WeightsError, StoreError, MixerError) as error:
        noted = "".join(f". Note: {note}" for note in notes)
        raise UserError(f"model.init {source}: {error}{noted}") from error


def _way_out(source: str, found: Found, model: Model) -> list[str]:
    """What to do where only a guess stands between the weights and the spec: a file that does not say its activation."""
    wanted = mixer_config(model.preset, **model.overrides()).activation
    if found.shape.activation == wanted or not any(ASSUMED in note for note in found.notes):
        return []
    return [
        f"or, if they were trained with {wanted}, `mixer import {source} --activation {wanted}` and start from that"
    ]


def _of_run(url: str) -> Found:
    """The newest committed weights of a run."""
    run = Run(url)
    if not run.exists():
        raise UserError(
            f"no run is there; the store has {likest(run.name, list_runs(url.rsplit('/runs/', 1)[0]))}. Give the name of one, "
            "<store>/runs/<name>, or a file (.safetensors, .npz, .pth)"
        )
    entries = run.log().entries
    saved = live_checkpoints(entries)
    if not saved:
        raise UserError("the run has no committed checkpoint yet; wait for its first one")
    path, frozen = saved[-1].facts["path"], effective(run.frozen(), entries)
    manifest = load_manifest(run.store, path, saved[-1].facts["sha256"])
    whole = read_weights(run.store, path, manifest)
    state = {name: torch.from_numpy(values) for name, values in whole.items()}
    model = frozen.spec.model
    shape = mixer_config(model.preset, **model.overrides())
    return Found(shape, state, manifest.step, classes=of_run(run, frozen))


def _of_file(url: str) -> Found:
    try:
        with at_hand(url) as path:
            read = _read(path)
    except FileNotFoundError as error:
        raise UserError("no file is there; it is to be a .safetensors, .npz or .pth") from error
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror or error}") from error
    folder, slash, name = url.rpartition("/")
    beside = f"{folder}{slash}{interop.sidecar(Path(name)).name}"
    classes = Named(read.labels, beside) if read.labels else None
    return Found(read.config, read.state, notes=read.notes, classes=classes)


def _read(path: Path) -> interop.Found:
    try:
        return interop.read(path)
    except interop.WeightsError as error:
        raise UserError(str(error).replace(f"{path}: ", "").replace(str(path), "it")) from error


def _identity(arrays: dict[str, Float32]) -> str:
    """SHA-256 of the names, shapes and values: the same for the same weights, whatever else a file or a config says of them."""
    digest = hashlib.sha256()
    for name, values in arrays.items():
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view("u1").data)
    return digest.hexdigest()


def _idle(model: Model, head: str) -> tuple[str, ...]:
    """What the spec says and these weights leave nothing to do for."""
    if head == "new" or model.head_bias is None:
        return ()
    return (
        f"model.head_bias {model.head_bias:g} does nothing: the head is kept, and its bias with it (head: new makes a new one)",
    )


def _float32(name: str, value: Tensor) -> Float32:
    values: Float32 = value.float().contiguous().numpy().astype("<f4", copy=False)
    if not np.isfinite(values).all():
        raise UserError(f"{name} holds values that are not finite; take weights of an earlier step")
    return values


def _slices(name: str, flat: Float32, offset: int) -> Iterator[Slice]:
    for start in range(0, len(flat), SLICE_ELEMENTS):
        part = flat[start : start + SLICE_ELEMENTS]
        crc = google_crc32c.value(part.view("u1"))
        yield Slice(name, "weight", start, len(part), FILE, offset + 4 * start, crc)
