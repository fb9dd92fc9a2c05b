"""One labelled sheet of panels, as a PNG: token mixers side by side, the stem's filters under them.

    panels (pictures.py) -> title, panels with their names and scales, what each row shows in a sentence -> pixels -> PNG

Weights are drawn as they are, each a square of whole pixels; nothing is smoothed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import maps
from .pictures import Panel, columns

PAPER: Final = (252, 252, 250)
INK: Final = (24, 24, 27)
SOFT: Final = (113, 113, 122)
MARGIN, GUTTER, TITLE, HEAD, LINE = 28, 26, 42, 24, 19
PANEL, SLOT = (
    600,
    360,
)  # pixels across, at least: of the picture where its tiles allow it; of what it stands in
BAR: Final = (96, 10)  # of the colour scale
Font = ImageFont.FreeTypeFont


def sheet(title: str, soft: str, tokens: Sequence[Panel], stem: Panel | None) -> Image.Image:
    """The sheet; `soft` is the line under the title. ValueError when there is no panel."""
    if not tokens and stem is None:
        raise ValueError("there is no panel to draw")
    row = [panel.pixels(columns(len(panel.tiles)), PANEL) for panel in tokens]
    width = max(PANEL, sum(_slot(part) for part in row) + GUTTER * (len(row) - 1)) if row else 3 * PANEL
    strip = None if stem is None else stem.strip(width)
    said = [_wrapped(panel.says if panel else "", width) for panel in (tokens[0] if tokens else None, stem)]
    page = _Page(width, _height(row, strip, said))
    page.text(title, 22, bold=True, step=TITLE - 12)
    page.text(soft, 13, ink=SOFT, step=TITLE - 12)
    if row:
        page.row(tokens, row)
        page.lines(said[0])
    if stem is not None and strip is not None:
        page.row([stem], [strip])
        page.lines(said[1])
    return page.image


def write_sheet(
    path: str | os.PathLike[str], title: str, soft: str, tokens: Sequence[Panel], stem: Panel | None
) -> tuple[int, int]:
    """Write `sheet` to `path`; its (width, height) in pixels. A file is there whole or not at all."""
    image, place = sheet(title, soft, tokens, stem), Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        image.save(part, format="PNG", optimize=True)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return image.size


def _slot(part: maps.Tiles) -> int:
    """Pixels across that a panel has: its own, or what its name and scale take."""
    return max(int(part.shape[1]), SLOT)


def _height(row: Sequence[maps.Tiles], strip: maps.Tiles | None, said: Sequence[Sequence[str]]) -> int:
    tops = [max(int(part.shape[0]) for part in row)] if row else []
    tops += [int(strip.shape[0])] if strip is not None else []
    words = sum(LINE * len(lines) for lines in said)
    return 2 * MARGIN + 2 * (TITLE - 12) + sum(tops) + words + len(tops) * (HEAD + 8 + GUTTER) - GUTTER + 6


class _Page:
    """A sheet that is filled from the top."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width + 2 * MARGIN, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._at = MARGIN - 4

    def text(
        self, words: str, size: int, *, bold: bool = False, ink: tuple[int, ...] = INK, step: int
    ) -> None:
        self._draw.text((MARGIN, self._at), words, ink, _font(size, bold))
        self._at += step

    def lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.text(line, 13, ink=SOFT, step=LINE)
        self._at += GUTTER

    def row(self, panels: Sequence[Panel], pixels: Sequence[maps.Tiles]) -> None:
        """Panels side by side, each under its name and with its scale."""
        left = MARGIN
        for panel, part in zip(panels, pixels, strict=True):
            self._head(panel, left, _slot(part))
            self.image.paste(Image.fromarray(part), (left, self._at + HEAD))
            left += _slot(part) + GUTTER
        self._at += HEAD + max(part.shape[0] for part in pixels) + 8

    def _head(self, panel: Panel, left: int, width: int) -> None:
        name, plain = _font(15, True), _font(13)
        self._draw.text((left, self._at), panel.title, INK, name)
        after = left + name.getlength(panel.title) + 10
        self._draw.text((after, self._at + 2), panel.under, SOFT, plain)
        if panel.full is None:
            return
        words = panel.ends
        sizes = [plain.getlength(word) for word in words]
        start = left + width - BAR[0] - sum(sizes) - 12
        self._draw.text((start, self._at + 2), words[0], SOFT, plain)
        self.image.paste(_bar(), (int(start + sizes[0] + 6), self._at + 6))
        self._draw.text((left + width - sizes[1], self._at + 2), words[1], SOFT, plain)


def _bar() -> Image.Image:
    """The colour scale, from blue over white to red."""
    shades = maps.colours(np.linspace(-1, 1, BAR[0]).reshape(1, 1, -1), 1.0)[0]
    return Image.fromarray(shades.repeat(BAR[1], axis=0))


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines that fit."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(13).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans, which comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)
