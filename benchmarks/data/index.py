"""What an index of very many shards costs: making it, making it again, opening it, and looking up samples.

    python -m benchmarks.data.index [--shards 100000] [--lookups 20000]

Shards of three small samples in a folder, so the price of a shard is seen, not that of its bytes. Lookups are of 20 samples each, at
random places. Memory is the largest of the process up to then.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import tarfile
import tempfile
from pathlib import Path

from benchmarks import report
from data_pipeline.shards.build import index_shards
from data_pipeline.shards.dataset import Dataset

SAMPLES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shards-") as folder:
        for number in range(args.shards):
            Path(folder, f"{number:06d}.tar").write_bytes(_shard(number))
        figures = _measure(folder, args.lookups)
    for name, (seconds, mib) in figures.items():
        print(f"{name:16} {seconds:8.2f} s  {mib:6.0f} MiB")
    report.write(
        "index",
        f"python -m benchmarks.data.index --shards {args.shards} --lookups {args.lookups}",
        seconds={name: round(seconds, 3) for name, (seconds, _) in figures.items()},
        peak_mib={name: round(mib) for name, (_, mib) in figures.items()},
    )


def _measure(folder: str, lookups: int) -> dict[str, tuple[float, float]]:
    """Seconds, and peak memory in MiB, of each."""
    opened: list[Dataset] = []
    draw = random.Random(0)

    def look_up() -> None:
        for _ in range(lookups):
            opened[0].spans(draw.randrange(opened[0].samples - 20), 20)

    acts = {
        "index": lambda: index_shards([folder]),
        "index again": lambda: index_shards([folder]),
        "open": lambda: opened.append(Dataset.open(folder)),
        f"{lookups} lookups": look_up,
    }
    return {name: (report.timed(act), _peak_mib()) for name, act in acts.items()}


def _shard(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(SAMPLES):
            for ext, data in (("cls", b"%d" % (number % 1000)), ("jpg", b"x" * 300)):
                info = tarfile.TarInfo(f"{n}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
