"""Whole loaders, from tars on a local disk to batches of 224x224 uint8 pixels: ours against its peers, on one core.

    python -m benchmarks.data.end_to_end [--quick] [--rounds 12] [--pictures 256] [--peers .venv-peers] [--work FOLDER]

The same pictures, random resized crops, mirrored by chance, in batches of 64. Each loader is a process on the same core, with one
thread and no workers of its own; ours runs with the C part that decodes crops alone (`ours`) and without (`ours_plain`). They take turns
of 256 pictures, in another order every round (turns.py). What counts is CPU time of the process and its children per picture; the ratio
is the median over rounds. webdataset stands in our own environment; the other peers in that of `--peers` (peers.txt says how to make
it): those that are not there are named and left out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.data.images import Material, material
from benchmarks.data.runs import arguments, finish, one_core
from benchmarks.data.turns import ROOT, Competitor, Unavailable, race

HERE = "benchmarks.data.competitors"
OURS, PLAIN, BASE = "ours", "ours_plain", "webdataset_pillow"
PEERS = ("litdata_pillow", "mosaic_pillow", "grain_pillow", "dali_cpu")
FILTERS = ("bilinear", "bicubic")
BARS = {  # of a competitor's CPU over ours, with the C part and without
    OURS: {BASE: {"bilinear": 2.1, "bicubic": 2.5}},
    PLAIN: {BASE: {"bilinear": 1.7, "bicubic": 2.0}},
}
for _own in BARS.values():
    _own |= {name: dict.fromkeys(FILTERS, 1.6 if name[0] in "lm" else 1.0) for name in PEERS}


def prepare(peers: Path, made: Material) -> tuple[list[str], list[str]]:
    """The peers that are there, their formats written; and of the others, why not."""
    if not peers.exists():
        return [], [
            f"{name}: no venv of peers; benchmarks/data/peers.txt says how to make it" for name in PEERS
        ]
    there, absent = [], []
    for name in PEERS:
        done = made.folder / f"{name}.prepared"
        if why := "" if done.exists() else _prepare(peers, name, made):
            absent.append(f"{name}: {why}")
        else:
            done.touch()
            there.append(name)
    return there, absent


def _prepare(peers: Path, name: str, made: Material) -> str:
    """Have a peer write its format; what went wrong, if anything did."""
    command = [str(peers), "-m", f"{HERE}.{name}", str(made.folder), "PREPARE"]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    return (run.stderr.strip().splitlines() or ["it does not say"])[-1] if run.returncode else ""


def started(
    stack: ExitStack, pythons: dict[str, str], made: Material, kind: str, absent: list[str]
) -> list[Competitor]:
    """The loaders that start, each with its Python; a peer that does not is added to `absent`."""
    found = []
    for name, python in pythons.items():
        try:
            competitor = Competitor(python, f"{HERE}.{name}", str(made.folder), kind)
        except Unavailable as why:
            if name in (OURS, PLAIN, BASE):
                raise
            absent.append(f"{name}, {kind}: {str(why).strip().splitlines()[-1]}")
            continue
        stack.callback(competitor.close)
        found.append(competitor)
    return found


def measure(racing: Sequence[Competitor], rounds: int, pictures: int) -> dict[str, Any]:
    """CPU microseconds of every loader in every round, and their ratios to ours."""
    turns = race(racing, rounds, pictures)
    spent = {name: [turn.cpu for turn in found] for name, found in turns.items()}
    ratios = {
        own: {
            name: [theirs / ours for theirs, ours in zip(spent[name], spent[own], strict=True)]
            for name in spent
            if name in bars
        }
        for own, bars in BARS.items()
    }
    return {"us": spent, "ratios": ratios, "versions": {one.name: one.facts["version"] for one in racing}}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=256, help="in a turn")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers")
    given = parser.parse_args()
    given.rounds = 3 if given.quick else given.rounds
    made, peers = material(given), given.peers / "bin" / "python"
    there, absent = prepare(peers, made)
    one_core()
    pythons = dict.fromkeys((OURS, PLAIN, BASE), sys.executable) | dict.fromkeys(there, str(peers))
    found: dict[str, Any] = {}
    bars = []
    for kind in FILTERS:
        with ExitStack() as stack:
            racing = started(stack, pythons, made, kind, absent)
            found[kind] = figures = measure(racing, given.rounds, given.pictures)
        print(report.table(f"loading, {kind}, CPU per picture", figures["us"], BASE, "us"))
        for own, ratios in figures["ratios"].items():
            bars += [
                report.bar(
                    f"{name} / {own}, {kind}", statistics.median(each), BARS[own][name][kind], most=False
                )
                for name, each in ratios.items()
            ]
    for line in absent:
        print("left out:", line)
    finish(given, "end_to_end", pictures=made.images, absent=absent, bars=bars, **found)


if __name__ == "__main__":
    main()
