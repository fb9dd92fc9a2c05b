"""Many seeded faults on real runs, and whether each run came out as if there had been none.

    python -m benchmarks.survival.chaos --seed 1 --faults 60 [--arena local|hosts|gangs] [--store rgw|folder]
        [--kinds "kill rank,cut power"] [--out FILE]

    python -m benchmarks.survival.chaos --totals

Needs Ceph RGW (`make test-deps`) unless --store folder. Writes totals, every fault and what the run did next to
benchmarks/results/chaos-<arena>-<seed>.json; --totals adds up the files that are there. Exit code 0 when nothing was lost, 1 when
something was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from benchmarks.report import machine, versions
from tests import ceph
from tests.chaos.gangs import on_gangs
from tests.chaos.judge import Verdict
from tests.chaos.on_hosts import on_hosts
from tests.chaos.scene import Scene, on_folder, on_rgw
from tests.chaos.schedule import plan
from tests.chaos.schedules import Told, run_schedule
from tests.hosts import reason_missing

ARENAS = "raylets of this machine, hosts of network namespaces (as root), or gangs without Ray"
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> int:
    args = _arguments()
    if args.totals:
        return _totals(Console(highlight=False))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # so that nothing is left running
    console = Console(stderr=True, highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        with _scene(args, folder) as scene:
            kinds = args.kinds.split(",") if args.kinds else sorted(scene.kinds)
            if impossible := sorted(set(kinds) - scene.kinds):
                print(f"--kinds got {impossible}; possible here: {', '.join(sorted(scene.kinds))}")
                return 2
            told = _play(scene, args, kinds, console)
    finally:
        print(f"what the drivers said is in {folder}") if args.keep else shutil.rmtree(folder)
    _show(told.verdict, console)
    return 0 if told.verdict.clean else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="seeded faults on real runs")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int)
    what.add_argument("--totals", action="store_true", help="add up benchmarks/results/chaos-*.json")
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--store", choices=("rgw", "folder"), default="rgw")
    parser.add_argument("--arena", choices=("local", "hosts", "gangs"), default="local", help=ARENAS)
    parser.add_argument("--kinds", help="with commas between; else all that can be done here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave what the drivers printed")
    return parser.parse_args()


@contextmanager
def _scene(args: argparse.Namespace, folder: Path) -> Iterator[Scene]:
    if args.arena == "hosts" and (reason := reason_missing()):
        sys.exit(reason)
    with ExitStack() as stack:
        gateway = stack.enter_context(_gateway(folder)) if args.store == "rgw" else None
        match args.arena:
            case "hosts":
                yield stack.enter_context(on_hosts(folder, steps=args.steps, gateway=gateway, seed=args.seed))
            case "gangs":
                gangs = on_gangs(folder, steps=args.steps, mark=folder.name, server=gateway, seed=args.seed)
                yield stack.enter_context(gangs)
            case _ if gateway:
                scene = on_rgw(gateway, folder, bucket="chaos", steps=args.steps, seed=args.seed)
                yield stack.enter_context(scene)
            case _:
                yield stack.enter_context(on_folder(folder, steps=args.steps))


@contextmanager
def _gateway(folder: Path) -> Iterator[ceph.Gateway]:
    if reason := ceph.missing():
        sys.exit(reason)
    os.environ.pop("AWS_PROFILE", None)
    (folder / "ceph").mkdir()
    with ceph.running(folder / "ceph") as gateway:
        yield gateway


def _play(scene: Scene, args: argparse.Namespace, kinds: list[str], console: Console) -> Told:
    """All of the schedule. The file is written after each run, so that what ends early has not been for nothing."""
    out = args.out or RESULTS / f"chaos-{args.arena}-{args.seed}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    told = Told(Verdict(seed=args.seed))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("faults", total=args.faults)

        def tell(line: str, faults: int) -> None:
            progress.console.print(line, markup=False)
            progress.advance(bar, faults)

        planned = plan(args.seed, args.faults, kinds)
        for told in run_schedule(scene, planned, seed=args.seed, tell=tell):
            out.write_text(json.dumps(_facts(args, told), indent=1) + "\n")
    return told


def _facts(args: argparse.Namespace, told: Told) -> dict[str, Any]:
    command = f"python -m benchmarks.survival.chaos --seed {args.seed} --faults {args.faults}"
    command += f" --steps {args.steps} --arena {args.arena} --store {args.store}"
    command += f' --kinds "{args.kinds}"' if args.kinds else ""
    return {"command": command, "machine": machine(), "versions": versions(), **told.as_json()}


COUNTS = ("faults", "runs_lost", "samples_skipped", "samples_repeated", "losses_unequal", "silent")


def _totals(console: Console) -> int:
    """All files of results, one a line, and their sum."""
    short = [name.removeprefix("samples_").removeprefix("losses_").replace("_", " ") for name in COUNTS]
    table = Table(Column("schedule", no_wrap=True), "steps", *short, title="chaos")
    sums: Counter[str] = Counter()
    for path in sorted(RESULTS.glob("chaos-*.json")):
        found = json.loads(path.read_text())
        counted = {name: int(found[name]) for name in ("steps", *COUNTS)}
        sums.update(counted)
        table.add_row(path.stem.removeprefix("chaos-"), *map(str, counted.values()))
    table.add_section()
    table.add_row("sum", *(str(sums[name]) for name in ("steps", *COUNTS)))
    console.print(table)
    return 1 if any(sums[name] for name in COUNTS[1:]) else 0


def _show(verdict: Verdict, console: Console) -> None:
    totals = Table("faults", "runs lost", "skipped", "repeated", "losses unequal", "silent", title="chaos")
    counts = (verdict.faults, verdict.runs_lost, verdict.samples_skipped, verdict.samples_repeated)
    totals.add_row(*map(str, (*counts, verdict.losses_unequal, verdict.silent)))
    table = Table("kind", "faults", "recovered", "median s", "max s")
    for kind, count in sorted(verdict.by_kind.items()):
        took = verdict.recoveries.get(kind, {})
        table.add_row(
            kind, str(count), *(f"{took[key]:g}" if took else "" for key in ("count", "median", "max"))
        )
    console.print(totals, table)
    for problem in verdict.problems:
        console.print(problem, markup=False, style="red")


if __name__ == "__main__":
    sys.exit(main())
