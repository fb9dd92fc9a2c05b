"""From an encoded picture to 224x224 uint8 pixels: ours against Pillow, the same random crops, on one core.

    python -m benchmarks.data.decode [--quick] [--rounds 1] [--work FOLDER]

Ours is what a loader's thread runs: `decode` and `Recipe.train`. Pillow's is open, crop, resize with the same filter. Nothing is
mirrored. The ways take turns in blocks of 50 pictures, in reversed order every other block; what counts is CPU time, and the ratio
is the median over blocks. One thread, one core.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from io import BytesIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks import report
from benchmarks.data.images import material
from benchmarks.data.runs import arguments, finish, one_core
from data_pipeline.pixels.augment import Recipe, keyed_draws
from data_pipeline.pixels.decode import decode

BLOCK, SIZE, SEED = 50, 224, 1
Filter = Literal["bilinear", "bicubic"]
BARS = {"bilinear": 1.5, "bicubic": 1.6}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Bench:
    """The pictures, and room for a block of views made each way."""

    def __init__(self, jpegs: list[bytes], kind: Filter) -> None:
        self.jpegs, self.kind = jpegs, kind
        self.recipe = Recipe(SIZE, flip=False, interpolation=kind)
        self.boxes = [self._box(number, data) for number, data in enumerate(jpegs)]
        self.room = {name: np.zeros((BLOCK, SIZE, SIZE, 3), np.uint8) for name in ("ours", "pillow")}

    def _box(self, number: int, data: bytes) -> tuple[int, int, int, int]:
        """What `Recipe.train` cuts out of this picture: left, top, right, bottom."""
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
        top, left, h, w = self.recipe._crop(height, width, keyed_draws(SEED, number))
        return left, top, left + w, top + h

    def ours(self, numbers: range) -> None:
        for place, number in enumerate(numbers):
            self.recipe.train(decode(self.jpegs[number]), self.room["ours"][place], seed=SEED, item=number)

    def pillow(self, numbers: range) -> None:
        for place, number in enumerate(numbers):
            with Image.open(BytesIO(self.jpegs[number])) as image:
                view = image.crop(self.boxes[number]).resize((SIZE, SIZE), RESAMPLING[self.kind])
            self.room["pillow"][place] = view

    def block(self, numbers: range, turn: int) -> dict[str, float]:
        """CPU seconds of each way."""
        spent = {}
        for name in ("ours", "pillow")[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            getattr(self, name)(numbers)
            spent[name] = time.process_time() - began
        return spent

    def errors(self, count: int) -> npt.NDArray[np.float64]:
        """Of each view of the last block: largest and mean difference to Pillow's, PSNR in dB, how many values are off by more than 1."""
        difference = np.abs(self.room["ours"][:count].astype(np.float64) - self.room["pillow"][:count])
        views = difference.reshape(count, -1)
        square = np.maximum((views**2).mean(1), 1e-12)
        return np.stack([views.max(1), views.mean(1), 10 * np.log10(255**2 / square), (views > 1).sum(1)], 1)


def measure(jpegs: list[bytes], kind: Filter, rounds: int) -> dict[str, Any]:
    """CPU milliseconds per picture and ratios, by block, and errors."""
    bench = Bench(jpegs, kind)
    spent: dict[str, list[float]] = defaultdict(list)
    errors = []
    bench.block(range(BLOCK), 0)  # makes what is made once
    for turn in range(rounds * (len(jpegs) // BLOCK)):
        first = turn * BLOCK % len(jpegs)
        for name, seconds in bench.block(range(first, first + BLOCK), turn).items():
            spent[name].append(1e3 * seconds / BLOCK)
        errors.append(bench.errors(BLOCK))
    ratios = [theirs / ours for theirs, ours in zip(spent["pillow"], spent["ours"], strict=True)]
    return {"ms": dict(spent), "ratios": ratios, "error": _worst(np.concatenate(errors))}


def _worst(errors: npt.NDArray[np.float64]) -> dict[str, float]:
    largest, mean, psnr, above = errors.T
    share = above.sum() / (errors.shape[0] * SIZE * SIZE * 3)
    return {
        "max": float(largest.max()),
        "mean": round(float(mean.mean()), 4),
        "worst_psnr_db": round(float(psnr.min()), 2),
        "share_above_1": float(share),
    }


def show(kind: str, found: dict[str, Any]) -> None:
    title = f"decode + random resized crop {SIZE}, {kind}, CPU per picture"
    print(report.table(title, found["ms"], "pillow", "ms"))
    low, middle, high = statistics.quantiles(found["ratios"], n=4)
    print(f"Pillow / ours: {middle:.2f}, quartiles {low:.2f} to {high:.2f}; off by {found['error']}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="over all the pictures")
    given = parser.parse_args()
    one_core()
    jpegs = material(given).jpegs()
    results, bars = {}, []
    for kind, limit in BARS.items():
        results[kind] = found = measure(jpegs, kind, given.rounds)
        show(kind, found)
        ratio = statistics.median(found["ratios"])
        bars.append(report.bar(f"Pillow / ours, {kind}", ratio, limit, most=False))
    error = results["bilinear"]["error"]["max"]
    bars.append(report.bar("largest error in grey levels, bilinear", error, 1, most=True))
    finish(given, "decode", pictures=len(jpegs), bytes=sum(map(len, jpegs)), bars=bars, **results)


if __name__ == "__main__":
    main()
