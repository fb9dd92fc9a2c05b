"""Commands that begin, watch and steer a run: recipes, train, submit, ls, status, logs, stop, scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.commands.shared import (
    Json,
    Name,
    RunName,
    Set,
    SpecOrRun,
    Store,
    out,
    print_facts,
    print_json,
    say,
)


def train(
    target: SpecOrRun,
    store: Store = None,
    name: Name = None,
    overrides: Set = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="lead the run although another driver looks alive")
    ] = False,
) -> None:
    """Train in the foreground, here or on the cluster at RAY_ADDRESS. Starts or resumes."""
    _check_spec(target, overrides)
    from orchestrator.launch import lead
    from orchestrator.recipe_page import said
    from orchestrator.resolving import resolve
    from orchestrator.watch import watching

    resolved = resolve(target, store=store, name=name, overrides=overrides or [])
    told = (*said(resolved.frozen.spec), *resolved.frozen.remarks)
    for line in (f"run {resolved.run.name}  {resolved.run.url}", *told):
        out.print(line, markup=False)
    if resolved.frozen.init:
        out.print(f"begun from {resolved.frozen.init.words}", markup=False)
    with watching(resolved.run, resolved.frozen.steps, out) as tell:
        code = lead(resolved, take_over=take_over, say=tell)
    raise typer.Exit(code)


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one of them, as YAML")] = None,
    as_json: Json = False,
) -> None:
    """Published ways to train, for a spec's `recipe:`; with NAME the keys it stands for, and its source."""
    from mixer_model.recipes import RECIPES
    from orchestrator import recipe_page
    from orchestrator.recipe import named

    if name is not None:
        found = named(name)
        print_json(recipe_page.as_json(found)) if as_json else out.print(
            recipe_page.as_yaml(found), end="", markup=False
        )
    elif as_json:
        print_json([recipe_page.as_json(each) for each in RECIPES.values()])
    else:
        out.print(recipe_page.recipes_table())


def _check_spec(target: str, overrides: list[str] | None) -> None:
    """Say what is wrong with a spec before anything slower is loaded."""
    from orchestrator.spec_text import load_spec

    if Path(target).suffix in (".yaml", ".yml"):
        load_spec(target, overrides or [])


def submit(
    target: SpecOrRun,
    store: Store = None,
    name: Name = None,
    overrides: Set = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="`local`, or a dashboard address; else RAY_ADDRESS")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="lead the run although another driver looks alive")
    ] = False,
    driver_resources: Annotated[
        list[str] | None,
        typer.Option(
            "--driver-resources",
            metavar="KEY=N",
            envvar="MIXER_DRIVER_RESOURCES",
            help="put the driver on a node with these free (CPU=1, or a custom resource), not on the head; repeatable",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on a Ray cluster as a Ray job; the code travels along, this machine may go away. Prints the run's name."""
    _check_spec(target, overrides)
    from orchestrator.submit import submit as run_submit

    facts = run_submit(
        target,
        store=store,
        name=name,
        overrides=overrides or [],
        cluster=cluster,
        take_over=take_over,
        say=say(as_json),
        driver_resources=driver_resources or [],
    )
    print_json(facts) if as_json else print_facts(facts)


def list_command(store: Store = None, as_json: Json = False) -> None:
    """The runs of a store."""
    from orchestrator.listing import list_store
    from orchestrator.stores import default_store

    rows = list_store(default_store(store))
    if as_json:
        print_json(rows)
        return
    for row in rows:
        out.print(
            f"{row['run']:<32} {row['state']:<10} step {row['step']}/{row['steps']}  {row['since']}",
            markup=False,
        )


def status(
    run: RunName,
    store: Store = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="RUN",
            help="another run: whether both trained on the same samples; exit 1 where not",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a run is doing, and where its seconds went."""
    from orchestrator.accounts.status import Book
    from orchestrator.stores import find_run
    from orchestrator.tables import status_table

    book = Book(find_run(run, store))
    if other is not None:
        _compare(book, Book(find_run(other, store)), as_json)
    facts = book.status()
    print_json(facts) if as_json else out.print(status_table(facts))


def _compare(one: Any, two: Any, as_json: bool) -> None:
    """Two runs by the samples of the committed steps that both have."""
    from orchestrator.accounts.history import compare
    from orchestrator.accounts.status import same_epochs

    facts = {
        "run": one.run.name,
        "other": two.run.name,
        **compare(one.history, two.history),
        **same_epochs(one, two),
    }
    print_json(facts) if as_json else print_facts(facts)
    raise typer.Exit(0 if facts["alike"] else 1)


def logs(
    run: RunName,
    store: Store = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the run ends")] = False,
    as_json: Json = False,
) -> None:
    """What happened to a run, line by line; with --json the entries of its log."""
    from orchestrator.follow import print_logs
    from orchestrator.stores import find_run

    found = find_run(run, store)
    if as_json:
        print_json([json.loads(entry.to_bytes()) for entry in found.log().entries])
    else:
        print_logs(found, follow=follow, say=say())


def stop(
    run: RunName,
    store: Store = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until the run has left")] = True,
    as_json: Json = False,
) -> None:
    """Save, then leave. The run can be resumed by its name."""
    from orchestrator.follow import stop_run
    from orchestrator.stores import find_run

    _answer(run, stop_run(find_run(run, store), wait=wait), as_json)


def scale(
    run: RunName,
    size: Annotated[str, typer.Argument(metavar="MIN:MAX", help="workers, for example 2:8")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Change how many workers a run may use. Where that changes its size, it saves and restarts at once."""
    from orchestrator.follow import scale_run
    from orchestrator.stores import find_run

    _answer(run, scale_run(find_run(run, store), size), as_json)


def _answer(run: str, text: str, as_json: bool) -> None:
    print_json({"run": run, "answer": text}) if as_json else out.print(text, markup=False)
