"""An encoded image of which, mostly, only a box is wanted: its size now, the box's pixels when asked.

A plain JPEG is decoded box by box where `roi` is there; everything else, and what `roi` will not read, is
decoded whole and cut. Which way it goes changes no pixel, and no verdict on damaged bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np

from data_pipeline.pixels import roi
from data_pipeline.pixels.decode import Encoded, Pixels, decode, plain_jpeg_size
from data_pipeline.pixels.roi import Box

REMEMBERED = 1 << 27  # samples: 16 MiB
SMALLEST = 16_000  # bytes; of less, looking at the header first costs more than the box saves


@dataclass
class Picture:
    """An image: encoded, decoded, or both. Made by `of` or `look`.

    sound: the bytes were read to the end without a complaint, so a box need not look for damage below itself.
    The first box that did look sets it.
    """

    height: int
    width: int
    encoded: Encoded
    whole: Pixels | None
    sound: bool = False

    @classmethod
    def of(cls, pixels: Pixels) -> Self:
        height, width = pixels.shape[:2]
        return cls(height, width, b"", pixels)

    @classmethod
    def look(cls, data: Encoded, *, sound: bool = False) -> Self:
        """Decodes only what has to be decoded whole. Undecodable."""
        size = plain_jpeg_size(data) if len(data) >= SMALLEST and roi.available() else None
        return cls(*size, data, None, sound) if size else cls.of(decode(data))

    def box(self, box: Box) -> Pixels:
        """The pixels of the box, uint8 [height, width, 3], RGB. Undecodable when any of the image is damaged."""
        top, left, height, width = box
        if self.whole is None and (height, width) != (self.height, self.width):
            pixels = roi.read(self.encoded, box, to_the_end=not self.sound)
            if pixels is not None:
                self.sound = True
                return pixels
        if self.whole is None:
            self.whole = decode(self.encoded)
        return self.whole[top : top + height, left : left + width]


class Sound:
    """Which samples of a data set were read to the end without a complaint. For many threads.

    `unsound`: all but these were, when the data set was packed. Where that is not known, a bit for each of the first REMEMBERED.
    """

    def __init__(self, samples: int, unsound: Collection[int] | None = None) -> None:
        self._unsound = None if unsound is None else frozenset(unsound)
        samples = samples if unsound is None else 0
        self._bits = np.zeros(-(-min(samples, REMEMBERED) // 8), np.uint8)
        self._lock = threading.Lock()

    def __contains__(self, sample: int) -> bool:
        if self._unsound is not None:
            return sample not in self._unsound
        return sample < REMEMBERED and bool(self._bits[sample >> 3] >> (sample & 7) & 1)

    def add(self, sample: int) -> None:
        if (
            self._unsound is not None or sample >= REMEMBERED
        ):  # memory does not grow with the data set; these are looked through each time
            return
        with self._lock:
            self._bits[sample >> 3] |= np.uint8(1 << (sample & 7))
