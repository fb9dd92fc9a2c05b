"""Every token mixer trained on the digits by `mixer train`, with the same spec but for `model.mixer`.

    python -m benchmarks.model.token_digits [--mixers s2,ccs] [--set train.compile=false] [--work FOLDER]

Each is a run of its own on a local Ray, one after the other, then evaluated in fp32 over the whole validation set by `mixer eval`. Rows of
mixers that are not named stay in the results as they were, so that one can be trained anew by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from mixer_model.config import TOKEN_MIXERS

NAME, BAR = "token-mixers-digits", 0.9
SPEC = Path(__file__).resolve().parents[2] / "runs" / "digits.yaml"


def mixer(*words: str) -> str:
    """What `mixer` prints; its errors go to this terminal."""
    done = subprocess.run([sys.executable, "-m", "orchestrator", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"mixer {' '.join(words[:2])} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def train(name: str, work: Path, sets: list[str]) -> dict[str, Any]:
    """Train and evaluate one mixer: its row."""
    store, run = str(work / "store"), f"digits-{name}"
    places = [f"data.train={work}/digits/train", f"data.val={work}/digits/val"]
    options = [word for setting in [f"model.mixer={name}", *sets, *places] for word in ("--set", setting)]
    mixer("train", str(SPEC), "--name", run, "--store", store, *options)
    found = json.loads(mixer("eval", run, "--store", store, "--json"))
    return {"accuracy": round(found["accuracy"], 4), "samples": found["samples"], "step": found["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixers", default=",".join(TOKEN_MIXERS), help="comma-separated")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="a key of the spec, for all")
    parser.add_argument("--work", type=Path, help="a folder for the runs, kept; else a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mixer-tokens-") as scratch:
        work = args.work or Path(scratch)
        if not (work / "digits").exists():
            mixer("pack", "sklearn:digits", str(work / "digits"))
        for name in args.mixers.split(","):
            keep(name, train(name, work, args.sets), args.sets)


def keep(name: str, row: dict[str, Any], sets: list[str]) -> None:
    """Write the results with this row in its place."""
    path = report.RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["accuracy"] if path.exists() else {}
    rows[name] = row | {"sets": sets}
    rows = {mixer: rows[mixer] for mixer in TOKEN_MIXERS if mixer in rows}
    worst = report.bar("least accuracy", min(row["accuracy"] for row in rows.values()), BAR, most=False)
    report.write(NAME, "python -m benchmarks.model.token_digits", accuracy=rows, bars=[worst])


if __name__ == "__main__":
    main()
