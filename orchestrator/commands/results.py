"""Commands for what a run has come to: report, look, eval; and the demo, which does it all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.commands.shared import (
    Json,
    RunName,
    Set,
    Store,
    bar,
    named_bar,
    out,
    out_option,
    print_facts,
    print_json,
    say,
    writing,
)
from orchestrator.errors import UserError

SEEDS = 3  # of few-shot probes, as in the paper


def report(
    run: RunName,
    store: Store = None,
    path: Annotated[
        Path | None,
        out_option("the HTML file, else <run>.html here; of --weights the PNG, else <run>-weights.png"),
    ] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="instead of the page a picture of the newest weights: token mixing and the stem's filters",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """A page with the loss curve, the faults, the ledger and pictures of the weights; with --json the committed history, step by step."""
    if weights and path is not None and path.suffix.lower() != ".png":
        raise UserError(f"--out got {path}; with --weights it is a picture: give a name that ends in .png")
    from orchestrator.accounts.status import Book
    from orchestrator.pages.report import write_report
    from orchestrator.stores import find_run

    book = Book(find_run(run, store))
    if weights:
        from orchestrator.pages.gallery import write_weights

        path = path or Path(f"{book.run.name}-weights.png")
        with writing(path):
            made = write_weights(book, path)
        print_json(made) if as_json else out.print(made["file"], markup=False)
        return
    if as_json:
        print_json(
            {
                "run": book.run.name,
                "history": [line.as_json() for line in book.history],
                "ledger": book.ledger.seconds,
            }
        )
        return
    path = path or Path(f"{book.run.name}.html")
    with writing(path):
        out.print(str(write_report(book, path)), markup=False)


def look(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|SPEC", help="a run's name, or a spec (.yaml) of which there is no run yet"
        ),
    ],
    store: Store = None,
    overrides: Set = None,
    step: Annotated[
        int | None,
        typer.Option("--step", help="1 is the first; else the run's next step, of a finished run its last"),
    ] = None,
    path: Annotated[
        Path | None,
        out_option("the PNG; else <run>-step-<step>.png here"),
    ] = None,
    slots: Annotated[
        str | None,
        typer.Option("--slots", metavar="A:B", help="show the micro-batches in slots A to B-1, whole"),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", help="show the first so many of the step's images; else up to 64"),
    ] = None,
    as_json: Json = False,
) -> None:
    """A picture of the batch that a step trains on: after crop, flip, RandAugment and mixup, with labels and sample ids."""
    if slots is not None and images is not None:
        raise UserError("--slots and --images were both given; give one of them")
    wanted = _slots(slots) if slots is not None else None
    from orchestrator.pages.look import look as run_look
    from orchestrator.view import view

    seen = view(target, store=store, overrides=overrides or [], step=step)
    path = path or Path(f"{seen.name}-step-{seen.step}.png")
    with writing(path):
        facts = run_look(seen, path, slots=wanted, images=images, say=say(quiet=True))
    if as_json:
        print_json(facts)
        return
    print_facts({key: value for key, value in facts.items() if key not in ("samples", "scale")})


def _slots(text: str) -> range:
    first, colon, last = text.partition(":")
    if not (first.isdecimal() and (last.isdecimal() or not colon)):
        raise UserError(
            f"--slots got {text!r}; give A:B, for example 0:4 for the first four, or the number of one"
        )
    return range(int(first), int(last) if colon else int(first) + 1)


def eval_command(
    run: RunName,
    store: Store = None,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop",
            help="resmall-crop or resize-crop (the paper's two), whole, auto; else the spec's data.eval_crop",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="URL", help="a packed or indexed set; else the run's data.val"),
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(
            "--few-shot",
            metavar="N",
            help="instead: accuracy of a linear probe on the features, fitted to N images of each class; repeatable",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", help=f"of --few-shot: how often the images are drawn; else {SEEDS}", min=1),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(
            "--train-data",
            metavar="URL",
            help="of --few-shot: the set to take the images from; else the run's data.train",
        ),
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(
            "--pool",
            min=1,
            help="of --few-shot: samples of that set that may be read; else 65 for each class",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Accuracy of the newest checkpoint on the validation set, here, in one process; with --few-shot, of its features."""
    from orchestrator.stores import find_run

    if shots:
        sets = {"crop": crop, "data": data, "train_data": train_data}
        _few_shot(find_run(run, store), as_json, sets, tuple(sorted(set(shots))), seeds or SEEDS, pool)
        return
    if train_data or pool or seeds:
        raise UserError("--train-data, --pool and --seeds go with --few-shot N")
    from orchestrator.weights.network import evaluate_run

    with bar("evaluating", as_json) as tell:
        facts = evaluate_run(find_run(run, store), crop=crop, data=data, tell=tell)
    print_json(facts) if as_json else print_facts(facts)


def _few_shot(run: Any, as_json: bool, sets: dict[str, str | None], *wanted: Any) -> None:
    from orchestrator.weights.probe import Wanted, few_shot, lines

    with named_bar(as_json) as tell:
        facts = few_shot(run, Wanted(*wanted), tell=tell, **sets)
    print_json(facts) if as_json else out.print("\n".join(lines(facts)), markup=False)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="leave the bucket, its server and the runs to play with")
    ] = False,
    folder: Annotated[Path, typer.Option("--folder", help="where the demo puts what it makes")] = Path(
        "mixer-demo"
    ),
    as_json: Json = False,
) -> None:
    """All of it on this machine in minutes: pack, train, kill a worker, recover, compare, report."""
    from orchestrator.demo import run_demo

    raise typer.Exit(run_demo(folder, keep=keep, as_json=as_json))
