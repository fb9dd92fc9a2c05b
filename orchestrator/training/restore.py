"""Fill an engine from a checkpoint: any world size and stage from any other, by ranges, straight from the bucket.

The engine says which slices this rank holds now; exactly those bytes are fetched and proven; the rest is never read.
"""

from __future__ import annotations

import numpy as np
import torch

from data_pipeline.storage import Store
from orchestrator import checkpoints
from orchestrator.checkpoints import Float32, Manifest, Want
from orchestrator.errors import UserError
from orchestrator.training.engine import Engine


def restore(engine: Engine, store: Store, path: str, sha256: str | None = None) -> Manifest:
    """Load the checkpoint at `path` into `engine`. Collective. DamagedCheckpoint when its bytes are not what was saved."""
    manifest = checkpoints.load_manifest(store, path, sha256)
    if manifest.params != engine.shapes:
        raise UserError(
            f"{path}: its parameters are not those of this model; use the version of mixer that began the run"
        )
    views = [
        (Want(fragment.param, kind, fragment.start, fragment.length), view)
        for fragment in engine.to_fill()
        for kind, view in fragment.views.items()
    ]

    def sink(number: int, at: int, values: Float32) -> None:
        target = views[number][1]
        target[at : at + len(values)].copy_(torch.from_numpy(np.array(values)))

    checkpoints.read(store, path, manifest, [want for want, _ in views], sink)
    engine.filled(manifest.state["updates"])
    return manifest
