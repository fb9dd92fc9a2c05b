"""Training straight from a bucket: the whole Loader, decoding and all, from S3 against the same shards on a local disk.

    python -m benchmarks.data.streaming [--quick] [--rounds 10] [--pictures 512] [--work FOLDER]

S3 is Ceph RGW on loopback (`make test-deps`), kept on another core, its data in memory. Two loaders, each a process on the same core with
one thread that decodes, take turns (turns.py); both ratios are medians over rounds: of time (what a run would notice), and of CPU
time (what talking to S3 costs).
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack

from benchmarks import report
from benchmarks.data.images import material
from benchmarks.data.runs import arguments, finish, one_core
from benchmarks.data.servers import bucket_with
from benchmarks.data.turns import Competitor, Turn, race

OURS = "benchmarks.data.competitors.ours"
DISK, S3 = "local disk", "S3"
KINDS = {"wall": "time", "cpu": "CPU time"}


def ratios(turns: dict[str, list[Turn]]) -> dict[str, list[float]]:
    """Throughput from S3 over throughput from disk, round by round, by time and by CPU time."""
    pairs = list(zip(turns[DISK], turns[S3], strict=True))
    return {kind: [getattr(disk, kind) / getattr(s3, kind) for disk, s3 in pairs] for kind in KINDS}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=512, help="in a turn")
    given = parser.parse_args()
    made = material(given)
    with ExitStack() as stack:
        url = stack.enter_context(bucket_with(made.shards))
        if not url:
            return
        one_core()
        racing = []
        for label, place in ((DISK, str(made.folder)), (S3, url)):
            racing.append(Competitor(sys.executable, OURS, place, "bilinear", label=label))
            stack.callback(racing[-1].close)
        turns = race(racing, 3 if given.quick else given.rounds, given.pictures)
    found = ratios(turns)
    us = {
        kind: {name: [getattr(turn, kind) for turn in each] for name, each in turns.items()} for kind in KINDS
    }
    bars = []
    for kind, words in KINDS.items():
        print(report.table(f"loading with decoding, {words} per picture", us[kind], DISK, "us"))
        ratio = statistics.median(found[kind])
        bars.append(report.bar(f"throughput from S3 / from disk, by {words}", ratio, 0.9, most=False))
    finish(given, "streaming", pictures=made.images, us=us, ratios=found, bars=bars)


if __name__ == "__main__":
    main()
