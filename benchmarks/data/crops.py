"""What a training view of a photograph costs on one core: Pillow, decoded whole, its box alone, its box once it is known to be sound.

    python -m benchmarks.data.crops [--images 200] [--rounds 9] [--interpolation bilinear]

Pieces of scikit-image's photographs with a little noise, 500 x 375, quality 92 to 95, four of five 4:2:0: about 90 kB each, which is what
ImageNet's have. Random resized crop to 224 and mirroring, the same boxes for all. CPU seconds of one thread, the ways in turn image by
image. The views are compared before anything is measured. Of each image and way the least of all rounds counts: the machine is shared.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs

from benchmarks import report
from data_pipeline.pixels import roi
from data_pipeline.pixels.augment import Interpolation, Recipe, keyed_draws
from data_pipeline.pixels.decode import Pixels, decode
from data_pipeline.pixels.picture import Picture

PILLOW, WHOLE, BOX, SOUND = "Pillow", "decoded whole", "the box", "the box, known to be sound"
SIZE, SEED = 224, 1
Way = Callable[[bytes, Pixels, int], object]


def pieces(count: int) -> list[bytes]:
    """`count` JPEGs."""
    dice, files = np.random.default_rng(0), []
    sources = [photographs.astronaut(), photographs.coffee(), photographs.chelsea(), photographs.rocket()]
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        width, height = (500, 375) if dice.random() < 0.75 else (375, 500)
        scale = min(source.width / width, source.height / height) * dice.uniform(0.6, 1)
        x, y = dice.uniform(0, source.width - width * scale), dice.uniform(0, source.height - height * scale)
        box = (x, y, x + width * scale, y + height * scale)
        clean = np.asarray(source.resize((width, height), Image.Resampling.BICUBIC, box))
        noisy = np.clip(clean + dice.normal(0, dice.uniform(2, 7), clean.shape), 0, 255).astype(np.uint8)
        out, colours = io.BytesIO(), 2 if dice.random() < 0.8 else 0
        Image.fromarray(noisy).save(out, "JPEG", quality=int(dice.integers(92, 96)), subsampling=colours)
        files.append(out.getvalue())
    return files


def ways(interpolation: Interpolation) -> dict[str, Way]:
    recipe = Recipe(SIZE, interpolation=interpolation)

    def pillow(data: bytes, out: Pixels, item: int) -> None:
        image, draws = Image.open(io.BytesIO(data)).convert("RGB"), keyed_draws(SEED, item)
        top, left, height, width = recipe._crop(image.height, image.width, draws)
        view = image.crop((left, top, left + width, top + height))
        view = view.resize((SIZE, SIZE), Image.Resampling[interpolation.upper()])
        mirrored = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws(1)[0] < 0.5 else view
        out[...] = np.asarray(mirrored)

    return {
        PILLOW: pillow,
        WHOLE: lambda data, out, item: recipe.train(decode(data), out, seed=SEED, item=item),
        BOX: lambda data, out, item: recipe.train(Picture.look(data), out, seed=SEED, item=item),
        SOUND: lambda data, out, item: recipe.train(
            Picture.look(data, sound=True), out, seed=SEED, item=item
        ),
    }


def differing(files: list[bytes], of: dict[str, Way]) -> int:
    """How many views are not those of the whole image."""
    whole, other = np.empty((2, SIZE, SIZE, 3), np.uint8)
    wrong = 0
    for item, data in enumerate(files):
        of[WHOLE](data, whole, item)
        for way in (BOX, SOUND):
            of[way](data, other, item)
            wrong += not np.array_equal(whole, other)
    return wrong


def measure(files: list[bytes], of: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way and image, the least of the rounds."""
    least = {way: [float("inf")] * len(files) for way in of}
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    for number in range(rounds):
        for item, data in enumerate(files):
            for way in list(of)[:: 1 if (number + item) % 2 else -1]:
                began = time.process_time()
                of[way](data, out, item)
                least[way][item] = min(least[way][item], time.process_time() - began)
    return least


def main() -> int:
    parser = argparse.ArgumentParser(description="training views of photographs, on one core")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    args = parser.parse_args()
    if not roi.available():
        print(f"no boxes here: {roi.why_not()}")
        return 0
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    files, of = pieces(args.images), ways(args.interpolation)
    wrong = differing(files, of)
    seconds = {way: sum(each) / len(files) for way, each in measure(files, of, args.rounds).items()}
    for way, each in seconds.items():
        print(f"{way:27} {each * 1e3:6.3f} ms  {1 / each:6.0f} /s  {seconds[PILLOW] / each:5.2f} x Pillow")
    report.write(
        f"data-crops-{args.interpolation}",
        f"python -m benchmarks.data.crops --interpolation {args.interpolation}",
        images=len(files),
        mean_bytes=round(sum(map(len, files)) / len(files)),
        views_that_differ=wrong,
        ms={way: round(each * 1e3, 4) for way, each in seconds.items()},
        bars=[report.bar("box over whole", seconds[WHOLE] / seconds[BOX], 1.0, most=False)],
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
