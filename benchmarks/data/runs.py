"""What every benchmark of the data path is told, where it runs, and how it ends."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks import report

LIBRARIES = ("pillow", "simplejpeg", "webdataset", "boto3")
PLACES = ("quick", "work", "peers")  # arguments that say nothing about the figures


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """--quick and --work."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few pictures and rounds: does it run? Nothing is kept"
    )
    parser.add_argument(
        "--work", type=Path, help="where pictures are kept; default: the folder for temporary files"
    )
    return parser


def one_core() -> None:
    """Keep this process, and what it starts from now on, to the last of its cores and one thread of torch."""
    import torch

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def other_cores() -> None:
    """Keep what is started from now on off the core of `one_core`, where there is another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1] or cores))


def finish(given: argparse.Namespace, name: str, *, bars: list[dict[str, Any]], **facts: Any) -> None:
    """Say which bars are reached; keep the figures unless it was a quick run."""
    if given.quick:
        return report.say(bars)
    words = [f"--{key} {value}" for key, value in vars(given).items() if key not in PLACES]
    command = " ".join([f"python -m benchmarks.data.{name}", *words])
    libraries = report.versions(*LIBRARIES)
    report.write(f"data-{name.replace('_', '-')}", command, libraries=libraries, bars=bars, **facts)
    return None
