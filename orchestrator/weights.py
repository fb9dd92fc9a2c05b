"""The newest checkpoint's weights as one ordinary network: for evaluation and for export. No process group, no DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from data_pipeline.augment import EvalCrop
from mixer_model import interop
from mixer_model.losses import LOSSES
from mixer_model.mixer import Mixer, to_input
from orchestrator import checkpoints
from orchestrator.errors import UserError
from orchestrator.frozen import Frozen, bind
from orchestrator.launch import absolute, data_facts
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run, effective
from orchestrator.training.data import evaluation_batches, open_dataset
from orchestrator.training.engine import Place, build_model
from orchestrator.training.evaluate import NOTHING, added, facts, scores

Tell = Callable[[int, int], None]


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
def evaluate_run(
    run: Run, *, crop: str | None = None, data: str | None = None, tell: Tell = lambda done, total: None
) -> dict[str, Any]:
    """Top-1 and top-5 accuracy and loss of the newest checkpoint over the whole validation set, in fp32.

    `crop` is another of `data.eval_crop`, `data` another set of the same classes. `tell` hears of samples (done, all).
    """
    model, frozen, step = load_network(run)
    frozen = evaluated_as(frozen, crop, data)
    spec, place, val = frozen.spec, here(), frozen.spec.data.val
    if val is None or frozen.val is None:
        raise UserError(f"{run.name} has no data.val; give --data URL, or start it with --set data.val=...")
    model, loss = model.to(place.device), LOSSES[spec.model.loss]
    sums: Sequence[float] = NOTHING
    for images, labels, real in evaluation_batches(frozen, open_dataset(val, frozen.val), place):
        logits = model(to_input(images.to(place.device))).cpu()
        sums = added(sums, scores(logits, labels, real, loss(logits, labels)))
        tell(int(sums[-1]), frozen.val.samples)
    seen = {"run": run.name, "step": step, "data": val, "crop": spec.data.eval_crop}
    return {**seen, **facts(sums, spec.model.classes)}


def evaluated_as(frozen: Frozen, crop: str | None, data: str | None) -> Frozen:
    """The run with another evaluation crop or another validation set. UserError for one that does not fit."""
    crops = get_args(EvalCrop)
    if crop is not None and crop not in crops:
        raise UserError(f"--crop got {crop}; allowed: {', '.join(crops)}")
    changed = {"eval_crop": crop, "val": absolute(data) if data else None}
    section = frozen.spec.data.model_copy(update={key: value for key, value in changed.items() if value})
    spec = frozen.spec.model_copy(update={"data": section})
    val = data_facts(spec)[1] if data else frozen.val
    return bind(spec, frozen.train, val, code=frozen.code, geometry=frozen.geometry)


def here() -> Place:
    """This process alone: on its GPU, where it has one."""
    return Place(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def export_run(run: Run, path: Path) -> Path:
    """Write the newest weights to `path` as safetensors with timm's parameter names."""
    model, _, _ = load_network(run)
    interop.export_safetensors(model.state_dict(), path, model.config)
    return path
