"""Names of classes and their numbers, and the labels of images that a file of their own gives.

Names become numbers in alphabetical order, or in the order of a given list, so that train and val agree. A label file
(`--labels`) is one of

    one label a line       in the order of the images' names (ILSVRC2012_validation_ground_truth.txt)
    name label             or name,label with or without a header; name with or without folder and extension
    ImageId,PredictionString   LOC_val_solution.csv; the first word is the class

Labels that are numbers stay numbers; whether they begin at 0 or at 1 is said, not guessed.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_pipeline.errors import BadDataset
from data_pipeline.packing.tables import read_text
from data_pipeline.shards.labels import LONGEST_NAME, MAX_LABEL

HEADERS = {"imageid", "name", "path", "image", "filename", "file", "file_name", "id", "image_id"}
NAMED = 3  # examples in a message


def read_classes(url: str) -> list[str]:
    """Names of classes in the order of their numbers: the lines of a text file, or those in a data set's index.json. Raises BadDataset."""
    names = _of_index(url) if url.endswith(".json") else [line.strip() for line in read_text(url).split("\n")]
    names = [name for name in names if name]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if not names or twice is not None or max(map(len, names)) > LONGEST_NAME:
        what = "one name per line is needed" if twice is None else f"{twice!r} is named twice"
        raise BadDataset(f"{url} is no list of classes: {what}")
    return names


def _of_index(url: str) -> list[str]:
    try:
        names = json.loads(read_text(url))["classes"]
    except (ValueError, KeyError, TypeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadDataset(
            f"{url} names no classes; give the index.json of a data set whose classes have names"
        )
    return names


def numbers_of(found: Sequence[str], classes: Sequence[str] | None) -> dict[str, int]:
    """The number of each class: its place in `classes`, or in `found`. BadDataset for one that is not among `classes`."""
    if classes is None:
        return {name: number for number, name in enumerate(found)}
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise BadDataset(
            f"the class {unknown[0]!r} is not among the {len(classes)} given ones ({len(unknown)} such)"
        )
    return numbers


def number_words(
    words: Sequence[str], classes: Sequence[str] | None, base: int | None, where: str
) -> tuple[list[int], list[str] | None]:
    """(the number of each label, names of the classes or None) for labels that are all numbers, or else names.

    base: what the first class is called where labels are numbers: 0 (as a table is taken when it is None) or 1.
    """
    named = classes is not None and set(words) <= set(classes)
    if named or not all(word.isascii() and word.isdecimal() for word in words):
        if base is not None:
            raise BadDataset(
                f"{where}: its labels are names (one is {words[0]!r}); labels-base is for numbers"
            )
        numbers = numbers_of(sorted(set(words)), classes)
        return [numbers[word] for word in words], list(numbers)
    found = [int(word) - (base or 0) for word in words]
    limit = MAX_LABEL if classes is None else len(classes) - 1
    if found and not 0 <= min(found) <= max(found) <= limit:
        low, high = min(found) + (base or 0), max(found) + (base or 0)
        raise BadDataset(
            f"{where}: labels run from {low} to {high}; {base or 0} to {limit + (base or 0)} are allowed"
        )
    return found, None if classes is None else list(classes)


def label_file(url: str, names: Sequence[str], base: int | None) -> tuple[list[str], int | None, list[str]]:
    """(the label of each of the images `names`, where numbers begin, remarks). `names` are sorted. Raises BadDataset."""
    rows = _rows(read_text(url), url)
    if len(rows[0]) == 1:
        if len(rows) != len(names):
            raise BadDataset(
                f"{url} has {len(rows)} labels and there are {len(names)} images; one each is needed"
            )
        found, remarks = [row[0] for row in rows], list[str]()
    else:
        found, remarks = _by_name(rows, names, url)
    base = _base(found, base, url)
    if base == 1:
        remarks.append(f"labels in {url}: the first class is called 1 there and 0 here")
    return found, base, remarks


def _rows(text: str, url: str) -> list[tuple[str, ...]]:
    """(label,) or (name, label), all of one length."""
    if url.lower().endswith(".csv"):
        cells = [row for row in csv.reader(io.StringIO(text)) if row]
        if cells and cells[0][0].strip().lower() in HEADERS:
            solution = cells[0][-1].strip().lower() == "predictionstring"
            cells = [[row[0], row[-1].split(" ")[0]] if solution else row for row in cells[1:]]
    else:
        cells = [line.split(None, 1) for line in text.split("\n") if line.strip()]
    rows = [tuple(cell.strip() for cell in row[:2]) for row in cells]
    if not rows or len({len(row) for row in rows}) > 1 or not all(all(row) for row in rows):
        raise BadDataset(f"{url} is no label file: lines of one label, or of a name and a label, are needed")
    return rows


def _by_name(rows: Sequence[tuple[str, ...]], names: Sequence[str], url: str) -> tuple[list[str], list[str]]:
    labels = {_bare(name): label for name, label in rows}
    known = [_bare(name) for name in names]
    if len(labels) < len(rows) or len(set(known)) < len(known):
        what = "it names an image twice" if len(labels) < len(rows) else "two images have the same name"
        raise BadDataset(f"{url}: {what}; names without folder and extension must differ")
    missing = [name for name, bare in zip(names, known, strict=True) if bare not in labels]
    if missing:
        raise BadDataset(
            f"{url} has no label for {len(missing)} of {len(names)} images: {', '.join(missing[:NAMED])}"
        )
    more = len(labels) - len(names)
    return [labels[bare] for bare in known], [
        f"{url} labels {more} images that are not there"
    ] if more else []


def _bare(name: str) -> str:
    path = PurePosixPath(name)
    return path.name.partition(".")[0] if path.suffix else path.name


def _base(labels: Sequence[str], base: int | None, url: str) -> int | None:
    """Where numbers begin: as said; 0 where a 0 is among them; names have none. Else it must be said."""
    numbers = [int(label) for label in labels if label.isascii() and label.isdecimal()]
    if len(numbers) < len(labels) or base is not None:
        return base
    if min(numbers) == 0:
        return 0
    raise BadDataset(
        f"the labels in {url} are numbers from {min(numbers)} to {max(numbers)}, without a 0: "
        "say labels-base 1 if the first class is called 1, or labels-base 0"
    )
