"""Where images to pack come from: a list of items with their labels, and the names of the classes.

Three kinds: a folder with one sub-folder per class; a .csv (columns path,label) or .jsonl ({"path": ..,
"label": ..}) with paths relative to the file; scikit-learn's handwritten digits (`sklearn:digits`). Labels
that are words become classes in alphabetical order; labels that are numbers stay as they are.

Images are read when an item is asked for its bytes, not before. Files that cannot be meant are listed, not
dropped unsaid.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.errors import BadDataset
from data_pipeline.shards.format import IMAGE_EXTS

DIGITS = "sklearn:digits"
DIGITS_SIDE, DIGITS_VAL_SHARE, DIGITS_SHARD_BYTES = 32, 0.2, 600 << 10
MAX_LABEL = 999_999_999
SPLITS = {"train", "val", "valid", "validation", "test"}
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Item:
    """One image: where it came from, its class, about how many bytes; in a file, or already in memory."""

    path: str
    label: int
    size: int
    content: Path | bytes

    @property
    def ext(self) -> str:
        return Path(self.path).suffix.lower().lstrip(".")

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def why_broken(self) -> str:
        """Why this image cannot be used; empty where it can."""
        from data_pipeline.decode import Undecodable, decode

        if self.ext not in IMAGE_EXTS:
            return f"its name ends in {self.ext!r}; one of {', '.join(IMAGE_EXTS)} is needed"
        try:
            decode(self.read())
        except OSError as error:
            return error.strerror or type(error).__name__
        except Undecodable as error:
            return str(error)
        return ""

    def image(self, short_side: int | None) -> tuple[str, bytes]:
        """(extension, bytes) as they are stored: untouched, or scaled down to `short_side` pixels."""
        data = self.read()
        return (self.ext, data) if short_side is None else _shrunk(self.ext, data, short_side)


@dataclass(frozen=True)
class Source:
    """What a pack writes. `ignored` names files that were left out, and why."""

    items: Sequence[Item]
    classes: Sequence[str] | None
    size: int | None = None
    val_share: float | None = None
    shard_bytes: int | None = None
    ignored: list[dict[str, str]] = field(default_factory=list)


def open_source(source: str | Path, size: int | None, classes: Sequence[str] | None = None) -> Source:
    """The items of `source`; `classes` fixes names and numbers. Raises BadDataset for what is no source."""
    if size is not None and size < 1:
        raise BadDataset(f"size is {size}; 1 or more pixels are allowed")
    if source == DIGITS:
        return _digits(size or DIGITS_SIDE)
    path = Path(source).expanduser()
    if path.is_dir():
        found = _folder(path, classes)
    elif path.suffix.lower() == ".csv":
        found = _listed(path, _csv_rows(path), classes)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        found = _listed(path, _jsonl_rows(path), classes)
    else:
        raise BadDataset(
            f"cannot pack {str(source)!r}: give a folder of class folders, .csv, .jsonl or {DIGITS}"
        )
    if not found.items:
        raise BadDataset(f"there is no image in {path}")
    return Source(found.items, found.classes, size, ignored=found.ignored)


def _digits(side: int) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    items = []
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        png = _digit_png(np.round(pixels * (255 / 16)).astype(np.uint8), side)
        items.append(Item(f"{DIGITS}/{number}.png", int(label), len(png), png))
    classes = [str(digit) for digit in range(10)]
    return Source(items, classes, val_share=DIGITS_VAL_SHARE, shard_bytes=DIGITS_SHARD_BYTES)


def _digit_png(grey: np.ndarray[tuple[int, int], np.dtype[np.uint8]], side: int) -> bytes:
    """An 8x8 digit as a side x side RGB PNG."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    image.convert("RGB").save(out, "PNG", optimize=False)
    return out.getvalue()


def _folder(root: Path, classes: Sequence[str] | None) -> Source:
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise BadDataset(f"{root} has no sub-folders; one per class is needed, or a .csv of path,label")
    if {name.lower() for name in folders} <= SPLITS:
        raise BadDataset(
            f"{root} holds {', '.join(folders)}: pack each of them by itself, to places of their own"
        )
    numbers = _numbers(folders, classes)
    items, ignored = [], []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root)
        if name.parts[0] not in numbers or path.suffix.lower().lstrip(".") not in IMAGE_EXTS:
            why = "not the name of an image" if name.parts[0] in numbers else "in no class folder"
            ignored.append({"path": str(name), "why": why})
        else:
            items.append(Item(name.as_posix(), numbers[name.parts[0]], path.stat().st_size, path))
    return Source(items, list(numbers), ignored=ignored)


def _listed(file: Path, rows: Iterable[tuple[str, str]], classes: Sequence[str] | None) -> Source:
    pairs = list(rows)
    words = sorted({label for _, label in pairs})
    if classes is None and all(label.isascii() and label.isdecimal() for label in words):
        numbers, names = {label: int(label) for label in words}, None
        if max(numbers.values(), default=0) > MAX_LABEL:
            raise BadDataset(f"{file}: the label {max(numbers.values())} is above {MAX_LABEL}")
    else:
        numbers = _numbers(words, classes)
        names = list(numbers)
    items = []
    for path, label in pairs:
        place = file.parent / path
        size = place.stat().st_size if place.is_file() else 0  # a missing one is named when it is read
        items.append(Item(path, numbers[label], size, place))
    return Source(items, names)


def _numbers(found: Sequence[str], classes: Sequence[str] | None) -> dict[str, int]:
    """The class number of each name."""
    unknown = sorted(set(found) - set(classes)) if classes is not None else []
    if unknown:
        raise BadDataset(f"the class {unknown[0]!r} is not among the {len(classes or ())} given ones")
    return {name: number for number, name in enumerate(found if classes is None else classes)}


def _csv_rows(file: Path) -> Iterator[tuple[str, str]]:
    with _opened(file) as lines:
        reader = csv.DictReader(lines)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise BadDataset(
                f"{file}: the first line is {reader.fieldnames}; columns path and label are needed"
            )
        for row in reader:
            yield _row(file, reader.line_num, row["path"], row["label"])


def _jsonl_rows(file: Path) -> Iterator[tuple[str, str]]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                yield _row(file, number, row["path"], row["label"])
            except (ValueError, KeyError, TypeError):
                raise BadDataset(f'{file}, line {number}: {{"path": ..., "label": ...}} is needed') from None


def _row(file: Path, number: int, path: object, label: object) -> tuple[str, str]:
    named = isinstance(label, str | int) and not isinstance(label, bool) and str(label).strip()
    if not isinstance(path, str) or not path or not named:
        raise BadDataset(f"{file}, line {number}: path is {path!r} and label is {label!r}; both are needed")
    return path, str(label).strip()


def _opened(file: Path) -> io.TextIOWrapper:
    try:
        return file.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise BadDataset(f"cannot read {file}: {error.strerror}") from None


def _shrunk(ext: str, data: bytes, short_side: int) -> tuple[str, bytes]:
    from PIL import Image

    from data_pipeline.decode import decode

    pixels = decode(data)
    height, width = pixels.shape[:2]
    if min(height, width) <= short_side:
        return ext, data
    scale = short_side / min(height, width)
    sides = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    out = io.BytesIO()
    image = Image.fromarray(pixels).resize(sides, Image.Resampling.LANCZOS)
    if ext in ("jpg", "jpeg"):
        image.save(out, "JPEG", quality=JPEG_QUALITY)
        return ext, out.getvalue()
    image.save(out, "PNG")
    return "png", out.getvalue()
