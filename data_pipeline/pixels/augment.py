"""From an image to the pixels a model sees, written into the batch's own memory.

Training: random resized crop (or the whole image resized), mirror, RandAugment. Evaluation: short side or
both sides resized, centre cut out. Every random number of a training image is drawn from a counter-based generator
keyed by (seed, item), so its pixels depend on neither worker, thread nor order. Resizing is torch's
antialiased one on uint8 (with "bilinear" Pillow's result to one grey level). Values stay uint8; normalising is the
model's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline.pixels.decode import Pixels
from data_pipeline.pixels.picture import Picture
from data_pipeline.pixels.randaugment import randaugment
from data_pipeline.pixels.roi import Box

Interpolation = Literal["bilinear", "bicubic"]
EvalCrop = Literal["auto", "resmall-crop", "resize-crop", "whole"]
Draws = Callable[[int], npt.NDArray[np.float64]]

CROP_TRIES = 10
LONGEST = 16  # of an evaluation image: its long side over its short one
EVAL_MARGIN = 256 / 224  # short side before the centre is cut out, over image size
_DOMAIN = 0x6175676D656E74  # "augment": keeps these draws apart from other users of the same (seed, item)


@dataclass(frozen=True)
class Recipe:
    """How an image becomes `image_size` x `image_size` pixels.

    mode: "rrc", a random crop covering a share `scale` of the area with an aspect `ratio` (width over
    height), or "resize", the whole image, its aspect ignored. flip mirrors half of the images. randaugment:
    (operations, magnitude 0..30), or None. interpolation: "bilinear" or "bicubic", antialiased.

    eval_crop, of evaluation: "resmall-crop", the short side scaled to 8/7 of image_size and the centre cut out;
    "resize-crop", both sides scaled to that, whatever the aspect, and the centre cut out (the two of MLP-Mixer,
    arXiv:2105.01601, appendix C: 256 and 224); "whole", nothing cut off; "auto", the first of them, but "whole" for
    mode "resize" and for an image no larger than image_size.
    """

    image_size: int
    mode: Literal["rrc", "resize"] = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    randaugment: tuple[int, float] | None = None
    interpolation: Interpolation = "bilinear"
    eval_crop: EvalCrop = "auto"

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.mode not in ("rrc", "resize"):
            raise ValueError(
                f"recipe: image_size {self.image_size}, mode {self.mode!r}; give >= 1, 'rrc' or 'resize'"
            )
        if self.eval_crop not in get_args(EvalCrop):
            raise ValueError(f"recipe: eval_crop {self.eval_crop!r}; give {', '.join(get_args(EvalCrop))}")
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ValueError(
                f"recipe: scale {self.scale}, ratio {self.ratio}; give 0 < low <= high, scale at most 1"
            )
        if self.randaugment and not (self.randaugment[0] >= 1 and 0 <= self.randaugment[1] <= 30):
            raise ValueError(
                f"recipe: randaugment {self.randaugment}; give operations >= 1 and a magnitude of 0 to 30"
            )

    def train(self, image: Picture | Pixels, out: Pixels, *, seed: int, item: int) -> None:
        """Writes the view of `image`, encoded or [h, w, 3], for (seed, item) into `out` [image_size, image_size, 3].

        Undecodable where a picture turns out to be damaged; then `out` is as it was.
        """
        draws = keyed_draws(seed, item)
        picture = image if isinstance(image, Picture) else Picture.of(image)
        box = (0, 0, picture.height, picture.width)
        if self.mode == "rrc":
            box = self._crop(picture.height, picture.width, draws)
        resize_into(out, picture.box(box), self.interpolation)
        if self.flip and draws(1)[0] < 0.5:
            mirror(out)
        if self.randaugment:
            out[...] = randaugment(out, *self.randaugment, draws)

    def evaluate(self, image: Pixels, out: Pixels) -> None:
        """Writes the evaluation view of `image`, as `eval_crop` says, into `out`: no random numbers."""
        size, auto = self.image_size, self.eval_crop == "auto"
        if self.eval_crop == "resmall-crop" or (auto and self.mode != "resize"):
            image = _without_ends(image)
        height, width = image.shape[:2]
        if self.eval_crop == "whole" or (auto and (self.mode == "resize" or max(height, width) <= size)):
            resize_into(out, image, self.interpolation)
            return
        short = int(size * EVAL_MARGIN)
        ratio = short / min(height, width)
        sides = max(short, int(height * ratio)), max(short, int(width * ratio))
        if self.eval_crop == "resize-crop":
            sides = short, short
        view = resize(image, *sides, self.interpolation)
        top, left = round((view.shape[0] - size) / 2), round((view.shape[1] - size) / 2)
        out[...] = view[top : top + size, left : left + size]

    def _crop(self, height: int, width: int, draws: Draws) -> Box:
        """torchvision's rule: ten tries, then the largest centred box within the ratios. Takes 22 draws."""
        u = draws(2 * CROP_TRIES + 2)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area_draw, ratio_draw in u[: 2 * CROP_TRIES].reshape(-1, 2).tolist():
            area = height * width * (self.scale[0] + area_draw * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + ratio_draw * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(u[-2] * (height - h + 1)), int(u[-1] * (width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
        h, w = max(1, h), max(1, w)
        return (height - h) // 2, (width - w) // 2, h, w


def _without_ends(image: Pixels) -> Pixels:
    """The middle of a strip: what is longer than LONGEST times its width would be scaled up to gigabytes, to be cut off again."""
    height, width = image.shape[:2]
    top, left = max(0, height - LONGEST * width) // 2, max(0, width - LONGEST * height) // 2
    return image[top : height - top, left : width - left]


def keyed_draws(seed: int, item: int) -> Draws:
    """A function giving the next n numbers, uniform in [0, 1), of the stream of (seed, item).

    Philox's raw output is the same in every release of numpy; its Generator's is not promised to be.
    """
    key, counter = np.array([seed, item], np.uint64), np.array([0, 0, 0, _DOMAIN], np.uint64)
    stream = np.random.Philox(key=key, counter=counter)

    def draws(n: int) -> npt.NDArray[np.float64]:
        raw: npt.NDArray[np.uint64] = stream.random_raw(n)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    return draws


def resize(image: Pixels, height: int, width: int, how: Interpolation = "bilinear") -> Pixels:
    """`image` [h, w, 3] at another size, antialiased. May return the image itself."""
    if image.shape[:2] == (height, width):
        return image
    out = np.empty((height, width, 3), np.uint8)
    resize_into(out, image, how)
    return out


def resize_into(out: Pixels, image: Pixels, how: Interpolation = "bilinear") -> None:
    """Fills `out` [height, width, 3] (contiguous) with `image` [h, w, 3] at that size, antialiased.

    Runs on the calling thread alone and without the GIL: torch's kernel for uint8 does not spread over threads, and the
    copies are numpy's. It is what `interpolate` calls, told where to write; that saves a third of its time.
    """
    if image.shape == out.shape:
        out[...] = image
        return
    source = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    room = torch.from_numpy(out).permute(2, 0, 1)[None]
    _KERNELS[how](source, list(out.shape[:2]), False, None, None, out=room)


def mirror(image: Pixels) -> None:
    """Turns `image` [h, w, 3] left to right, in place. By channels: numpy is four times as fast that way."""
    before = image.copy()
    for channel in range(3):
        image[:, :, channel] = before[:, ::-1, channel]


_KERNELS = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
}
