"""Which files of a folder or a tar are images to pack, and which class the folder of each says: the same for both.

names -> `choose`: images, and what is left out with the reason -> `root`: the folders that all images share and that are
no class -> `class_of`: the first folder below them. So n01/x.jpg, imagenet/n01/x.jpg and n01/indoor/x.jpg beside n02 all
say n01.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data_pipeline.packing.archives import is_image
from data_pipeline.packing.web import shown

NOT_AN_IMAGE = "not the name of an image"
HIDDEN = "a hidden folder, or one of the system"
NO_FOLDER = "in no class folder"
OF_THE_SYSTEM = {"@eaDir", "lost+found"}


def choose(names: Iterable[str], labelled: bool) -> tuple[list[int], list[dict[str, str]]]:
    """(positions of the images, what is left out and why). labelled: images need no folder."""
    chosen, left = list[int](), dict[str, str]()
    for number, name in enumerate(names):
        if folder := hidden_folder(name):
            left[folder] = HIDDEN
        elif not is_image(name):
            left[name] = NOT_AN_IMAGE
        elif not labelled and not _parts(name):
            left[name] = NO_FOLDER
        else:
            chosen.append(number)
    return chosen, [left_out(path, why) for path, why in left.items()]


def left_out(path: str, why: str) -> dict[str, str]:
    return {"path": shown(path), "why": why}


def hidden_folder(name: str) -> str | None:
    """The hidden folder that `name` is in, with a slash at its end, if there is one."""
    parts = _parts(name)
    for depth, part in enumerate(parts, start=1):
        if part in OF_THE_SYSTEM or (part.startswith(".") and part not in (".", "..")):
            return "/".join(parts[:depth]) + "/"
    return None


def root(names: Sequence[str]) -> list[str]:
    """The folders above the class folders. All names have a folder; one that all of them share is a class if it holds images itself."""
    first, last = min(map(_parts, names)), max(map(_parts, names))
    shared = next(
        (n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
        min(len(first), len(last)),
    )
    return first[: shared - (shared == len(first))]


def class_of(name: str, above: Sequence[str]) -> str:
    """The folder of `name` that is its class, `above` being the root."""
    return _parts(name)[len(above)]


def _parts(name: str) -> list[str]:
    return name.removeprefix("./").split("/")[:-1]
