"""Where images to pack come from: `open_source` looks at what it is given and lists the images with their labels.

    sklearn:digits                    scikit-learn's handwritten digits
    .csv .jsonl .parquet              tables of path or url, and label or labels (`tables`)
    .tar                              class tars in a tar, class folders in a tar, or images with a label file (`archives`)
    a folder, or s3://bucket/prefix   class folders, class tars, or images with a label file

Classes are numbered in alphabetical order, or by the list that is given. Files that cannot be meant are listed, not
dropped unsaid. Images are read when they are packed, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.errors import BadDataset
from data_pipeline.packing import tables
from data_pipeline.packing.archives import Tar, class_name, images_of, is_tar
from data_pipeline.packing.classes import FoundLabels, check_names, number_words, numbers_of
from data_pipeline.packing.digits import CLASSES, digits
from data_pipeline.packing.digits import DIGITS as DIGITS
from data_pipeline.packing.folders import HIDDEN, NO_FOLDER, choose, hidden_folder, left_out
from data_pipeline.packing.items import Items
from data_pipeline.packing.labelling import Labelling as Labelling
from data_pipeline.packing.labelling import labels_of
from data_pipeline.packing.origins import Archive, Links, Objects
from data_pipeline.shards.labels import JSON, LabelRule
from data_pipeline.storage import Store, open_store

DIGITS_SIDE, DIGITS_VAL_SHARE, DIGITS_SHARD_BYTES = 32, 0.2, 600 << 10
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


@dataclass
class Source:
    """What a pack writes. `sized`: images were made at the size asked for. `ignored` names files that were left out, and why;
    `remarks` are for the summary. `repeats`: images that are listed before; they cannot be split.
    """

    items: Items
    classes: Sequence[str] | None
    rule: LabelRule = field(default_factory=LabelRule)
    val_share: float | None = None
    shard_bytes: int | None = None
    sized: bool = False
    ignored: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    repeats: int = 0

    def check_split(self) -> None:
        """BadDataset where a split would put one image into both parts."""
        if self.repeats:
            raise BadDataset(
                f"images are listed more than once ({self.repeats} rows too many), and --val-share would put some of them into "
                "train and val; list each once"
            )


def open_source(source: str | Path, size: int | None = None, labelling: Labelling | None = None) -> Source:
    """The images of `source`. `size` matters for digits only: the side they are scaled up to. Raises BadDataset, StoreError."""
    said = labelling or Labelling()
    url = str(source)
    _check_said(url, said)
    if url == DIGITS:
        return Source(
            digits(size or DIGITS_SIDE),
            CLASSES,
            val_share=DIGITS_VAL_SHARE,
            shard_bytes=DIGITS_SHARD_BYTES,
            sized=True,
        )
    if tables.is_table(url):
        found = _listed(url, said)
    elif is_tar(url):
        found = _tar(url, said)
    else:
        found = _folder(_opened(url), said)
    if not found.items:
        raise BadDataset(f"there is no image in {url}")
    check_names(found.classes or (), url)
    return found


def _check_said(url: str, said: Labelling) -> None:
    """BadDataset for what cannot be said of labels here."""
    if url == DIGITS and said != Labelling():
        raise BadDataset(
            f"{DIGITS} brings its labels and classes; leave --labels, --labels-base and --classes out"
        )
    if said.file and tables.is_table(url):
        raise BadDataset(f"{url} holds its labels itself; a label file is for a tar or folder of images")
    if said.base is not None and not said.file and not tables.is_table(url):
        raise BadDataset(
            "labels-base is for labels that are numbers, in a table or a label file; give labels, or leave it out"
        )


def _opened(url: str) -> Store:
    if url.lower().endswith(COMPRESSED):
        raise BadDataset(f"{url} is compressed, and images are read from their places: unpack it to a .tar")
    if "://" not in url:
        path = Path(url).expanduser()
        if not path.exists():
            raise BadDataset(f"there is no {url}")
        if not path.is_dir():
            raise BadDataset(
                f"cannot pack {url!r}: give a folder of class folders or class tars, a .tar, .csv, .jsonl or .parquet, or {DIGITS}"
            )
    return open_store(url)


def _listed(url: str, said: Labelling) -> Source:
    """A table's images; its labels become numbers when all are known."""
    several, rows = tables.rows(url)
    base = open_store(url.rpartition("/")[0]) if "://" in url else Path(url).expanduser().parent
    links, items, numbers, words = Links(base), Items(), dict[str, int](), FoundLabels()
    origin = items.origin(links)
    for name, labels, line in rows:
        for word in labels:
            if word not in words:
                words[word], numbers[word] = line, len(words)
        items.add(name, [numbers[word] for word in labels], links.size(name), origin)
    repeats = _repeats(items, url)
    found, classes = number_words(words, said.classes, said.base, url)
    items.relabel([found[word] for word in numbers])
    remarks = (
        [f"{url} lists images more than once, {repeats} rows too many; they are packed as often"]
        if repeats
        else []
    )
    rule = LabelRule(JSON) if several else LabelRule()
    return Source(items, classes, rule, remarks=remarks, repeats=repeats)


def _repeats(items: Items, url: str) -> int:
    """How many rows list an image that was listed before. BadDataset where their labels differ."""
    again = items.repeated()
    for name, rows in again.items():
        if len({tuple(sorted(items[row].labels)) for row in rows}) > 1:
            raise BadDataset(
                f"{url} lists {name!r} {len(rows)} times, with different labels; give one row with all of them (labels)"
            )
    return sum(len(rows) - 1 for rows in again.values())


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
        ignored = [left_out(entry.name, "not a class tar") for entry in inner if not is_tar(entry.name)]
        return _class_tars([tar.inside(entry) for entry in inner if is_tar(entry.name)], said, ignored)
    chosen, ignored = choose([entry.name for entry in inner], bool(said.file))
    if not chosen and any(one["why"] == NO_FOLDER for one in ignored):
        raise BadDataset(f"{url} holds images without class: give a file of their labels (labels)")
    images = sorted((inner[number] for number in chosen), key=lambda entry: entry.name)
    labels, classes, remarks = labels_of([entry.name for entry in images], said, url, lambda _: ())
    items = Items()
    origin = items.origin(Archive(store, key))
    for entry, label in zip(images, labels, strict=True):
        items.add(entry.name, [label], entry.size, origin, entry.offset)
    return Source(items, classes, ignored=ignored, remarks=remarks)


def _class_tars(tars: Sequence[Tar], said: Labelling, ignored: Iterable[dict[str, str]]) -> Source:
    if said.file:
        raise BadDataset(
            f"{tars[0].where} is a class tar: it says its label itself; leave the label file out"
        )
    by_name = {class_name(tar.name): tar for tar in sorted(tars, key=lambda tar: class_name(tar.name))}
    if len(by_name) < len(tars):
        raise BadDataset(f"two tars are for the same class; {len(tars)} tars have {len(by_name)} names")
    numbers, items, others = numbers_of(list(by_name), said.classes), Items(), list(ignored)
    for name, tar, (images, no_images) in zip(
        by_name, by_name.values(), images_of(list(by_name.values())), strict=True
    ):
        origin = items.origin(Archive(tar.store, tar.key))
        others += no_images
        hidden = dict[str, None]()
        for entry in images:
            path = f"{name}/{entry.name.removeprefix('./')}"
            if folder := hidden_folder(path):
                hidden[folder] = None
                continue
            items.add(path, [numbers[name]], entry.size, origin, entry.offset)
        others += [left_out(folder, HIDDEN) for folder in hidden]
    return Source(items, list(numbers), ignored=others)


def _folder(store: Store, said: Labelling) -> Source:
    infos = list(store.list())
    tars = [info for info in infos if "/" not in info.key and is_tar(info.key)]
    chosen, ignored = choose([info.key for info in infos], bool(said.file))
    in_folder = next((infos[number].key for number in chosen if "/" in infos[number].key), None)
    if tars and in_folder:
        raise BadDataset(
            f"{store.url} holds both class tars ({tars[0].key}) and folders of images ({in_folder.rpartition('/')[0]}/): "
            "move the tars, or the folders, to a place of their own"
        )
    if tars:
        names = {one.key for one in tars}
        ignored = [left_out(one.key, "not a class tar") for one in infos if one.key not in names]
        return _class_tars([Tar(store, one.key, one.key, 0, one.size) for one in tars], said, ignored)
    if not chosen and not said.file:
        flat = any(one["why"] == NO_FOLDER for one in ignored)
        what = (
            "images and no label file: give one (labels)"
            if flat
            else "no sub-folders with images; one per class is needed"
        )
        raise BadDataset(f"{store.url} has {what}, or a table (.csv) of path,label")
    items, images = Items(), [infos[number] for number in chosen]
    origin = items.origin(Objects(store))
    labels, classes, remarks = labels_of(
        [info.key for info in images],
        said,
        store.url,
        lambda above: (store.sub(above) if above else store).folders(),
    )
    for info, label in zip(images, labels, strict=True):
        items.add(info.key, [label], info.size, origin)
    return Source(items, classes, ignored=ignored, remarks=remarks)
