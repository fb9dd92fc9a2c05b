"""Fill an engine from a checkpoint, or from the weights its run begins with: any world size and stage from any other, by ranges, from
a node's memory or the bucket.

The engine says which slices this rank holds now; exactly those bytes are fetched and proven; the rest is never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from data_pipeline.storage import Store
from orchestrator.checkpoints import reading
from orchestrator.checkpoints.manifest import Float32, Manifest, load_manifest
from orchestrator.checkpoints.reading import Want
from orchestrator.errors import DamagedCheckpoint, UserError
from orchestrator.frozen import InitFacts
from orchestrator.near.client import Near, Source
from orchestrator.training.engine import Engine


def restore(
    engine: Engine, store: Store, path: str, sha256: str | None = None, *, near: Near | None = None
) -> tuple[Manifest, dict[str, int]]:
    """Load the checkpoint at `path` into `engine`; its manifest, and the bytes taken from "here", "far" and "bucket". Collective.

    DamagedCheckpoint when its bytes are not what was saved.
    """
    return _load(engine, store, path, sha256, near or Near(None), engine.kinds)


def begin_from(engine: Engine, store: Store, init: InitFacts) -> dict[str, int]:
    """Fill the weights of a new `engine` with those its run begins with; the bytes taken, as above. Collective.

    UserError when the run's copy of them is not what was frozen: trying again cannot help.
    """
    try:
        return _load(engine, store, init.path, init.manifest, Near(None), ("weight",))[1]
    except DamagedCheckpoint as error:
        raise UserError(
            f"the run's copy of its first weights is damaged: {error}. Begin it again under another --name (model.init: {init.source})"
        ) from error


def _load(
    engine: Engine, store: Store, path: str, sha256: str | None, near: Near, kinds: Sequence[str]
) -> tuple[Manifest, dict[str, int]]:
    manifest = load_manifest(store, path, sha256)
    if manifest.params != engine.shapes:
        raise UserError(
            f"{path}: its parameters are not those of this model; use the version of mixer that began the run"
        )
    views = [
        (Want(fragment.param, kind, fragment.start, fragment.length), view.detach())
        for fragment in engine.to_fill()
        for kind, view in fragment.views.items()
        if kind in kinds
    ]
    source = near.over(store, path, manifest.files)
    _fill(source, path, manifest, [want for want, _ in views], [view for _, view in views])
    engine.filled(manifest.state["updates"])
    return manifest, dict(source.took)


def _fill(store: Source, path: str, manifest: Manifest, wants: list[Want], views: list[torch.Tensor]) -> None:
    """Read `wants` into `views`: straight into host memory, by way of it to a device."""
    if all(view.device.type == "cpu" for view in views):
        reading.fill(store, path, manifest, wants, [view.numpy() for view in views])
        return

    def sink(number: int, at: int, values: Float32) -> None:
        views[number][at : at + len(values)].copy_(torch.from_numpy(values))

    reading.read(store, path, manifest, wants, sink)
