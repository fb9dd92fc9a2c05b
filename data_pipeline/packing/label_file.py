"""A file with the labels of images (`--labels`), in one of these forms:

    one label a line       in the order of the images' names (ILSVRC2012_validation_ground_truth.txt)
    name label             or name,label with or without a header; name with or without folder and extension
    ImageId,PredictionString   LOC_val_solution.csv; the first word is the class

Order is trusted only where the order of characters is also the order of the numbers in the names: img2 and img10 would
be the other way round for whoever wrote the labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import PurePosixPath

from data_pipeline.errors import BadDataset
from data_pipeline.packing.classes import FoundLabels
from data_pipeline.packing.tables import csv_lines, read_text
from data_pipeline.shards.format import IMAGE_EXTS

HEADERS = {"imageid", "name", "path", "image", "filename", "file", "file_name", "id", "image_id"}
NAMED = 3  # examples in a message
LONGEST_RUN = 40  # digits; longer ones are compared as text
Rows = list[tuple[int, tuple[str, ...]]]


def label_file(url: str, names: Sequence[str]) -> tuple[list[str], FoundLabels, list[str]]:
    """(the label of each of the images `names`, each label with its line, remarks). `names` are sorted. Raises BadDataset."""
    rows = _rows(url)
    words: FoundLabels = {}
    for line, cells in rows:
        words.setdefault(cells[-1], f"line {line}")
    if len(rows[0][1]) > 1:
        labels, remarks = _by_name({name: label for _, (name, label) in rows}, len(rows), names, url)
        return labels, {word: words[word] for word in dict.fromkeys(labels)}, remarks
    if len(rows) != len(names):
        raise BadDataset(
            f"{url} has {len(rows)} labels and there are {len(names)} images; one each is needed"
        )
    _check_order(names, url)
    return [cells[0] for _, cells in rows], words, []


def _check_order(names: Sequence[str], url: str) -> None:
    for one, other in pairwise(names):
        if _natural(one) > _natural(other):
            raise BadDataset(
                f"{url} has labels without names, and the order of the names is not sure: {one!r} is before {other!r} "
                "by its characters and after it by its numbers; give lines of a name and a label"
            )


def _natural(name: str) -> str:
    """Compared as text, this is in the order of the numbers in the names."""
    return re.sub("[0-9]+", lambda run: run[0].zfill(LONGEST_RUN), name)


def _rows(url: str) -> Rows:
    """(line, (label,) or (name, label)), all of one length."""
    cells: list[tuple[int, list[str]]]
    if url.lower().endswith(".csv"):
        cells = [(line, row) for line, row in csv_lines(url) if row]
        if cells and cells[0][1][0].strip().lower() in HEADERS:
            solution = cells[0][1][-1].strip().lower() == "predictionstring"
            cells = [(line, [row[0], row[-1].split(" ")[0]] if solution else row) for line, row in cells[1:]]
    else:
        lines = enumerate(read_text(url).split("\n"), start=1)
        cells = [(number, line.split(None, 1)) for number, line in lines if line.strip()]
    rows = [(line, tuple(cell.strip() for cell in row[:2])) for line, row in cells]
    if not rows or len({len(row) for _, row in rows}) > 1 or not all(all(row) for _, row in rows):
        raise BadDataset(f"{url} is no label file: lines of one label, or of a name and a label, are needed")
    return rows


def _by_name(given: dict[str, str], rows: int, names: Sequence[str], url: str) -> tuple[list[str], list[str]]:
    """Names are compared whole, else without their folders, else without folders and extension: the first that fits all."""
    ways: tuple[Callable[[str], str], ...] = (_whole, _base_name, _bare)
    for way in ways:
        labels, known = {way(name): label for name, label in given.items()}, [way(name) for name in names]
        missing = [name for name, key in zip(names, known, strict=True) if key not in labels]
        twice = len(labels) < rows or len(set(known)) < len(known)
        if not missing and not twice:
            more = len(labels) - len(names)
            return [labels[key] for key in known], [
                f"{url} labels {more} images that are not there"
            ] if more else []
    if twice:
        what = "it names an image twice" if len(labels) < rows else "two images have the same name"
        raise BadDataset(f"{url}: {what}; names without folder and extension must differ")
    raise BadDataset(
        f"{url} has no label for {len(missing)} of {len(names)} images: {', '.join(missing[:NAMED])}"
    )


def _whole(name: str) -> str:
    return name.removeprefix("./")


def _base_name(name: str) -> str:
    return PurePosixPath(name).name


def _bare(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix[1:].lower() in IMAGE_EXTS else path.name
