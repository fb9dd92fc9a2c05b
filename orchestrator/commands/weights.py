"""Commands for weights: import (somebody's, for a run to start from), export (a run's, for others to load)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.commands.shared import (
    Json,
    RunName,
    Store,
    out,
    out_option,
    print_facts,
    print_json,
    say,
    writing,
)
from orchestrator.errors import UserError

FORMATS = ("safetensors", "timm", "npz", "onnx", "tensorboard")


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Google's .npz, timm's .safetensors, .pth or .bin, or an export of mixer; a path, or an s3:// url",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="its name in the store, <store>/weights/<name>; else the file's"),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            "--activation",
            help="gelu (erf) or gelu_tanh; else what the file says, or gelu_tanh of an .npz, gelu of timm's",
        ),
    ] = None,
    store: Store = None,
    path: Annotated[
        Path | None,
        out_option("write a .safetensors, or a folder, here instead of into a store"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Weights from elsewhere, checked whole, as a run's starting point; prints what they are and the line for a spec."""
    if path is not None and store is not None:
        raise UserError("--out and --store were both given; give one of them")
    from orchestrator.weights.importing import import_weights

    facts = import_weights(source, name=name, activation=activation, store=store, out=path)
    if as_json:
        print_json(facts)
        return
    print_facts(
        {
            key: _shown(value)
            for key, value in facts.items()
            if key not in ("notes", "mixer") and value is not None
        }
    )
    for note in facts["notes"]:
        out.print(f"{'note':>16}  {note}", markup=False)


def _shown(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) and value >= 100_000 else value


def export(
    run: RunName,
    store: Store = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors; timm (the same names; a folder for create_model, a .safetensors or .pth); npz (Google's); "
            "onnx; tensorboard: the curves of the committed history",
        ),
    ] = "safetensors",
    path: Annotated[
        Path | None,
        out_option(
            "the file, else <run>.safetensors, .npz or .onnx here; of tensorboard the folder, else <run>-tensorboard"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The newest checkpoint's weights, or the run's curves, in a file that the rest of the field loads."""
    from orchestrator.stores import find_run

    if form not in FORMATS:
        raise UserError(f"--format got {form}; allowed: {', '.join(FORMATS)}")
    found = find_run(run, store)
    if form == "tensorboard":
        from orchestrator.accounts.curves import export as export_curves
        from orchestrator.accounts.status import Book

        path = path or Path(f"{found.name}-tensorboard")
        with writing(path):
            facts: dict[str, Any] = {"run": found.name, "file": str(export_curves(Book(found), path))}
    else:
        from orchestrator.weights.network import export_as

        with writing(path or Path.cwd()):
            facts = export_as(found, path, form)
    if as_json:
        print_json(facts)
        return
    out.print(facts["file"], markup=False)
    for note in facts.get("notes", []):
        say(quiet=True)(note)
