"""How long loading at another world size takes: ours, DeepSpeed's ds_to_universal plus load, and just reading the same bytes.

    python -m benchmarks.survival.load [--state B/16] [--rounds 4]

Two ranks (ZeRO 2, fp32, after a step) save both ways. One process loads at world size 1: ours into ZeRO 3 straight from the files,
DeepSpeed's into ZeRO 2 (its universal format does not cross to 3) after converting; imports are not counted. Each is measured with
the files dropped from the page cache before (from disk), and ours and the plain read once more with them in it (warm); ours also
from the memory of the node (orchestrator/near), held by a process of its own. Plain reading: readinto of the same files, one after the
other, into memory that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.survival.states import alone, forget, make_engine
from tests.gang import run_gang

OURS, READ = "restore, from disk", "plain read, from disk"
OURS_WARM, READ_WARM = "restore, warm", "plain read, warm"
OURS_NEAR = "restore, from the node's memory"
CONVERT, LOAD, UNIVERSAL = "ds_to_universal", "its load", "ds_to_universal + load, from disk"
TAG = "t"
NEAR = "near"  # the socket of the node's memory, in the folder
NODE = """
import sys
from orchestrator.near.server import Server

class Nobody:
    def find(self, path, files):
        return set()
    def read(self, path, file, offset, length):
        return None

server = Server(sys.argv[1], "here", Nobody(), lambda held: None)
print("ready", flush=True)
sys.stdin.read()
"""


def save(preset: str, folder: str) -> str:
    """On each of two ranks: save both ways; where ours lies."""
    from data_pipeline.storage import open_store
    from orchestrator.checkpoints.manifest import folder as checkpoint_folder
    from orchestrator.near.client import Near
    from orchestrator.training.events import Events
    from orchestrator.training.snapshot import Saver

    engine = make_engine(preset, zero=2)
    place, store = engine.place, open_store(f"{folder}/ours")
    events = Events(store, 1, place.rank)
    of_rank = {"attempt": 1, "rank": place.rank, "world": place.world}
    saver = Saver(store, events, **of_rank, shapes=engine.shapes, near=Near(f"{folder}/{NEAR}"))
    saver.save(engine.owned(), step=1, position=2, state={"updates": 1})
    saver.wait()
    engine.engine.save_checkpoint(f"{folder}/deepspeed", tag=TAG)
    return checkpoint_folder(1, 1)


CONVERTER = """
import contextlib, sys, time, warnings
warnings.simplefilter("ignore")
from deepspeed.checkpoint import ds_to_universal
with contextlib.redirect_stdout(sys.stderr):
    began = time.perf_counter()
    ds_to_universal.main(ds_to_universal.parse_arguments())
print("SECONDS", time.perf_counter() - began)
"""


class Bench:
    """Two engines of one rank, and what two ranks have saved."""

    def __init__(self, preset: str, folder: Path) -> None:
        from data_pipeline.storage import open_store

        self.folder = folder
        node = [sys.executable, "-c", NODE, str(folder / NEAR)]
        self.node = subprocess.Popen(node, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.node.stdout is not None
        self.node.stdout.readline()
        self.path = run_gang(2, save, preset, str(folder), timeout=900, env={"DS_ACCELERATOR": "cpu"})[0]
        self.store = open_store(folder / "ours")
        self.files = sorted((folder / "ours" / self.path).glob("*.safetensors"))
        self.room = np.zeros(max(path.stat().st_size for path in self.files), dtype="u1")
        self.ours, self.theirs = make_engine(preset, zero=3), make_engine(preset, zero=2)
        self.theirs.engine._config.load_universal_checkpoint = True

    def close(self) -> None:
        """End the process that holds the node's memory."""
        self.node.communicate()

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def read(self) -> float:
        def act() -> None:
            for path in self.files:
                with path.open("rb", buffering=0) as file:
                    at, size = 0, path.stat().st_size
                    while at < size:
                        at += file.readinto(memoryview(self.room)[at:size]) or 0

        return report.timed(act)

    def restore(self) -> float:
        from orchestrator.training.restore import restore

        return report.timed(lambda: restore(self.ours, self.store, self.path))

    def restore_near(self) -> float:
        from orchestrator.near.client import Near
        from orchestrator.training.restore import restore

        took: dict[str, int] = {}

        def act() -> None:
            took.update(restore(self.ours, self.store, self.path, near=Near(str(self.folder / NEAR)))[1])

        seconds = report.timed(act)
        assert set(took) == {"here"}, took
        return seconds

    def convert(self) -> float:
        """Seconds of the conversion itself, its imports done. In a process of its own, since it forks."""
        source, target = self.folder / "deepspeed" / TAG, self.folder / "deepspeed" / "universal"
        shutil.rmtree(target, ignore_errors=True)
        words = ["--input_folder", str(source), "--output_folder", str(target), "--inject_missing_state"]
        words += ["--num_extract_workers", "2", "--num_merge_workers", "2"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        run = subprocess.run(
            [sys.executable, "-c", CONVERTER, *words], env=env, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise RuntimeError(f"ds_to_universal failed: {run.stderr[-2000:]}")
        return float(run.stdout.rpartition("SECONDS")[2])

    def load(self) -> float:
        with quiet():
            return report.timed(
                lambda: self.theirs.engine.load_checkpoint(str(self.folder / "deepspeed"), tag="universal")
            )

    def check(self) -> None:
        """Both engines hold the same weights and moments after loading: those that were saved."""
        ours, theirs = _state(self.ours), _state(self.theirs)
        for name, values in ours.items():
            assert np.array_equal(values, theirs[name]), f"{name} differs"

    def round(self, number: int) -> dict[str, float]:
        """Each way once. Who reads the files first changes: a host below this machine may keep what was read."""
        found = {READ: 0.0, READ_WARM: 0.0, OURS: 0.0, OURS_WARM: 0.0}
        ways = [(READ, READ_WARM, self.read), (OURS, OURS_WARM, self.restore)]
        for cold, warm, way in ways[:: 1 if number % 2 else -1]:
            forget(self.folder / "ours")
            found[cold], found[warm] = way(), way()
        forget(self.folder / "ours")
        found[OURS_NEAR] = self.restore_near()
        forget(self.folder / "deepspeed")
        found[CONVERT] = self.convert()
        found[LOAD] = self.load()
        return {**found, UNIVERSAL: found[CONVERT] + found[LOAD]}


def _state(engine: Any) -> dict[str, Any]:
    return {
        f"{kind}/{fragment.param}": view.numpy()
        for fragment in engine.to_fill()
        for kind, view in fragment.views.items()
    }


@contextlib.contextmanager
def quiet() -> Any:
    """DeepSpeed's tools print, and its files are read with torch.load, which warns."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--state", default="B/16", choices=["S/32", "B/16", "H/14"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--folder", help="where to write; default: the folder for temporary files")
    args = parser.parse_args()
    alone()
    with tempfile.TemporaryDirectory(prefix="mixer-bench-", dir=args.folder) as folder:
        bench = Bench(args.state, Path(folder))
        bench.round(0)  # makes what is made once
        bench.check()
        rounds = [bench.round(number) for number in range(args.rounds)]
        size = bench.bytes
        bench.close()
    samples = {name: [found[name] for found in rounds] for name in rounds[0]}
    middle = report.medians(samples)
    print(report.table(f"loading at another world size, {args.state}, {size / 1e9:.2f} GB", samples, READ))
    report.write(
        f"load-{args.state.replace('/', '').lower()}",
        f"python -m benchmarks.survival.load --state {args.state} --rounds {args.rounds}",
        state=args.state,
        bytes=size,
        seconds=samples,
        bars=[
            report.bar("universal to ours", middle[UNIVERSAL] / middle[OURS], 5.0, most=False),
            report.bar("ours to plain read, from disk", middle[OURS] / middle[READ], 1.5, most=True),
            report.bar("ours to plain read, warm", middle[OURS_WARM] / middle[READ_WARM], 1.5, most=True),
            report.bar("node's memory to disk, ours", middle[OURS_NEAR] / middle[OURS], 1.0, most=True),
        ],
    )


if __name__ == "__main__":
    from benchmarks.survival import load  # so that ranks find its functions by name

    load.main()
