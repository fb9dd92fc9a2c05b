"""A sheet of small pictures with captions: a header, then cells of one size in rows, as a PNG.

Pixels are shown as they are: small pictures are enlarged by a whole number, each pixel a square. Where a picture lies in the file is
known (`Layout.box`), so what the sheet shows can be read back exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

Pixels = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont

LEAST_PIXELS = 144  # the side of a cell, at least
MARGIN, GAP, LINE, TITLE, HEAD_LINE = 28, 18, 16, 34, 20
PAPER, INK, SOFT = (252, 252, 250), (24, 24, 27), (113, 113, 122)
ASPECT = 1.5  # width over height that a sheet comes near to


@dataclass(frozen=True)
class Picture:
    """RGB pixels uint8 [S, S, 3], the caption's lines, and how many of these are printed strongly."""

    pixels: Pixels
    caption: Sequence[str]
    strong: int = 1


@dataclass(frozen=True)
class Layout:
    """Where things lie on a sheet of `count` pictures of `size` pixels a side, in pixels of the file."""

    count: int
    size: int
    caption: int  # lines
    header: int  # lines under the title
    group: int = 1  # pictures that belong together: rows begin with one of these where that looks well

    @property
    def scale(self) -> int:
        """Pixels of the file for each pixel of a picture."""
        return max(1, math.ceil(LEAST_PIXELS / self.size))

    @property
    def side(self) -> int:
        return self.size * self.scale

    @property
    def columns(self) -> int:
        ideal = max(4.0, math.sqrt(ASPECT * self.count * self._step_y / self._step_x))
        near = range(math.ceil(0.65 * ideal), int(1.5 * ideal) + 1)
        whole = [n for n in near if self.group % n == 0 or n % self.group == 0]
        fits = (
            min(whole, key=lambda n: abs(n - ideal), default=round(ideal)) if self.group > 1 else round(ideal)
        )
        return min(self.count, fits)

    @property
    def _step_x(self) -> int:
        return self.side + GAP

    @property
    def _step_y(self) -> int:
        return self.side + self.caption * LINE + GAP + 6

    @property
    def top(self) -> int:
        """Where the first row begins."""
        return MARGIN + TITLE + self.header * HEAD_LINE + GAP

    @property
    def width(self) -> int:
        return max(2 * MARGIN + self.columns * self._step_x - GAP, 720)

    @property
    def height(self) -> int:
        return self.top + math.ceil(self.count / self.columns) * self._step_y + MARGIN - GAP

    def box(self, index: int) -> tuple[int, int, int, int]:
        """left, top, right, bottom of picture `index`."""
        row, column = divmod(index, self.columns)
        left, top = MARGIN + column * self._step_x, self.top + row * self._step_y
        return left, top, left + self.side, top + self.side

    def read(self, sheet: Pixels, index: int) -> Pixels:
        """Picture `index` of a sheet's pixels [height, width, 3], at its own size."""
        left, top, right, bottom = self.box(index)
        return sheet[top : bottom : self.scale, left : right : self.scale]


def write_sheet(
    path: Path,
    title: str,
    header: Sequence[str],
    pictures: Sequence[Picture],
    *,
    group: int = 1,
    note: str = "",
) -> Layout:
    """Write the PNG of `pictures`, all of one size; where they lie in it. `note` goes into the file as its text `mixer`."""
    lines = max(len(picture.caption) for picture in pictures)
    place = Layout(len(pictures), pictures[0].pixels.shape[0], lines, len(header), group)
    image = Image.new("RGB", (place.width, place.height), PAPER)
    draw = ImageDraw.Draw(image)
    large, plain = _font(22, bold=True), _font(13)
    draw.text((MARGIN, MARGIN - 6), _fit(title, large, place.width - 2 * MARGIN), INK, large)
    for number, line in enumerate(header):
        at = MARGIN + TITLE + number * HEAD_LINE - 4
        draw.text((MARGIN, at), _fit(line, plain, place.width - 2 * MARGIN), SOFT, plain)
    for index, picture in enumerate(pictures):
        _draw(image, draw, picture, place, index)
    info = PngInfo()
    info.add_text("mixer", note)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=info)
    return place


def _draw(image: Image.Image, draw: ImageDraw.ImageDraw, picture: Picture, place: Layout, index: int) -> None:
    left, top, right, bottom = place.box(index)
    large = picture.pixels.repeat(place.scale, axis=0).repeat(place.scale, axis=1)
    image.paste(Image.fromarray(large), (left, top))
    draw.rectangle((left - 1, top - 1, right, bottom), outline=(212, 212, 216))
    for number, line in enumerate(picture.caption):
        font = _font(12, bold=True) if number < picture.strong else _font(11)
        ink = INK if number < picture.strong else SOFT
        draw.text((left, bottom + 5 + number * LINE), _fit(line, font, place.side), ink, font)


_fonts: dict[tuple[int, bool], Font] = {}


def _font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans, which comes with matplotlib."""
    if (size, bold) not in _fonts:
        import matplotlib

        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name)
        _fonts[size, bold] = ImageFont.truetype(path, size)
    return _fonts[size, bold]


def _fit(text: str, font: Font, width: int) -> str:
    """`text`, or as much of its beginning as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
