"""`python -m benchmarks.gpu`: everything on this machine's GPU; `--tiny`, the same way on the CPU in a minute."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.gpu import plan
from benchmarks.gpu.call import Call


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 where there is no GPU and no --tiny, or a word is wrong."""
    asked = _parser().parse_args(arguments)
    try:
        wanted = asked.only or [name for name in plan.ASKED if getattr(asked, name)]
        groups = [] if asked.show else plan.chosen(wanted)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not asked.tiny and not torch.cuda.is_available():
        print("no CUDA device here; with --tiny it runs on the CPU, with a tiny network", file=sys.stderr)
        return 2
    Call(asked).run(groups)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny network on the CPU: does it work at all?")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help=f"some of: {', '.join(plan.GROUPS)}")
    parser.add_argument(
        "--curve", action="store_true", help="only the loss curves, FP8 against bf16 and fp32"
    )
    parser.add_argument("--profile", action="store_true", help="only where the time goes, by kernel")
    parser.add_argument("--show", action="store_true", help="measure nothing, print what the file has")
    parser.add_argument("--seeds", type=int, default=3, help="of the curves (3)")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="begin no row that would not be done by then (60)"
    )
    parser.add_argument("--missing", action="store_true", help="only what the file does not have yet")
    parser.add_argument(
        "--out", type=Path, default=report.RESULTS, help="folder of the JSON (benchmarks/results)"
    )
    return parser


sys.exit(main())
