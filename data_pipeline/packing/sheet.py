"""The contact sheet: a picture of what was packed, drawn from the bytes in the shards.

The chain: a seeded choice of images from as many classes as fit -> their bytes by range from the shards -> decoded and set
into a grid, class by class, with the names underneath. Aspect is kept; small images are enlarged by whole numbers, so
that their pixels can be seen.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.errors import StoreError
from data_pipeline.packing.items import Items
from data_pipeline.packing.notes import Packed
from data_pipeline.packing.plan import PlannedSet
from data_pipeline.pixels.decode import decode
from data_pipeline.shards.format import IMAGE_EXTS
from data_pipeline.shards.tars import SpanSource, members
from data_pipeline.storage import Store

SHEET = "contact-sheet.png"
COLUMNS, ROWS = 8, 6
BOX, GAP, CAPTION, MARGIN, TITLE = 168, 14, 26, 28, 62  # pixels
PAPER, INK, FAINT, SHADE = (255, 255, 255), (28, 30, 34), (120, 124, 132), (241, 242, 244)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """One picture with what stands under it."""

    picture: Image.Image
    caption: str


def make_sheet(
    place: Store,
    planned: PlannedSet,
    packed: Sequence[Packed],
    items: Items,
    classes: Sequence[str] | None,
    seed: int,
) -> bytes:
    """The PNG of a set whose shards are all in `place`. StoreError; what else goes wrong ends no pack: the picture says it."""
    try:
        return _sheet(place, planned, packed, items, classes, seed)
    except StoreError:
        raise
    except Exception as error:
        return _not_drawn(error)


def _sheet(
    place: Store,
    planned: PlannedSet,
    packed: Sequence[Packed],
    items: Items,
    classes: Sequence[str] | None,
    seed: int,
) -> bytes:
    broken = np.array([number for one in packed for number, _, _ in one.note.broken], np.int64)
    good = np.setdiff1d(planned.order, broken)
    labels = items.first_labels[good]
    chosen = [int(good[n]) for n in choose(labels, COLUMNS * ROWS, seed)]
    places = np.flatnonzero(np.isin(planned.order, chosen))
    where = {int(planned.order[place]): int(place) for place in places}
    cells = [
        Cell(_picture(place, planned, packed, where[number]), _caption(items[number].labels, classes))
        for number in chosen
    ]
    kinds, seen = len(np.unique(labels)), len(np.unique(items.first_labels[chosen]))
    title = f"{_counted(len(good), 'image')}, {_counted(kinds, 'class')}"
    part = "" if seen == kinds else f" from {_counted(seen, 'class')}"
    return draw(title, f"{len(cells)} of them{part}, drawn with seed {seed}", cells)


def _not_drawn(error: Exception) -> bytes:
    """A picture with the reason, and without anything that could go wrong."""
    page = Image.new("RGB", (BOX * COLUMNS, 2 * MARGIN + TITLE), PAPER)
    what = f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode().partition("\n")[0]
    ImageDraw.Draw(page).text((MARGIN, MARGIN), f"The contact sheet could not be drawn: {what}", INK)
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def as_file(sheet: str) -> str:
    """Where a sheet goes that is asked for at `sheet`: a file, or a folder (it is there, or ends with a slash)."""
    is_folder = sheet.endswith("/") or ("://" not in sheet and Path(sheet).expanduser().is_dir())
    return f"{sheet.rstrip('/')}/{SHEET}" if is_folder else sheet


def _counted(count: int, what: str) -> str:
    plural = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{plural}"


def choose(labels: np.ndarray[tuple[int], np.dtype[np.int32]], cells: int, seed: int) -> list[int]:
    """Positions in `labels` of at most `cells` images, class by class: as many classes as fit, equally many of each."""
    random = np.random.Generator(np.random.Philox(key=[seed, 2**63 + 2]))
    kinds = np.unique(labels)
    if len(kinds) > cells:
        kinds = np.sort(random.choice(kinds, cells, replace=False))
    each = cells // len(kinds)
    found: list[int] = []
    for kind in kinds:
        members_of = np.flatnonzero(labels == kind)
        found += np.sort(random.choice(members_of, min(each, len(members_of)), replace=False)).tolist()
    return found


def _picture(place: Store, planned: PlannedSet, packed: Sequence[Packed], position: int) -> Image.Image:
    """The image at a position of the set's order, read from its shard."""
    number = int(np.searchsorted(planned.cuts, position, side="right")) - 1
    first, one = planned.cuts[number], packed[number]
    missing = {broken for broken, _, _ in one.note.broken}
    row = sum(n not in missing for n in planned.order[first:position].tolist())
    if one.scanned is None:
        raise AssertionError("a shard without images was asked for one")
    table = one.scanned.table
    span = place.get_range(one.scanned.shard.name, int(table.offsets[row]), int(table.lengths[row]))
    for member in members(SpanSource(span, one.scanned.shard.name), whole=False):
        if member.name.rpartition(".")[2] in IMAGE_EXTS:
            return Image.fromarray(decode(member.data))
    raise AssertionError("a sample without an image")


def _caption(labels: tuple[int, ...], classes: Sequence[str] | None) -> str:
    return ", ".join(str(label) if classes is None else classes[label] for label in labels)


def draw(title: str, subtitle: str, cells: Sequence[Cell]) -> bytes:
    """The sheet as PNG."""
    columns = min(COLUMNS, max(4, len(cells)))
    rows = -(-len(cells) // columns)
    width = 2 * MARGIN + columns * (BOX + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + TITLE + rows * (BOX + CAPTION + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, _font(24, bold=True))
    pen.text((MARGIN, MARGIN + 32), subtitle, FAINT, _font(14))
    for number, cell in enumerate(cells):
        left = MARGIN + number % columns * (BOX + GAP)
        top = MARGIN + TITLE + number // columns * (BOX + CAPTION + GAP)
        _draw_cell(sheet, pen, cell, left, top)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _draw_cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, left: int, top: int) -> None:
    pen.rectangle((left, top, left + BOX - 1, top + BOX - 1), SHADE)
    fitted = _fitted(cell.picture)
    sheet.paste(fitted, (left + (BOX - fitted.width) // 2, top + (BOX - fitted.height) // 2))
    font = _font(14)
    pen.text((left + BOX // 2, top + BOX + 5), _shortened(cell.caption, font), INK, font, anchor="ma")


def _fitted(picture: Image.Image) -> Image.Image:
    """Within the box, aspect kept: scaled down, or enlarged by a whole number."""
    scale = BOX / max(picture.size)
    if scale >= 1:
        return picture.resize([side * int(scale) for side in picture.size], Image.Resampling.NEAREST)
    sides = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(sides, Image.Resampling.LANCZOS)


def _shortened(text: str, font: Font) -> str:
    if font.getlength(text) <= BOX:
        return text
    while text and font.getlength(text + "…") > BOX:
        text = text[:-1]
    return text.rstrip() + "…"


@cache
def _font(size: int, bold: bool = False) -> Font:
    """DejaVu, which comes with matplotlib and knows many scripts; else Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)
