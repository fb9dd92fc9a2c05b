"""From stored bytes to encoded samples, nothing decoded: ours from a local disk and from S3, against webdataset and plain boto3.

    python -m benchmarks.data.reading [--quick] [--rounds 12] [--pictures 1000] [--work FOLDER]

Ours proves every sample (CRC32C) and takes the tar apart. `fetch` is BlockFetcher alone, blocks in random order; `reader` is what the
loader uses: blocks announced, fetched ahead by threads, samples taken one by one. webdataset reads the same tars from the disk, in
order, no shuffle; boto3 GETs the ranges of the same blocks from the same server and looks at nothing. Blocks are of 2 MB. S3 is Ceph RGW
on loopback, on another core (`make test-deps`); without it those rows are left out. Each way is a process on the same core; they take
turns (turns.py). CPU time per sample, of all of a process's threads; files are in the page cache.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack

from benchmarks import report
from benchmarks.data.images import Material, material
from benchmarks.data.runs import arguments, finish, one_core
from benchmarks.data.servers import bucket_with
from benchmarks.data.turns import Competitor, race

WAYS = "benchmarks.data.competitors.reading"
WDS = "webdataset, disk"
BARS = {"ours, disk": 25.0, "ours, S3": 80.0}


def competitors(made: Material, url: str, stack: ExitStack) -> list[Competitor]:
    """Every way of reading, from the folder and, where there is one, from the bucket at `url`."""
    folder = str(made.shards)
    wanted = {
        "ours, disk, fetch": ("fetch", folder),
        "ours, disk, reader": ("reader", folder),
        WDS: ("webdataset", folder),
    }
    if url:
        wanted |= {
            "ours, S3, fetch": ("fetch", url),
            "ours, S3, reader": ("reader", url),
            "boto3, S3": ("boto3", url),
        }
    found = []
    for label, words in wanted.items():
        found.append(Competitor(sys.executable, WAYS, *words, label=label))
        stack.callback(found[-1].close)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=1000, help="in a turn")
    given = parser.parse_args()
    made = material(given)
    with ExitStack() as stack:
        url = stack.enter_context(bucket_with(made.shards))
        one_core()
        turns = race(competitors(made, url, stack), 3 if given.quick else given.rounds, given.pictures)
    spent = {name: [turn.cpu for turn in found] for name, found in turns.items()}
    print(report.table("reading without decoding, CPU per sample", spent, WDS, "us"))
    bars = [
        report.bar(
            f"{name}, CPU us per sample", statistics.median(values), BARS[name.rpartition(", ")[0]], most=True
        )
        for name, values in spent.items()
        if name.startswith("ours")
    ]
    finish(given, "reading", pictures=made.images, us=spent, bars=bars)


if __name__ == "__main__":
    main()
