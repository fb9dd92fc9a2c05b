"""The numbers that fix a run's order of data, and the rule that chooses them.

A Geometry is chosen once, when a run is made, from the size of its data and of its batch, and frozen beside
the run. It decides how many bytes one GET brings, how many windows are in memory and how well samples mix;
never what a batch is made of at some world size.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from data_pipeline.feistel import LARGEST

BLOCK_BYTES = 4_000_000  # one GET: long enough to hide its latency
SMALLEST_BLOCK_BYTES = 500_000
WINDOW = 2


@dataclass(frozen=True)
class Geometry:
    """N samples in blocks of `block`, in `lanes` lanes, shuffled in windows of `window` blocks by `seed`."""

    samples: int
    block: int
    lanes: int
    window: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("samples", "block", "lanes", "window"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise ValueError(f"geometry: {name} got {getattr(self, name)}; give 1 to {LARGEST}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"geometry: seed got {self.seed}; give 0 to 2^63 - 1")

    @property
    def blocks(self) -> int:
        """Blocks in an epoch; the last may be short."""
        return -(-self.samples // self.block)

    @property
    def resident(self) -> bool:
        """Every sample moves on its own: the data set is small, read once and kept."""
        return self.block == 1 and self.window == 1

    def to_json(self) -> str:
        """One line of JSON, keys in a fixed order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Geometry:
        """The Geometry of `to_json`. ValueError when a number is missing, unknown or out of range."""
        tree = json.loads(text)
        names = [field.name for field in fields(cls)]
        if sorted(tree) != sorted(names) or any(type(value) is not int for value in tree.values()):
            raise ValueError(f"geometry: got {text}; give whole numbers for {', '.join(names)}")
        return cls(**tree)


def choose_geometry(
    samples: int,
    mean_bytes: float,
    batch: int,
    micro_batch: int,
    seed: int,
    *,
    resident_bytes: int,
    window_bytes: int,
) -> Geometry:
    """The Geometry for `samples` of `mean_bytes` each, delivered `batch` at a time in micro-batches.

    A set of at most `resident_bytes` is kept whole by every worker and truly permuted. A larger one is read
    in blocks, in as many lanes as leave blocks long enough to read and windows within `window_bytes` over
    the whole job.
    """
    if batch % micro_batch:
        raise ValueError(f"micro-batch {micro_batch} does not divide the batch {batch}")
    slots = batch // micro_batch
    if samples * mean_bytes <= resident_bytes:
        return Geometry(samples, block=1, lanes=slots, window=1, seed=seed)
    usual = max(1, round(BLOCK_BYTES / mean_bytes))
    smallest = min(SMALLEST_BLOCK_BYTES, usual * mean_bytes)
    for lanes in _lane_counts(slots, micro_batch):
        block = max(1, min(usual, samples // (2 * WINDOW * lanes)))
        if block * mean_bytes >= smallest and lanes * (WINDOW + 1) * block * mean_bytes <= window_bytes:
            return Geometry(samples, block, lanes, WINDOW, seed)
    affordable = int(window_bytes / (slots * (WINDOW + 1) * mean_bytes))
    block = max(1, min(usual, samples // (2 * WINDOW * slots), affordable))
    return Geometry(samples, block, slots, WINDOW, seed)


def _lane_counts(slots: int, micro_batch: int) -> list[int]:
    """The numbers of lanes that keep a lane in one slot: multiples of M that divide the batch, descending."""
    return [slots * share for share in range(micro_batch, 0, -1) if micro_batch % share == 0]
