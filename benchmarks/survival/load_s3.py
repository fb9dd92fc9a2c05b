"""How long loading from a bucket takes, at another world size and stage, against just fetching the same bytes from it.

    python -m benchmarks.survival.load_s3 [--state B/16] [--rounds 6]

Two ranks (ZeRO 2, fp32, after a step) save to Ceph RGW on this machine (`make test-deps`). One process loads into ZeRO 3. Fetching:
the same files, by as many threads, in ranges of the same size, through the same client, into memory that is there, and not looked at.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.survival.states import alone, make_engine
from orchestrator.checkpoints.reading import RANGE_BYTES, READERS
from tests import ceph
from tests.chaos.environment import environment
from tests.chaos.scene import make_bucket
from tests.gang import run_gang

OURS, FETCH = "restore", "plain fetch"


def save(preset: str, url: str) -> str:
    """On each of two ranks: save; where it lies."""
    from data_pipeline.storage import open_store
    from orchestrator.checkpoints.manifest import folder as checkpoint_folder
    from orchestrator.training.events import Events
    from orchestrator.training.snapshot import Saver

    engine, store = make_engine(preset, zero=2), open_store(url)
    place = engine.place
    of_rank = {"attempt": 1, "rank": place.rank, "world": place.world}
    saver = Saver(store, Events(store, 1, place.rank), **of_rank, shapes=engine.shapes)
    saver.save(engine.owned(), step=1, position=2, state={"updates": 1})
    saver.wait()
    return checkpoint_folder(1, 1)


class Bench:
    """An engine of one rank, and what two ranks have saved in a bucket."""

    def __init__(self, preset: str) -> None:
        from data_pipeline.storage import open_store

        url = f"{make_bucket('load')}/run"
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        env = {name: os.environ[name] for name in names if name in os.environ}
        self.path = run_gang(2, save, preset, url, timeout=600, env={**env, "DS_ACCELERATOR": "cpu"})[0]
        self.store, self.engine = open_store(url), make_engine(preset, zero=3)
        found = self.store.list(f"{self.path}/")
        self.files = {info.key: info.size for info in found if info.key.endswith(".safetensors")}
        self.room = {key: np.zeros(size, dtype="u1") for key, size in self.files.items()}

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def fetch(self) -> float:
        ranges = [(key, at) for key, size in self.files.items() for at in range(0, size, RANGE_BYTES)]

        def one(place: tuple[str, int]) -> None:
            key, at = place
            self.store.read_into(key, at, [self.room[key][at : at + RANGE_BYTES].data])

        def act() -> None:
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(one, ranges))

        return report.timed(act)

    def restore(self) -> float:
        from orchestrator.training.restore import restore

        return report.timed(lambda: restore(self.engine, self.store, self.path))

    def round(self, number: int) -> dict[str, float]:
        """Each way once, the other one first each time."""
        ways = [(FETCH, self.fetch), (OURS, self.restore)]
        found = {name: way() for name, way in ways[:: 1 if number % 2 else -1]}
        return {name: found[name] for name, _ in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--state", default="B/16", choices=["S/32", "B/16"])
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    if reason := ceph.missing():
        sys.exit(reason)
    os.environ.pop("AWS_PROFILE", None)
    alone()
    with (
        tempfile.TemporaryDirectory(prefix="ld-") as folder,
        ceph.running(Path(folder)) as gateway,
        environment(gateway.env),
    ):
        bench = Bench(args.state)
        bench.round(0)  # makes what is made once
        rounds: list[dict[str, Any]] = [bench.round(number) for number in range(args.rounds)]
    samples = {name: [found[name] for found in rounds] for name in rounds[0]}
    middle = report.medians(samples)
    print(report.table(f"loading from a bucket, {args.state}, {bench.bytes / 1e9:.2f} GB", samples, FETCH))
    report.write(
        f"load-s3-{args.state.replace('/', '').lower()}",
        f"python -m benchmarks.survival.load_s3 --state {args.state} --rounds {args.rounds}",
        state=args.state,
        bytes=bench.bytes,
        seconds=samples,
        bars=[report.bar("ours to plain fetch", middle[OURS] / middle[FETCH], 1.5, most=True)],
    )


if __name__ == "__main__":
    from benchmarks.survival import load_s3  # so that ranks find its functions by name

    load_s3.main()
