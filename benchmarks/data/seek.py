"""Opening a run at a random step of an epoch of 10^9 samples, and what a long epoch does to memory.

    python -m benchmarks.data.seek [--quick] [--seeks 30] [--steps 5000] [--work FOLDER]

The data set is one real shard under 100,000 names with a real index (simulated.py), its order that of a run of 104 KB pictures with a
batch of 4096 in micro-batches of 64, of which this worker has one. Seeking: from `Loader(...)` at a step drawn at random to its first
batch, less what reading one block takes; everything a loader does at its start is in it, and decoding 64 tiny pictures. Memory: RSS of
a process of its own while a loader runs on, for 10^6, 10^8 and 10^9 samples.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import report
from benchmarks.data.runs import arguments, finish
from benchmarks.data.simulated import PER_SHARD, simulated
from data_pipeline.loading.blocks import BlockFetcher
from data_pipeline.loading.loader import Loader
from data_pipeline.order import Geometry, Order, choose_geometry
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset

BATCH, MICRO_BATCH, SIZE = 4096, 64, 32
REAL_BYTES, WINDOW_BYTES = 104_000.0, 2_000_000_000
SHARDS = (100, 10_000, 100_000)
EVERY = 20  # steps between looks at memory
MIB = 2**20


def geometry_of(dataset: Dataset) -> Geometry:
    """The order of a run whose samples are as large as ImageNet's."""
    return choose_geometry(
        dataset.samples, REAL_BYTES, BATCH, MICRO_BATCH, 0, resident_bytes=0, window_bytes=WINDOW_BYTES
    )


def loader(dataset: Dataset, step: int) -> Loader:
    """One worker's loader of one slot, from a step on."""
    recipe, order = Recipe(SIZE), Order(geometry_of(dataset))
    return Loader(
        dataset,
        order,
        recipe,
        batch=BATCH,
        micro_batch=MICRO_BATCH,
        slots=range(1),
        position=step * BATCH,
        threads=1,
    )


def seeks(folder: Path, count: int) -> dict[str, list[float]]:
    """Milliseconds of `count` seeks: opening the index, the first batch, one block read alone."""
    began = time.perf_counter()
    dataset = Dataset.open(str(folder))
    found: dict[str, list[float]] = {
        "index": [1e3 * (time.perf_counter() - began)],
        "first batch": [],
        "one block": [],
    }
    rng = np.random.default_rng(1)
    for step in rng.integers(0, dataset.samples // BATCH, count).tolist():
        found["first batch"].append(1e3 * first_batch(dataset, step))
        found["one block"].append(1e3 * one_block(dataset, rng))
    return found


def first_batch(dataset: Dataset, step: int) -> float:
    """Seconds from opening a loader to its first batch."""
    began = time.perf_counter()
    with loader(dataset, step) as opened:
        next(opened)
        return time.perf_counter() - began


def one_block(dataset: Dataset, rng: np.random.Generator) -> float:
    """Seconds to read some block, and nothing else."""
    geometry, fetcher = geometry_of(dataset), BlockFetcher(dataset)
    first = int(rng.integers(geometry.blocks - 1)) * geometry.block
    return report.timed(lambda: fetcher.fetch(first, geometry.block))


def memory(folder: Path, steps: int) -> list[tuple[int, float]]:
    """(samples read, RSS in MiB) along a run from the start of the epoch. In a process of its own."""
    dataset, found = Dataset.open(str(folder)), []
    with loader(dataset, 0) as running:
        for step in range(steps):
            next(running)
            if step % EVERY == 0:
                found.append((step * MICRO_BATCH, _resident()))
    return found


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def long_runs(folders: list[Path], steps: int) -> dict[str, list[tuple[int, float]]]:
    """`memory` of each data set, by its number of samples."""
    found = {}
    for folder, shards in zip(folders, SHARDS, strict=True):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[f"{shards * PER_SHARD:.0e}"] = pool.submit(memory, folder, steps).result()
    return found


def growth(run: list[tuple[int, float]]) -> float:
    """RSS in the last quarter of a run over RSS in the quarter before, medians."""
    values = [mib for _, mib in run]
    quarter = len(values) // 4
    return statistics.median(values[-quarter:]) / statistics.median(values[-2 * quarter : -quarter])


def plot(runs: dict[str, list[tuple[int, float]]]) -> Path:
    """RSS over samples read, a line for each data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, run in runs.items():
        axes.plot(*zip(*run, strict=True), label=f"{name} samples", linewidth=1)
    axes.set(
        xlabel="samples read",
        ylabel="RSS in MiB",
        title="Memory of a worker's loader over an epoch",
        ylim=(0, None),
    )
    axes.legend()
    path = report.RESULTS / "data-memory.png"
    figure.savefig(path, dpi=80)
    return path


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=5000, help="of the long runs")
    given = parser.parse_args()
    if given.quick:
        given.seeks, given.steps = 5, 1200
    work = given.work or Path(tempfile.gettempdir()) / "mixer-bench"
    folders = [simulated(work, shards) for shards in SHARDS]
    runs = long_runs(folders, given.steps)
    spent = seeks(folders[-1], given.seeks)
    print(report.table("a random step of 1e+09 samples", spent, "one block", "ms"))
    middle = report.medians(spent)
    for name, run in runs.items():
        print(f"{name} samples: RSS {run[0][1]:.0f} MiB at the first step, {run[-1][1]:.0f} at the last")
    bars = [
        report.bar(
            "first batch less one block, ms", middle["first batch"] - middle["one block"], 100.0, most=True
        )
    ]
    bars += [
        report.bar(f"RSS, last quarter / third, {name} samples", growth(run), 1.02, most=True)
        for name, run in runs.items()
    ]
    if not given.quick:
        plot(runs)
    finish(given, "seek", ms=spent, rss_mib=runs, bars=bars)


if __name__ == "__main__":
    main()
