"""Many seeded faults between a real S3 server (Ceph RGW) and loaders, and whether every batch came out as if there had been none.

    python -m benchmarks.data.faults [--seed 1] [--faults 1000]

Needs Ceph RGW (`make test-deps`). Writes the counts to benchmarks/results/data-faults-<seed>.json. Exit code 0 when nothing was lost.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import write
from data_pipeline.storage import s3_ranges
from tests import ceph
from tests.data_faults.play import Told, play
from tests.data_faults.scene import furnished

READ_TIMEOUT_S = 1.5  # so that stalls end soon


def main() -> int:
    parser = argparse.ArgumentParser(description="seeded faults between a store and loaders")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--verbose", action="store_true", help="a line per fault")
    args = parser.parse_args()
    if reason := ceph.missing():
        print(reason)
        return 0
    s3_ranges.READ_TIMEOUT_S = READ_TIMEOUT_S
    folder, began = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        (folder / "ceph").mkdir()
        with (
            ceph.running(folder / "ceph") as gateway,
            furnished(gateway, folder, "faults", args.seed) as scene,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            bar = progress.add_task("faults", total=args.faults)

            def tell(told: Told, line: str) -> None:
                progress.update(bar, completed=told.faults)
                if args.verbose:
                    print(line, flush=True)

            told = play(scene, args.seed, args.faults, tell)
    finally:
        shutil.rmtree(folder)
    _write(told, f"python -m benchmarks.data.faults --seed {args.seed} --faults {args.faults}", began)
    return 1 if told.lost else 0


def _write(told: Told, command: str, began: float) -> None:
    facts = {
        "faults": told.faults,
        "lost": told.lost,
        "steps": told.steps,
        "seconds": round(time.monotonic() - began, 1),
        "met": dict(sorted(told.met.items())),
        "raised": dict(told.raised),
        "missed": told.missed,
        "retries": told.retries,
        "second_tries": told.hedges,
        "late_messages": told.late,
    }
    print(
        f"{told.faults} faults met, {told.steps} steps, {sum(told.raised.values())} raised by name, {len(told.lost)} lost"
    )
    for line in told.lost:
        print(line)
    write(f"data-faults-{told.seed}", command, **facts)


if __name__ == "__main__":
    sys.exit(main())
