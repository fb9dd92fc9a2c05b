"""What an earlier pack left, cleared away: only what a pack wrote there, and all of it or, where other tars lie beside it, nothing.

Shards are a pack's where its pack.json counts them, or where the index.json beside them names them and they are called as a
pack calls them. The order is index.json (no half of a set looks whole), notes, shards, summary and sheet; pack.json stays
until the new one takes its place, so a clearing that is killed is gone on with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.packing.notes import NOTES
from data_pipeline.packing.plan import FOLDERS, shard_name
from data_pipeline.packing.sheet import SHEET
from data_pipeline.packing.summary import SUMMARY
from data_pipeline.shards.format import IDX, INDEX, parse_index
from data_pipeline.storage import Store

OURS = re.compile(rf"({'|'.join(FOLDERS)})-[0-9]{{6,}}\.tar")
NAMED = 5  # of the tars that are in the way


def old_places(home: Store, begun: Mapping[str, Any] | None) -> dict[str, Store]:
    """The places of the sets that an earlier pack.json names, by name."""
    sets = begun["sets"] if begun else {}
    return {name: place_of(home, folder) for name, folder in FOLDERS.items() if name in sets}


def place_of(home: Store, folder: str) -> Store:
    return home.sub(folder) if folder else home


def clear(home: Store, begun: Mapping[str, Any] | None, places: Sequence[Store]) -> None:
    """Empties `places` and those of the earlier pack. BadDataset, and nothing is touched, where other tars lie in one of them."""
    old = old_places(home, begun)
    everywhere = {place.url: place for place in [*places, *old.values()]}
    written = {url: _by_index(place) for url, place in everywhere.items()}
    for name, place in old.items():
        written[place.url] |= _by_plan(name, begun)
    found = {url: shards_in(place) for url, place in everywhere.items()}
    _check_no_others(found, written)
    for place in everywhere.values():
        place.delete(INDEX)
    drop_notes(home)
    for url, place in everywhere.items():
        for key in found[url]:
            place.delete(key)
    for key in (SUMMARY, SHEET) if begun else ():
        home.delete(key)


def drop_notes(home: Store) -> None:
    """The notes of a pack, and nothing else that may lie in a folder of that name."""
    for info in list(home.list(NOTES)):
        folder, _, name = info.key.removeprefix(NOTES).partition("/")
        if folder in FOLDERS and OURS.fullmatch(name.removesuffix(".json")):
            home.delete(info.key)


def shards_in(place: Store) -> list[str]:
    """Tars and their idx files, right in the place."""
    return [
        info.key for info in place.list() if "/" not in info.key and info.key.endswith((".tar", ".tar" + IDX))
    ]


def _check_no_others(found: Mapping[str, Sequence[str]], written: Mapping[str, set[str]]) -> None:
    others = [
        f"{url}/{key}"
        for url, keys in found.items()
        for key in keys
        if key.removesuffix(IDX) not in written[url]
    ]
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise BadDataset(
            f"no pack wrote {', '.join(others[:NAMED])}{more}, so `--overwrite` does not remove them, and removed "
            "nothing; move them, or choose another place"
        )


def _by_plan(name: str, begun: Mapping[str, Any] | None) -> set[str]:
    count = begun["sets"][name].get("shards", 0) if begun else 0
    return {shard_name(name, number) for number in range(count)}


def _by_index(place: Store) -> set[str]:
    try:
        _, shards, _ = parse_index(place.get(INDEX), f"{place.url}/{INDEX}")
    except (NotFound, BadDataset):
        return set()
    return {name for name in shards.names if OURS.fullmatch(name)}
