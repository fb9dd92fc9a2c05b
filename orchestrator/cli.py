"""The command `mixer`. Thin: each command asks one module, prints what it says, and ends with its exit code.

Exit codes: 0 done, 1 the run failed, 2 the user can fix it (one line), 3 stopped or preempted and resumable. Nothing heavy is imported
here: `--help` and the errors of a spec answer without torch and ray.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from orchestrator import cli_nodes
from orchestrator.errors import RESUMABLE, USAGE, MixerError, SpecError, UserError

app = typer.Typer(
    name="mixer",
    help="Pretrain MLP-Mixer on clusters that lose machines.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 you can mend it, 3 stopped or preempted and resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cluster_app = typer.Typer(help="Start and end clusters.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cluster_app, name="cluster")
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


def main() -> None:
    """The console script."""
    from clusters.jobs_client import JobError
    from clusters.local_state import ClusterError
    from clusters.object_store import ObjectStoreError
    from data_pipeline.errors import DataError

    try:
        app(standalone_mode=True)
    except SpecError as error:
        _fail("\n".join(error.problems), USAGE)
    except MixerError as error:
        _fail(str(error), error.exit_code)
    except (DataError, ClusterError, JobError, ObjectStoreError) as error:
        _fail(str(error), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; a run that was led from here is resumable", RESUMABLE)


def _fail(text: str, code: int) -> None:
    err.print(f"mixer: {text}", markup=False)
    sys.exit(code)


def _say(quiet: bool = False) -> Callable[[str], None]:
    """One line of progress: to stderr where stdout is JSON."""
    console = err if quiet else out
    return lambda text: console.print(text, markup=False)


def _print_json(tree: Any) -> None:
    sys.stdout.write(json.dumps(tree, indent=2) + "\n")


def _print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        out.print(f"{key:>16}  {value}", markup=False)


# -- data -------------------------------------------------------------------------------------------------------------------
@app.command()
def pack(
    source: Annotated[
        str, typer.Argument(help="sklearn:digits, a folder of class folders, or a CSV/JSONL of path,label")
    ],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="s3://bucket/prefix or a folder")],
    val_share: Annotated[
        float | None,
        typer.Option(
            help="share of the images put into DEST/val, the rest into DEST/train; else all into DEST (digits: 0.2)"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="scale longer images down to this many pixels per short side")
    ] = None,
    shard_mb: Annotated[float | None, typer.Option(help="size of a shard in MB; else 134")] = None,
    seed: Annotated[int, typer.Option(help="of the split and of the mixing at write time")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave out images that do not decode, and list them")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace shards that lie in DEST")] = False,
    as_json: Json = False,
) -> None:
    """Pack images into WebDataset shards with an index."""
    from data_pipeline.pack import pack as run_pack

    shard_bytes = int(shard_mb * 1e6) if shard_mb else None
    options: dict[str, Any] = {"val_share": val_share, "size": size, "shard_bytes": shard_bytes, "seed": seed}
    with _bar("packing", as_json) as progress:
        facts = run_pack(
            source, dest, **options, skip_broken=skip_broken, overwrite=overwrite, progress=progress
        )
    if as_json:
        _print_json(facts)
        return
    for found in facts["sets"]:
        out.print(
            f"{found['url']}: {found['samples']} images, {len(found['classes'])} classes, {found['shards']} shards, "
            f"{found['bytes'] / 1e6:.1f} MB, digest {found['digest'][:12]}",
            markup=False,
        )
    for item in facts["skipped"]:
        out.print(f"left out {item['path']}: {item['why']}", markup=False)


@app.command()
def index(url: Annotated[str, typer.Argument(help="where the shards lie")], as_json: Json = False) -> None:
    """Index shards that somebody else wrote."""
    from data_pipeline.index import build_index

    with _bar("indexing", as_json) as progress:
        facts = build_index(url, progress=progress)
    short = {key: value for key, value in facts.items() if key != "shards"} | {"shards": len(facts["shards"])}
    _print_json(facts) if as_json else _print_facts(short)


@app.command()
def verify(
    url: Annotated[
        str, typer.Argument(help="packed or indexed shards, or <store>/runs/<run> for its checkpoints")
    ],
    as_json: Json = False,
) -> None:
    """Read everything, compare it with the index (of a run: with its manifests), and say what is wrong."""
    if _is_run(url):
        problems = _verify_run(url)
    else:
        from data_pipeline.verify import verify as run_verify

        with _bar("verifying", as_json) as progress:
            problems = [str(problem) for problem in run_verify(url, progress=progress).problems]
    if as_json:
        _print_json({"url": url, "whole": not problems, "problems": problems})
    else:
        for line in problems or [f"{url}: every byte is what was written"]:
            out.print(line, markup=False)
    raise typer.Exit(1 if problems else 0)


def _is_run(url: str) -> bool:
    from orchestrator.run_store import Run

    return "/runs/" in url and Run(url).exists()


def _verify_run(url: str) -> list[str]:
    from data_pipeline.errors import StoreError
    from orchestrator import checkpoints
    from orchestrator.launch import find_run
    from orchestrator.run_log import live_checkpoints

    run = find_run(url)
    problems: list[str] = []
    for entry in live_checkpoints(run.log().entries):
        try:
            manifest = checkpoints.load_manifest(run.store, entry.facts["path"], entry.facts["sha256"])
            problems += checkpoints.verify(run.store, entry.facts["path"], manifest)
        except (MixerError, StoreError) as error:
            problems.append(str(error))
    return problems


@contextmanager
def _bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a callback of (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


# -- runs -------------------------------------------------------------------------------------------------------------------
@app.command()
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
    from orchestrator.launch import lead, resolve
    from orchestrator.watch import watching

    resolved = resolve(target, store=store, name=name, overrides=overrides or [])
    out.print(f"run {resolved.run.name}  {resolved.run.url}", markup=False)
    with watching(resolved.run, resolved.frozen.steps, out) as say:
        code = lead(resolved, take_over=take_over, say=say)
    raise typer.Exit(code)


def _check_spec(target: str, overrides: list[str] | None) -> None:
    """Say what is wrong with a spec before anything slower is loaded."""
    from orchestrator.spec import load_spec

    if Path(target).suffix in (".yaml", ".yml"):
        load_spec(target, overrides or [])


@app.command()
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
        say=_say(as_json),
        driver_resources=driver_resources or [],
    )
    _print_json(facts) if as_json else _print_facts(facts)


@app.command("ls")
def list_command(store: Store = None, as_json: Json = False) -> None:
    """The runs of a store."""
    from orchestrator.launch import default_store
    from orchestrator.listing import list_store

    rows = list_store(default_store(store))
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        out.print(
            f"{row['run']:<32} {row['state']:<10} step {row['step']}/{row['steps']}  {row['since']}",
            markup=False,
        )


@app.command()
def status(run: RunName, store: Store = None, as_json: Json = False) -> None:
    """What a run is doing, and where its seconds went."""
    from orchestrator.launch import find_run
    from orchestrator.status import Book
    from orchestrator.tables import status_table

    book = Book(find_run(run, store))
    facts = book.status()
    _print_json(facts) if as_json else out.print(status_table(facts))


@app.command()
def logs(
    run: RunName,
    store: Store = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the run ends")] = False,
    as_json: Json = False,
) -> None:
    """What happened to a run, line by line; with --json the entries of its log."""
    from orchestrator.follow import print_logs
    from orchestrator.launch import find_run

    found = find_run(run, store)
    if as_json:
        _print_json([json.loads(entry.to_bytes()) for entry in found.log().entries])
    else:
        print_logs(found, follow=follow, say=_say())


@app.command()
def stop(
    run: RunName,
    store: Store = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until the run has left")] = True,
    as_json: Json = False,
) -> None:
    """Save, then leave. The run can be resumed by its name."""
    from orchestrator.follow import stop_run
    from orchestrator.launch import find_run

    _answer(run, stop_run(find_run(run, store), wait=wait), as_json)


@app.command()
def scale(
    run: RunName,
    size: Annotated[str, typer.Argument(metavar="MIN:MAX", help="workers, for example 2:8")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Change how many workers a run may use. Where that changes its size, it saves and restarts at once."""
    from orchestrator.follow import scale_run
    from orchestrator.launch import find_run

    _answer(run, scale_run(find_run(run, store), size), as_json)


def _answer(run: str, text: str, as_json: bool) -> None:
    _print_json({"run": run, "answer": text}) if as_json else out.print(text, markup=False)


@app.command()
def report(
    run: RunName,
    store: Store = None,
    path: Annotated[
        Path | None, typer.Option("-o", "--out", help="the HTML file; else <run>.html here")
    ] = None,
    as_json: Json = False,
) -> None:
    """A page with the loss curve, the faults and the ledger; with --json the committed history, step by step."""
    from orchestrator.launch import find_run
    from orchestrator.report import write_report
    from orchestrator.status import Book

    book = Book(find_run(run, store))
    if as_json:
        _print_json(
            {
                "run": book.run.name,
                "history": [line.as_json() for line in book.history],
                "ledger": book.ledger.seconds,
            }
        )
        return
    out.print(str(write_report(book, path or Path(f"{book.run.name}.html"))), markup=False)


@app.command("eval")
def eval_command(run: RunName, store: Store = None, as_json: Json = False) -> None:
    """Accuracy of the newest checkpoint on the validation set, here, in one process."""
    from orchestrator.launch import find_run
    from orchestrator.weights import evaluate_run

    facts = evaluate_run(find_run(run, store))
    _print_json(facts) if as_json else _print_facts(facts)


@app.command()
def export(
    run: RunName,
    store: Store = None,
    form: Annotated[
        str, typer.Option("--format", help="safetensors or timm (the same names in one file)")
    ] = "safetensors",
    path: Annotated[
        Path | None, typer.Option("-o", "--out", help="the file; else <run>.safetensors here")
    ] = None,
    as_json: Json = False,
) -> None:
    """The newest checkpoint's weights, in a file that the rest of the field loads."""
    from orchestrator.launch import find_run
    from orchestrator.weights import export_run

    if form not in ("safetensors", "timm"):
        raise UserError(f"--format got {form}; allowed: safetensors, timm (onnx is not there yet)")
    found = find_run(run, store)
    made = export_run(found, path or Path(f"{found.name}.safetensors"))
    _print_json({"run": found.name, "file": str(made)}) if as_json else out.print(str(made), markup=False)


@app.command()
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


# -- clusters ---------------------------------------------------------------------------------------------------------------
app.command()(cli_nodes.notice)


@cluster_app.command("up")
def cluster_up(
    name: Annotated[str, typer.Argument(help="`local`: Ray on this machine")] = "local",
    nodes: Annotated[int, typer.Option(help="raylets")] = 1,
    cpus: Annotated[
        int | None, typer.Option(help="CPUs per node, as Ray counts them; else this machine's, divided")
    ] = None,
    durable: Annotated[
        bool,
        typer.Option(
            "--durable", help="a head of its own that keeps its state; `up` again restarts it when it died"
        ),
    ] = False,
) -> None:
    """Start a Ray cluster, with token authentication, on loopback; or the lost head of a durable one."""
    from clusters import local

    _known_cluster(name)
    made = local.up(nodes=nodes, cpus=cpus, durable=durable)
    out.print(f"{len(made.nodes)} node(s) up; dashboard {made.dashboard}", markup=False)
    out.print(
        "`mixer submit SPEC --cluster local` sends a run there; `mixer cluster down local` ends it",
        markup=False,
    )


@cluster_app.command("down")
def cluster_down(name: Annotated[str, typer.Argument(help="`local`")] = "local") -> None:
    """End a cluster that `up` started, and only that."""
    from clusters import local

    _known_cluster(name)
    out.print("ended" if local.down(name) else "there was none", markup=False)


def _known_cluster(name: str) -> None:
    if name != "local":
        raise UserError(
            f"cluster got {name!r}; this version knows `local` (Slurm, Kubernetes and clouds are not there yet)"
        )
