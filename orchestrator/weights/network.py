"""The newest checkpoint's weights as one ordinary network: for evaluation and for export. No process group, no DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import torch

from data_pipeline.pixels.augment import EvalCrop
from data_pipeline.shards.dataset import Dataset
from mixer_model import interop
from mixer_model.config import MixerConfig
from mixer_model.losses import LOSSES
from mixer_model.mixer import Mixer, to_input
from orchestrator.checkpoints.manifest import load_manifest
from orchestrator.checkpoints.reading import read_weights
from orchestrator.classes import check_evaluated, of_run
from orchestrator.errors import UserError
from orchestrator.frozen import DataFacts, Frozen
from orchestrator.run_log import live_checkpoints
from orchestrator.run_store import Run, effective
from orchestrator.training.data import evaluation_batches, open_dataset
from orchestrator.training.engine import Place, build_model
from orchestrator.training.evaluate import NOTHING, added, facts, scores
from orchestrator.urls import IMPORTED, absolute
from orchestrator.weights.beside import free_beside

Tell = Callable[[int, int], None]

SUFFIXES: Final = {"safetensors": ".safetensors", "timm": ".safetensors", "npz": ".npz", "onnx": ".onnx"}
_PICKLED: Final = (".pth", ".bin", ".pt")  # timm's, by torch.save


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
    manifest = load_manifest(run.store, path, newest.facts["sha256"])
    model = build_model(frozen.spec)
    whole = read_weights(run.store, path, manifest)
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
    frozen = evaluated_as(run, frozen, crop, data)
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


def evaluated_as(run: Run, frozen: Frozen, crop: str | None, data: str | None) -> Frozen:
    """The run with another evaluation crop or another validation set. UserError for one that does not fit."""
    crops = get_args(EvalCrop)
    if crop is not None and crop not in crops:
        raise UserError(f"--crop got {crop}; allowed: {', '.join(crops)}")
    changed = {"eval_crop": crop, "val": absolute(data) if data else None}
    section = frozen.spec.data.model_copy(update={key: value for key, value in changed.items() if value})
    spec = frozen.spec.model_copy(update={"data": section})
    val = _facts_of(spec.data.val, run, frozen) if data and spec.data.val else frozen.val
    return replace(frozen, spec=spec, val=val)


def _facts_of(url: str, run: Run, frozen: Frozen) -> DataFacts:
    """The facts of a set to evaluate on. UserError for labels that the network has no output for, or that mean other classes."""
    val, classes = Dataset.open(url), frozen.spec.model.classes
    if val.max_label >= classes:
        raise UserError(
            f"data at {url} has label {val.max_label}; the run has {classes} classes, and labels begin with 0"
        )
    check_evaluated(run, frozen, url, val.classes)
    return DataFacts(val.samples, val.mean_bytes, val.digest)


def here() -> Place:
    """This process alone: on its GPU, where it has one."""
    return Place(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def export_run(run: Run, path: Path) -> Path:
    """Write the newest weights to `path` as safetensors with timm's parameter names."""
    free_beside(path)
    model, frozen, _ = load_network(run)
    interop.export_safetensors(model.state_dict(), path, model.config, _labels(run, frozen))
    return path


def export_as(run: Run, path: Path | None, form: str) -> dict[str, Any]:
    """Write the newest weights in a format of FORMATS: run, step, format, file, the JSON beside it, bytes and notes.

    UserError where the format cannot hold them, the name is another format's, or the JSON's place is taken.
    """
    target = path or Path(f"{run.name}{SUFFIXES[form]}")
    if target.is_dir() and form != "timm":
        target = target / f"{run.name}{SUFFIXES[form]}"
    _check_suffix(target, form)
    beside = _beside(target, form)
    model, frozen, step = load_network(run)
    try:
        notes = _write(model, target, form, _labels(run, frozen))
    except interop.WeightsError as error:
        raise UserError(f"{run.name} cannot be written as {form}: {error}") from error
    return {
        "run": run.name,
        "step": step,
        "format": form,
        "file": str(target),
        "beside": str(beside) if beside else None,
        "bytes": _bytes(target),
        "notes": [*([f"its config is in {beside}"] if beside else []), *notes],
    }


def _check_suffix(target: Path, form: str) -> None:
    """UserError where other programs would take the file for another format than it is."""
    mine = (SUFFIXES[form], *(_PICKLED if form == "timm" else ()))
    if (
        target.suffix in (*SUFFIXES.values(), *_PICKLED, ".json")
        and target.suffix not in mine
        and not target.is_dir()
    ):
        of = next((other for other, suffix in SUFFIXES.items() if suffix == target.suffix), "timm")
        other = "" if target.suffix == ".json" else f", or --format {of}"
        raise UserError(
            f"--out got {target}; --format {form} writes {' or '.join(mine)}: give such a name{other}"
        )


def _beside(target: Path, form: str) -> Path | None:
    """The JSON that is written with it; None where the format has none. UserError where it would replace another one."""
    if form == "onnx":
        return None
    a_file = form != "timm" or target.suffix in (".safetensors", *_PICKLED)
    return free_beside(target if a_file else target / IMPORTED)


def _write(model: Mixer, path: Path, form: str, said: dict[str, list[str]]) -> list[str]:
    """What there is to be said of the file. `said` goes into the JSON beside it."""
    state, shape = model.state_dict(), model.config
    if form == "onnx":
        from mixer_model.interop.onnx import export_onnx

        return [
            f"checked with onnxruntime: logits differ from torch's by at most {export_onnx(state, path, shape):.1e} of the largest"
        ]
    if form == "npz":
        interop.export_google(state, path, shape, said)
        return (
            []
            if shape.activation == "gelu_tanh"
            else ["JAX's code computes GELU by tanh; this network was trained with erf's"]
        )
    if form == "timm":
        interop.export_timm(state, path, shape, said)
        return _how_timm_loads(path, shape)
    interop.export_safetensors(state, path, shape, said)
    return []


def _labels(run: Run, frozen: Frozen) -> dict[str, list[str]]:
    """What the JSON beside the weights says of their classes: the names of the outputs, where they have names."""
    known = of_run(run, frozen)
    return {interop.LABELS_KEY: list(known.names[: frozen.spec.model.classes])} if known else {}


def _how_timm_loads(path: Path, shape: MixerConfig) -> list[str]:
    act = ', act_layer=partial(torch.nn.GELU, approximate="tanh")' if shape.activation == "gelu_tanh" else ""
    name = interop.timm_architecture(shape)
    if path.is_dir() and name:
        return [f'timm.create_model("local-dir:{path}", pretrained=True{act})']
    arguments = {key: value for key, value in interop.timm_arguments(shape).items() if key != "act_layer"}
    inside = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return [f"timm.models.mlp_mixer.MlpMixer({inside}{act}).load_state_dict(..., strict=True)"]


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())
