"""Where the shards of a data set lie: urls with braces and globs -> shards, in order.

    s3://b/set                        every *.tar directly under it
    s3://b/set/x-{000000..001023}.tar   exactly these; each must be there
    s3://b/set/**/x-[0-9]*.tar        those that are there, sorted by name; ** stands for any folders

The chain: each url is cut before its first special character into a folder and a pattern; `Place` is the
common folder of all of them, and the patterns below it. Order is that of the patterns, then of the expansion.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from braceexpand import braceexpand

from data_pipeline.errors import BadDataset
from data_pipeline.storage import ObjectInfo, Store, open_store

TAR = ".tar"
ALL_TARS = "*.tar"
MAX_SHARDS = 2_000_000  # that braces may name
FEW = 16  # names in one folder: looked at one by one instead of by listing
NAMED = 5
COMPRESSED_NAME = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|lz4|lzma|lz|Z))$")
_GLOB = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")
_SPECIAL = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Place:
    """`store` is the common folder of the shards; `patterns` say, relative to it and in order, which they are."""

    store: Store
    patterns: tuple[str, ...] = (ALL_TARS,)

    @classmethod
    def of(cls, urls: Sequence[str]) -> Place:
        """The place that `urls` name together. Raises BadDataset where they have no common store."""
        if not urls:
            raise BadDataset("no shards are named; give a folder, a pattern or several")
        cut = [_cut(url) for url in urls]
        folders = [open_store(folder).url for folder, _ in cut]
        common = _common(folders)
        inner = [_below(folder, common) for folder in folders]
        patterns = (
            "/".join(filter(None, (_escaped(way), pattern)))
            for way, (_, pattern) in zip(inner, cut, strict=True)
        )
        return cls(open_store(common), tuple(patterns))

    def shards(self) -> list[ObjectInfo]:
        """The shards, in order. BadDataset for one that is missing, compressed or named twice, and for a glob without any."""
        found: dict[str, ObjectInfo] = {}
        missing: list[str] = []
        listing = _Listing(self.store, self._items())
        for item in self._items():
            taken = listing.matching(item)
            if not taken and _GLOB.search(item):
                raise BadDataset(self._nothing(item, listing))
            missing += [] if taken else [item]
            for info in taken:
                if info.key in found:
                    raise BadDataset(f"{self.store.url}/{info.key} is named twice; name every shard once")
                found[info.key] = info
        if missing:
            raise BadDataset(self._missing(missing, len(missing) + len(found)))
        _refuse_compressed(self.store, [*found, *listing.compressed()])
        return list(found.values())

    def present(self) -> list[ObjectInfo]:
        """What of the patterns is there, in no special order."""
        listing = _Listing(self.store, self._items())
        found = {info.key: info for item in self._items() for info in listing.matching(item)}
        return list(found.values())

    def prefixes(self) -> set[str]:
        """Prefixes of keys that hold all shards, and so, in the index's folder, all idx files."""
        return _outermost(_prefix(item) if _GLOB.search(item) else _folder(item) for item in self._items())

    def _items(self) -> Iterator[str]:
        """Names, and globs, that the braces stand for."""
        for pattern in self.patterns:
            too_many = BadDataset(
                f"the braces in {pattern!r} stand for more than {MAX_SHARDS} shards; correct the range"
            )
            if any(abs(int(last) - int(first)) >= MAX_SHARDS for first, last in _RANGE.findall(pattern)):
                raise too_many  # before braceexpand writes them all down
            try:
                items = iter(braceexpand(pattern))
                yield from islice(items, MAX_SHARDS)
            except ValueError:  # its UnbalancedBracesError
                raise BadDataset(f"the braces in {pattern!r} do not pair; close each one") from None
            if next(items, None) is not None:
                raise too_many

    def _missing(self, missing: Sequence[str], total: int) -> str:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        hint = "" if missing[0].endswith(TAR) else ". A pattern of folders goes on: {train,val}/*.tar"
        return (
            f"{len(missing)} of the {total} shards named are not at {self.store.url}: {named}; bring them there, "
            f"or correct the pattern{hint}"
        )

    def _nothing(self, item: str, listing: _Listing) -> str:
        deeper = sorted(
            {_folder(key).rstrip("/") for key in listing.keys(item) if "/" in key and key.endswith(TAR)}
        )
        some = f"there are some under {', '.join(deeper[:3])}: index those" if deeper else "correct the url"
        what = (
            f"no {ALL_TARS} directly under {self.store.url}"
            if item == ALL_TARS
            else f"no shard that matches {self.store.url}/{item}"
        )
        packed = listing.compressed()
        if packed:
            _refuse_compressed(self.store, packed)
        return f"there is {what}; {some}"


class _Listing:
    """What lies at a store, as far as names and globs ask for it; every prefix is listed once."""

    def __init__(self, store: Store, items: Iterable[str]) -> None:
        self.store = store
        self._globs: dict[str, list[ObjectInfo]] = {}
        self._named: dict[str, ObjectInfo] = {}
        folders: dict[str, list[str]] = defaultdict(list)
        self._patterns: list[str] = []
        for item in items:
            if _GLOB.search(item):
                self._patterns.append(item)
                if _prefix(item) not in self._globs:
                    self._globs[_prefix(item)] = list(store.list(_prefix(item)))
            else:
                folders[_folder(item)].append(item)
        for names in folders.values():
            self._look(names)

    def matching(self, item: str) -> list[ObjectInfo]:
        if not _GLOB.search(item):
            return [self._named[item]] if item in self._named else []
        return [
            info for info in self._globs[_prefix(item)] if info.key.endswith(TAR) and matches(info.key, item)
        ]

    def keys(self, item: str) -> Iterator[str]:
        return (info.key for info in self._globs.get(_prefix(item), ()))

    def compressed(self) -> list[str]:
        """Compressed tars that a glob would match if they were not, and that do not lie beside the plain one."""
        keys = {info.key for infos in self._globs.values() for info in infos}
        plain = {key: COMPRESSED_NAME.sub(TAR, key) for key in keys if COMPRESSED_NAME.search(key)}
        return sorted(
            key
            for key, name in plain.items()
            if name not in keys and any(matches(name, pattern) for pattern in self._patterns)
        )

    def _look(self, names: list[str]) -> None:
        if len(names) <= FEW:
            self._named |= {name: info for name in names if (info := self.store.head(name))}
            return
        wanted = set(names)
        prefix = os.path.commonprefix(names)  # noqa: RUF071  (of characters, as a listing takes it)
        self._named |= {info.key: info for info in self.store.list(prefix) if info.key in wanted}


def matches(key: str, glob: str) -> bool:
    """Whether a glob means a key: `*`, `?`, `[...]` within a part, `**` for any number of parts. Hidden parts need a dot."""
    return _match(key.split("/"), glob.split("/"))


def _match(parts: Sequence[str], globs: Sequence[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        further = bool(parts) and not parts[0].startswith(".") and _match(parts[1:], globs)
        return further or _match(parts, globs[1:])
    if not parts or (parts[0].startswith(".") and not globs[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], globs[0]) and _match(parts[1:], globs[1:])


def _cut(url: str) -> tuple[str, str]:
    """Folder and pattern of a url."""
    special = None if _is_folder(url) else _SPECIAL.search(url)
    if special is None and (_is_folder(url) or not url.endswith(TAR)):
        return url.rstrip("/") or url, ALL_TARS
    folder, _, _ = url[: special.start() if special else len(url)].rpartition("/")
    pattern = url[len(folder) :].lstrip("/")
    if re.fullmatch(r"[a-z0-9]+:/?", folder):
        raise BadDataset(f"{url!r}: braces and globs may stand after the bucket's name only")
    if url.startswith("file:"):
        pattern = unquote(pattern)
    return folder or ("/" if url.startswith("/") else "."), pattern


def _is_folder(url: str) -> bool:
    """Whether the url, as it stands, is a folder on this machine; its name may then hold any character."""
    return "://" not in url and Path(url).expanduser().is_dir()


def _common(folders: Sequence[str]) -> str:
    parts = [urlsplit(folder) for folder in folders]
    if len({(part.scheme, part.netloc) for part in parts}) > 1:
        raise BadDataset(
            f"shards of one data set lie in one store; these are several: {', '.join(sorted(set(folders))[:3])}"
        )
    path = os.path.commonpath([part.path or "/" for part in parts])
    return parts[0]._replace(path=path).geturl()


def _below(folder: str, common: str) -> str:
    """The way from the common folder to `folder`, as keys are written."""
    way = folder[len(common.rstrip("/")) :].strip("/")
    return unquote(way) if folder.startswith("file:") else way


def _escaped(way: str) -> str:
    """A path whose special characters stand for themselves."""
    return re.sub(r"([{},\\])", r"\\\1", re.sub(r"([*?\[])", r"[\1]", way))


def _prefix(glob: str) -> str:
    """What every key that matches begins with."""
    special = _GLOB.search(glob)
    return glob[: special.start()] if special else glob


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _outermost(prefixes: Iterable[str]) -> set[str]:
    """The prefixes that none of the others covers."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return set(kept)


def _refuse_compressed(store: Store, keys: Iterable[str]) -> None:
    packed = [key for key in keys if COMPRESSED_NAME.search(key)]
    if packed:
        raise BadDataset(
            f"{store.url}/{packed[0]} is compressed ({len(packed)} such): unpack it; ranges need plain tar"
        )
