"""Names of classes and their numbers.

Names become numbers in alphabetical order, or in the order of a given list, so that train and val agree. Labels that are
numbers stay numbers; whether they begin at 0 or at 1 is said, not guessed. What could be either is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from data_pipeline.errors import BadDataset
from data_pipeline.packing.tables import read_text
from data_pipeline.shards.labels import LONGEST_NAME, MAX_LABEL, OTHER_NUMBER

FoundLabels = dict[str, str]  # each label as it was written: where it was first, e.g. "line 4"
LONGEST_NUMBER = 20  # digits
SHOWN = 40  # characters of a name that is too long


def read_classes(url: str) -> list[str]:
    """Names of classes in the order of their numbers: the lines of a text file, or those in a data set's index.json, or in the JSON
    beside weights (`label_names`). Raises BadDataset."""
    names = _of_index(url) if url.endswith(".json") else _of_lines(url)
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if not names or twice is not None:
        what = "one name per line is needed" if twice is None else f"{twice!r} is named twice"
        raise BadDataset(f"{url} is no list of classes: {what}")
    check_names(names, f"{url} is no list of classes")
    return names


def _of_lines(url: str) -> list[str]:
    names = [line.strip() for line in read_text(url).split("\n")]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise BadDataset(
            f"{url} is no list of classes: line {names.index('') + 1} is empty; one name per line is needed"
        )
    return names


def _of_index(url: str) -> list[str]:
    try:
        tree = json.loads(read_text(url))
        names = tree.get("classes", tree.get("label_names"))
    except (ValueError, AttributeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadDataset(
            f"{url} names no classes; give the index.json of a data set whose classes have names"
        )
    return names


def check_names(names: Iterable[str], where: str) -> None:
    """BadDataset for the name of a class that cannot be written, printed or drawn."""
    for name in names:
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise BadDataset(
                f"{where}: {name[:SHOWN]!r} cannot be the name of a class; "
                f"1 to {LONGEST_NAME} printable characters, in UTF-8, are allowed"
            )


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


def are_names(found: FoundLabels, classes: Sequence[str] | None, where: str) -> bool:
    """Whether labels are names of classes; else they are numbers. BadDataset where they are some of both, or other numbers."""
    if not found:
        return False
    if classes is not None and (found.keys() <= set(classes) or all(map(_is_number, classes))):
        return True
    numbers = [word for word in found if _is_number(word)]
    if classes is not None or len(numbers) == len(found):
        return len(numbers) < len(found)
    other = next((word for word in found if not _is_number(word) and OTHER_NUMBER.fullmatch(word)), None)
    if other is not None:
        what = f"the label {other!r} ({found[other]}) is no class number"
    elif numbers:
        word = next(word for word in found if not _is_number(word))
        what = f"labels are numbers ({numbers[0]!r}, {found[numbers[0]]}) and words ({word!r}, {found[word]})"
    else:
        return True
    raise BadDataset(
        f"{where}: {what}; whole numbers from 0 (or 1), or names, are needed. "
        "If these are names, list them (classes)"
    )


def number_words(
    found: FoundLabels, classes: Sequence[str] | None, base: int | None, where: str
) -> tuple[dict[str, int], list[str] | None]:
    """(the number of each label, names of the classes or None).

    base: what the first class is called where labels are numbers: 0 (as it is taken when it is None) or 1.
    """
    if are_names(found, classes, where):
        if base is not None:
            raise BadDataset(
                f"{where}: its labels are names (one is {next(iter(found))!r}); labels-base is for numbers"
            )
        numbers = numbers_of(sorted(found), classes)
        return {word: numbers[word] for word in found}, list(numbers)
    base = base or 0
    values = {word: int(word) - base for word in found}
    limit = MAX_LABEL if classes is None else len(classes) - 1
    if values and not 0 <= min(values.values()) <= max(values.values()) <= limit:
        low, high = min(values.values()) + base, max(values.values()) + base
        raise BadDataset(f"{where}: labels run from {low} to {high}; {base} to {limit + base} are allowed")
    return values, None if classes is None else list(classes)


def first_number(found: FoundLabels, base: int | None, where: str) -> int:
    """Where numbers begin: as said; 0 where a 0 is among them. Else it must be said."""
    numbers = [int(word) for word in found]
    if base is not None or 0 in numbers:
        return base or 0
    raise BadDataset(
        f"the labels in {where} are numbers from {min(numbers)} to {max(numbers)}, without a 0: "
        "say labels-base 1 if the first class is called 1, or labels-base 0"
    )


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < LONGEST_NUMBER
