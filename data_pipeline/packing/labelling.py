"""Which label each image of a folder or tar has: by a label file, or by the folder it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from data_pipeline.errors import BadDataset
from data_pipeline.packing.classes import are_names, first_number, number_words, numbers_of
from data_pipeline.packing.folders import class_of, hidden_folder, root
from data_pipeline.packing.label_file import label_file

SPLITS = {"train", "val", "valid", "validation", "test"}
NAMED = 3  # examples in a message


@dataclass(frozen=True)
class Labelling:
    """What the user says of labels: a label file, where its numbers begin, and the classes in the order of their numbers."""

    file: str | None = None
    base: int | None = None
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.base not in (None, 0, 1):
            raise BadDataset(f"labels-base is {self.base}; 0 or 1 is allowed")


def labels_of(
    names: Sequence[str], said: Labelling, where: str, folders: Callable[[str], Iterable[str]]
) -> tuple[list[int], list[str] | None, list[str]]:
    """(the class number of each image, names of the classes, remarks): by the label file, or by the folder in the name.

    folders: the names of those that lie directly in a folder, also of empty ones.
    """
    if not names:
        return [], None, []
    if said.file is None:
        return _by_folder(names, said.classes, where, folders)
    words, found, remarks = label_file(said.file, names)
    base = said.base
    if not are_names(found, said.classes, said.file):
        base = first_number(found, base, said.file)
        if base == 1:
            remarks.append(f"labels in {said.file}: the first class is called 1 there and 0 here")
    numbers, classes = number_words(found, said.classes, base, said.file)
    return [numbers[word] for word in words], classes, remarks


def _by_folder(
    names: Sequence[str],
    given: Sequence[str] | None,
    where: str,
    folders: Callable[[str], Iterable[str]],
) -> tuple[list[int], list[str] | None, list[str]]:
    above = root(names)
    words = [class_of(name, above) for name in names]
    classes = sorted(set(words))
    splits = {name.lower() for name in classes} & SPLITS
    if len(splits) > 1 or len(splits) == len(classes):
        raise BadDataset(
            f"{where} holds {', '.join(classes)}: pack each of them by itself, to places of their own"
        )
    numbers = numbers_of(classes, given)
    listed = [name for name in folders("/".join(above)) if not hidden_folder(f"{name}/x")]
    empty = [name for name in listed if name not in numbers]
    remarks = [f"{name}/ holds no image and is no class" for name in empty[:NAMED]]
    if len(classes) == 1 and given is None:
        remarks.append(f"all images are of one class, {classes[0]}")
    if len(empty) > NAMED:
        remarks.append(f"{len(empty) - NAMED:,} more folders hold no image and are no classes")
    return [numbers[word] for word in words], list(numbers), remarks
