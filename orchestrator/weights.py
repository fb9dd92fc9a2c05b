"""The newest checkpoint's weights as one ordinary network: for evaluation and for export. No process group, no DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mixer_model import interop
from mixer_model.losses import is_right
from mixer_model.mixer import Mixer, to_input
from orchestrator import checkpoints
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run, effective
from orchestrator.training.data import evaluation_batches, open_dataset
from orchestrator.training.engine import Place, build_model


def load_network(run: Run) -> tuple[Mixer, Frozen, int]:
    """The network with the newest committed weights (fp32, on the CPU), the run's spec, and the weights' step."""
    entries = run.log().entries
    saved = live_checkpoints(entries)
    if not saved:
        raise UserError(
            f"{run.name} has no committed checkpoint yet; `mixer logs {run.name}` shows what it does"
        )
    newest, frozen = saved[-1], effective(run.frozen(), entries)
    path = newest.facts["path"]
    manifest = checkpoints.load_manifest(run.store, path, newest.facts["sha256"])
    model = build_model(frozen.spec)
    whole = checkpoints.read_weights(run.store, path, manifest)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in whole.items()}, strict=True)
    return model.eval(), frozen, manifest.step


@torch.no_grad()
def evaluate_run(run: Run) -> dict[str, Any]:
    """Top-1 accuracy of the newest checkpoint over the whole validation set, in fp32."""
    model, frozen, step = load_network(run)
    if not frozen.spec.data.val or frozen.val is None:
        raise UserError(f"{run.name} has no data.val; give one with --set data.val=... when it is started")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    right = seen = 0
    for images, labels, real in evaluation_batches(
        frozen, open_dataset(frozen.spec.data.val, frozen.val), Place(0, 1, device)
    ):
        logits = model(to_input(images.to(device))).cpu()
        right += int((is_right(logits, labels) & real).sum())
        seen += int(real.sum())
    return {"run": run.name, "step": step, "samples": seen, "accuracy": right / seen}


def export_run(run: Run, path: Path) -> Path:
    """Write the newest weights to `path` as safetensors with timm's parameter names."""
    model, _, _ = load_network(run)
    interop.export_safetensors(model.state_dict(), path, model.config)
    return path
