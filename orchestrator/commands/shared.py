"""What the commands share: their common options, and how they speak."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from orchestrator.errors import UserError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="s3://bucket/prefix or a folder; else the spec's store, MIXER_STORE, or the last one used",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="key.path=value over the spec; repeatable. Of a run that exists only resources may change",
    ),
]


def here(given: str) -> Path:
    """What `-o` got, as a path. UserError for a url: what commands write for people goes to this machine."""
    if "://" in given:
        raise UserError(
            f"--out got {given}; it is a file or folder on this machine: write it here, then copy it there"
        )
    return Path(given)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is written to `path`, on this machine, within. UserError where that cannot be: a folder, below a file, forbidden, full."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {path} cannot be written: {error.strerror or error}; give the name of a file in a folder you may write to"
        ) from error


Json = Annotated[bool, typer.Option("--json", help="print facts as JSON")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="a run's name, or <store>/runs/<name>")]
SpecOrRun = Annotated[
    str,
    typer.Argument(
        metavar="SPEC|RUN",
        help="a spec (.yaml) starts a run, or resumes the one called --name; a run's name resumes it",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="the run's name; else <spec name>-<6 characters>, always a new run. With a SPEC only"
    ),
]


def say(quiet: bool = False) -> Callable[[str], None]:
    """One line of progress: to stderr where stdout is JSON."""
    console = err if quiet else out
    return lambda text: console.print(text, markup=False)


def print_json(tree: Any) -> None:
    sys.stdout.write(json.dumps(tree, indent=2) + "\n")


def print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        out.print(f"{key:>16}  {value}", markup=False)


@contextmanager
def bar(what: str, quiet: bool) -> Iterator[Callable[..., None]]:
    """A progress bar as a callback of (done, total), and of what is done, where that changes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total, now=what: progress.update(
            task, completed=done, total=total, description=now
        )


@contextmanager
def named_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for work in several parts, as a callback of (what is done now, done, total)."""
    with bar("", quiet) as tell:
        yield lambda what, done, total: tell(done, total, what)


@contextmanager
def shard_bar(what: str, quiet: bool) -> Iterator[Callable[[Any], None]]:
    """A progress bar of bytes, with shards counted, as a callback of `data_pipeline.shards.build.Done`."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def tell(done: Any) -> None:
            text = f"{what} {done.shards}/{done.all_shards} shards"
            progress.update(task, completed=done.bytes, total=done.all_bytes, description=text)

        yield tell


def out_option(help: str) -> Any:
    """`-o`: a path on this machine, never a url."""
    return typer.Option("-o", "--out", parser=here, metavar="PATH", help=help)
