"""Somebody's weights become a run's starting point: read whole, checked, written under `<store>/weights/<name>/`.

    a file or url -> mixer_model.interop.read -> model.safetensors and config.json in the store -> `model.init` of a spec

model.safetensors comes first, and only where none is: of two imports under one name one wins, and weights that are there are never
replaced by others. It is whole by itself; config.json, which follows, says where the weights are from and their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from data_pipeline.storage import NotFound, Store, open_store
from mixer_model import cost
from mixer_model.config import preset_of
from mixer_model.interop import WeightsError, read
from mixer_model.interop.ours import CONFIG, LABELS_KEY, WEIGHTS, config_text, packed, sidecar
from mixer_model.interop.reading import Found
from mixer_model.token_shapes import WITH_TOKEN_DIM
from orchestrator.errors import UserError
from orchestrator.stores import default_store
from orchestrator.urls import WEIGHTS as FILES
from orchestrator.urls import absolute, is_file
from orchestrator.weights.beside import free_beside
from orchestrator.weights.fetched import CHUNK_BYTES, at_hand

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,80}[a-z0-9])?")


def import_weights(
    source: str,
    *,
    name: str | None = None,
    activation: str | None = None,
    store: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """What the weights in `source` are, and where they now lie: in the store under `name`, or at `out`. UserError where they are none."""
    wanted = None if out else _checked_name(name, source)
    beside_out = free_beside(_file_of(out)) if out else None
    found, origin = _read(source, activation)
    data = packed({key: value.float() for key, value in found.state.items()}, found.config)
    facts = _facts(source, found, data)
    labels = {LABELS_KEY: list(found.labels)} if found.labels else {}
    told = {"sha256": facts["sha256"], "from": {**origin, "layout": found.layout, "notes": facts["notes"]}}
    text = config_text(found.config, {**labels, **told}).encode()
    url = (
        _to_file(out, text, data)
        if out
        else _to_store(f"{absolute(default_store(store))}/weights/{wanted}", text, data, facts["sha256"])
    )
    return {
        **facts,
        "url": url,
        "beside": str(beside_out.absolute()) if beside_out else f"{url.rpartition('/')[0]}/{CONFIG}",
        "spec": _spec_line(url, facts),
    }


def _read(source: str, activation: str | None) -> tuple[Found, dict[str, str]]:
    """What is there, and the name and SHA-256 of the file it was in."""
    url = source if "://" not in source or is_file(source) else f"{source.rstrip('/')}/{WEIGHTS}"
    try:
        with at_hand(url) as path:
            return _told(path, source, activation)
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}") from error


def _told(path: Path, source: str, activation: str | None) -> tuple[Found, dict[str, str]]:
    try:
        return read(path, activation=activation), _origin(path, source)
    except (WeightsError, FileNotFoundError) as error:
        raise UserError(str(error).replace(str(path), source)) from error


def _file_of(out: Path) -> Path:
    """The file itself, or model.safetensors in the folder. UserError for the name of a file of another format."""
    if out.suffix in FILES and out.suffix != ".safetensors" and not out.is_dir():
        raise UserError(
            f"--out got {out}; what is written is a .safetensors, or a folder with one: give such a name"
        )
    return out if out.suffix == ".safetensors" else out / WEIGHTS


def _to_file(out: Path, text: bytes, data: bytes) -> str:
    path = _file_of(out)
    folder = open_store(path.parent)
    folder.put(sidecar(path).name, text)
    folder.put(path.name, data)
    return str(path.absolute())


def _to_store(url: str, text: bytes, data: bytes, sha256: str) -> str:
    store = open_store(url)
    if not store.put_if_absent(WEIGHTS, data) and _digest(store, len(data)) != sha256:
        raise UserError(
            f"other weights are at {url} already, and runs may start from them; give these another --name"
        )
    labels, before = json.loads(text).get(LABELS_KEY), _said(store)
    # Nothing is there, or what an import left that was killed before its weights, or one without names.
    if before.get("sha256") != sha256 or (labels and LABELS_KEY not in before):
        store.put(CONFIG, text)
    elif labels and before[LABELS_KEY] != labels:
        raise UserError(
            f"the same weights are at {url} already, with other names of classes ({LABELS_KEY} in {CONFIG}); give these another --name"
        )
    return f"{url}/{WEIGHTS}"


def _digest(store: Store, size: int) -> str | None:
    """The SHA-256 of the weights that are there; None where they are of another size, so are not read."""
    info = store.head(WEIGHTS)
    if info is None or info.size != size:
        return None
    digest = hashlib.sha256()
    for start in range(0, size, CHUNK_BYTES):
        digest.update(store.get_range(WEIGHTS, start, min(CHUNK_BYTES, size - start)))
    return digest.hexdigest()


def _said(store: Store) -> dict[str, Any]:
    """What config.json tells, where one is there."""
    try:
        said = json.loads(store.get(CONFIG))
    except (NotFound, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _facts(source: str, found: Found, data: bytes) -> dict[str, Any]:
    shape = found.config
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in found.state.values()})
    return {
        "file": source,
        "layout": found.layout,
        "preset": preset_of(shape),
        "patch": shape.patch,
        "dim": shape.dim,
        "depth": shape.depth,
        "token_dim": shape.token_dim,
        "channel_dim": shape.channel_dim,
        "classes": shape.classes,
        "image_size": shape.image_size,
        "activation": shape.activation,
        "mixer": shape.mixer,
        "params": cost(shape).params,
        "precision": ", ".join(kinds),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "notes": [
            *found.notes,
            *([] if kinds == ["float32"] else ["written in float32, as runs keep their weights"]),
        ],
    }


def _spec_line(url: str, facts: dict[str, Any]) -> str:
    """What to put into a spec to start from these weights."""
    shape = {"preset": facts["preset"]} if facts["preset"] else {}
    if not shape:
        hidden = ["token_dim"] if facts["mixer"] in WITH_TOKEN_DIM else []  # the others ignore it
        shape = {key: facts[key] for key in ("patch", "dim", "depth", *hidden, "channel_dim")}
    if facts["mixer"] != "mlp":
        shape["mixer"] = facts["mixer"]
    shape |= {key: facts[key] for key in ("classes", "image_size", "activation")}
    return "model: {" + ", ".join(f"{key}: {value}" for key, value in shape.items()) + f", init: {url}}}"


def _origin(path: Path, source: str) -> dict[str, str]:
    whole = path / WEIGHTS if path.is_dir() else path
    with whole.open("rb") as file:
        return {
            "file": source.rstrip("/").rsplit("/", 1)[-1],
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _name_of(source: str) -> str:
    """The file's name without suffix; of a `model.safetensors` its folder's."""
    path = Path(source.partition("://")[2] or source)
    if path.name == WEIGHTS and path.parent.name:
        path = path.parent
    stem = path.stem if path.suffix in FILES else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")


def _checked_name(name: str | None, source: str) -> str:
    """`name`, or what the file is called where that is one. UserError."""
    wanted = _name_of(source) if name is None else name
    if not NAME.fullmatch(wanted):
        given = (
            f"{source} has no name that fits; give one by --name" if name is None else f"--name got {name!r}"
        )
        raise UserError(f"{given}: lower case letters, digits, `-`, `_` and `.`, at most 82")
    return wanted
