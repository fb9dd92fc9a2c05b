"""Where images to pack come from: `open_source` looks at what it is given and lists the images with their labels.

    sklearn:digits                    scikit-learn's handwritten digits
    .csv .jsonl .parquet              tables of path or url, and label or labels (`tables`)
    .tar                              class tars in a tar, class folders in a tar, or images with a label file (`archives`)
    a folder, or s3://bucket/prefix   class folders, class tars, or images with a label file

Classes are numbered in alphabetical order, or by the list that is given. Files that cannot be meant are listed, not
dropped unsaid. Images are read when they are packed, not here.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from data_pipeline.errors import BadDataset
from data_pipeline.packing import tables
from data_pipeline.packing.archives import Tar, class_name, images_of, is_image, is_tar
from data_pipeline.packing.classes import label_file, number_words, numbers_of
from data_pipeline.packing.items import Items
from data_pipeline.packing.origins import Archive, Links, Memory, Objects
from data_pipeline.packing.web import shown
from data_pipeline.shards.labels import JSON, LabelRule
from data_pipeline.storage import ObjectInfo, Store, open_store

DIGITS = "sklearn:digits"
DIGITS_SIDE, DIGITS_VAL_SHARE, DIGITS_SHARD_BYTES = 32, 0.2, 600 << 10
SPLITS = {"train", "val", "valid", "validation", "test"}
NOT_AN_IMAGE = "not the name of an image"


@dataclass(frozen=True)
class Labelling:
    """What the user says of labels: a label file, where its numbers begin, and the classes in the order of their numbers."""

    file: str | None = None
    base: int | None = None
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.base not in (None, 0, 1):
            raise BadDataset(f"labels-base is {self.base}; 0 or 1 is allowed")


@dataclass
class Source:
    """What a pack writes. `sized`: images were made at the size asked for. `ignored` names files that were left out, and why;
    `remarks` are for the summary.
    """

    items: Items
    classes: Sequence[str] | None
    rule: LabelRule = field(default_factory=LabelRule)
    val_share: float | None = None
    shard_bytes: int | None = None
    sized: bool = False
    ignored: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def open_source(source: str | Path, size: int | None = None, labelling: Labelling | None = None) -> Source:
    """The images of `source`. `size` matters for digits only: the side they are scaled up to. Raises BadDataset, StoreError."""
    said = labelling or Labelling()
    url = str(source)
    if url == DIGITS:
        if said != Labelling():
            raise BadDataset(
                f"{DIGITS} brings its labels and classes; leave labels, labels-base and classes out"
            )
        return _digits(size or DIGITS_SIDE)
    if said.file and tables.is_table(url):
        raise BadDataset(f"{url} holds its labels itself; a label file is for a tar or folder of images")
    if tables.is_table(url):
        found = _listed(url, said)
    elif is_tar(url):
        found = _tar(url, said)
    elif "://" in url or Path(url).expanduser().is_dir():
        found = _folder(open_store(url), said)
    else:
        raise BadDataset(
            f"cannot pack {url!r}: give a folder of class folders or class tars, a .tar, .csv, .jsonl or .parquet, or {DIGITS}"
        )
    if not found.items:
        raise BadDataset(f"there is no image in {url}")
    return found


def _digits(side: int) -> Source:
    from sklearn.datasets import load_digits

    digits, items, images = load_digits(), Items(), list[bytes]()
    origin = items.origin(Memory(images))
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        images.append(_digit_png(np.round(pixels * (255 / 16)).astype(np.uint8), side))
        items.add(f"{DIGITS}/{number}.png", [int(label)], len(images[-1]), origin, number)
    classes = [str(digit) for digit in range(10)]
    return Source(items, classes, val_share=DIGITS_VAL_SHARE, shard_bytes=DIGITS_SHARD_BYTES, sized=True)


def _digit_png(grey: np.ndarray[tuple[int, int], np.dtype[np.uint8]], side: int) -> bytes:
    """An 8x8 digit as a side x side RGB PNG."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    image.convert("RGB").save(out, "PNG", optimize=False)
    return out.getvalue()


def _listed(url: str, said: Labelling) -> Source:
    """A table's images; its labels become numbers when all are known."""
    several, rows = tables.rows(url)
    base = open_store(url.rpartition("/")[0]) if "://" in url else Path(url).expanduser().parent
    links, items, words = Links(base), Items(), dict[str, int]()
    origin = items.origin(links)
    for name, labels in rows:
        items.add(name, [words.setdefault(word, len(words)) for word in labels], links.size(name), origin)
    numbers, classes = number_words(list(words), said.classes, said.base, url)
    items.relabel(numbers)
    return Source(items, classes, LabelRule(JSON) if several else LabelRule())


def _tar(url: str, said: Labelling) -> Source:
    folder, _, key = (
        url.rpartition("/") if "://" in url else (str(Path(url).expanduser().parent), "", Path(url).name)
    )
    store = open_store(folder)
    info = store.head(key)
    if info is None:
        raise BadDataset(f"there is no {url}")
    tar = Tar(store, key, key, 0, info.size)
    inner = list(tar.entries())
    if any(is_tar(entry.name) for entry in inner):
        ignored = [_left_out(entry.name, "not a class tar") for entry in inner if not is_tar(entry.name)]
        return _class_tars([tar.inside(entry) for entry in inner if is_tar(entry.name)], said, ignored)
    items, images = (
        Items(),
        sorted((entry for entry in inner if is_image(entry.name)), key=lambda entry: entry.name),
    )
    origin = items.origin(Archive(store, key))
    labels, classes, remarks = _labels([entry.name for entry in images], said, url)
    for entry, label in zip(images, labels, strict=True):
        items.add(entry.name, [label], entry.size, origin, entry.offset)
    ignored = [_left_out(entry.name, NOT_AN_IMAGE) for entry in inner if not is_image(entry.name)]
    return Source(items, classes, ignored=ignored, remarks=remarks)


def _class_tars(tars: Sequence[Tar], said: Labelling, ignored: Iterable[dict[str, str]]) -> Source:
    if said.file:
        raise BadDataset(
            f"{tars[0].where} is a class tar: it says its label itself; leave the label file out"
        )
    by_name = {class_name(tar.name): tar for tar in sorted(tars, key=lambda tar: class_name(tar.name))}
    if len(by_name) < len(tars):
        raise BadDataset(f"two tars are for the same class; {len(tars)} tars have {len(by_name)} names")
    numbers, items, left_out = numbers_of(list(by_name), said.classes), Items(), list(ignored)
    for name, tar, (images, others) in zip(
        by_name, by_name.values(), images_of(list(by_name.values())), strict=True
    ):
        origin = items.origin(Archive(tar.store, tar.key))
        left_out += others
        for entry in images:
            path = f"{name}/{entry.name.removeprefix('./')}"
            items.add(path, [numbers[name]], entry.size, origin, entry.offset)
    return Source(items, list(numbers), ignored=left_out)


def _folder(store: Store, said: Labelling) -> Source:
    infos = [info for info in store.list() if not _in_hidden_folder(info.key)]
    top = [info for info in infos if "/" not in info.key]
    tars, flat = [one for one in top if is_tar(one.key)], [one for one in top if is_image(one.key)]
    folders = [name for name in store.folders() if not name.startswith(".")]
    if tars and not folders:
        ignored = [_left_out(info.key, "not a class tar") for info in top if not is_tar(info.key)]
        return _class_tars([Tar(store, one.key, one.key, 0, one.size) for one in tars], said, ignored)
    if {name.lower() for name in folders} <= SPLITS and folders:
        raise BadDataset(
            f"{store.url} holds {', '.join(folders)}: pack each of them by itself, to places of their own"
        )
    if not said.file and not folders:
        what = (
            "images and no label file: give one (labels)"
            if flat
            else "no sub-folders; one per class is needed"
        )
        raise BadDataset(f"{store.url} has {what}, or a table (.csv) of path,label")
    found = _files(store, infos, folders, said)
    found.ignored += [
        _left_out(f"{name}/", "a hidden folder") for name in store.folders() if name.startswith(".")
    ]
    return found


def _in_hidden_folder(key: str) -> bool:
    return key.startswith(".") and "/" in key


def _files(store: Store, infos: Sequence[ObjectInfo], folders: Sequence[str], said: Labelling) -> Source:
    """Images in class folders, or, with a label file, anywhere."""
    meant = [info for info in infos if is_image(info.key) and (said.file or "/" in info.key)]
    names = {info.key for info in meant}
    ignored = [
        _left_out(info.key, NOT_AN_IMAGE if "/" in info.key or said.file else "in no class folder")
        for info in infos
        if info.key not in names
    ]
    items = Items()
    origin = items.origin(Objects(store))
    if said.file:
        labels, classes, remarks = _labels([info.key for info in meant], said, store.url)
    else:
        numbers, remarks = numbers_of(folders, said.classes), []
        labels, classes = [numbers[info.key.partition("/")[0]] for info in meant], list(numbers)
    for info, label in zip(meant, labels, strict=True):
        items.add(info.key, [label], info.size, origin)
    return Source(items, classes, ignored=ignored, remarks=remarks)


def _labels(
    names: Sequence[str], said: Labelling, where: str
) -> tuple[list[int], list[str] | None, list[str]]:
    """(the class number of each image, names of the classes, remarks): by the label file, or by the folder in the name."""
    if said.file is None:
        words = [PurePosixPath(name).parent.name for name in names]
        if not all(words):
            raise BadDataset(f"{where} holds images without class: give a file of their labels (labels)")
        numbers = numbers_of(sorted(set(words)), said.classes)
        return [numbers[word] for word in words], list(numbers), []
    if not names:
        return [], None, []
    words, base, remarks = label_file(said.file, names, said.base)
    found, classes = number_words(words, said.classes, base, said.file)
    return found, classes, remarks


def _left_out(path: str, why: str) -> dict[str, str]:
    return {"path": shown(path), "why": why}
