"""The place a pack goes to: empty, begun, or finished. What is there is refused, gone on with, or cleared away.

`pack.json` decides. Without it the place must hold no shards and no index. With it the plan must be the one that it was made
from; then what is missing is made, or, if it says `finished`, nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.packing.notes import NOTES
from data_pipeline.packing.plan import FINISHED, PLAN, Options, Plan, make_plan
from data_pipeline.packing.sheet import SHEET
from data_pipeline.packing.sources import DIGITS, Source
from data_pipeline.packing.summary import SUMMARY
from data_pipeline.shards.format import INDEX
from data_pipeline.storage import Store, open_store


@dataclass(frozen=True)
class Job:
    """A pack under way. `places` are those of the plan's sets; `home` is above them, or the only one."""

    home: Store
    places: list[Store]
    source: Source
    plan: Plan
    seed: int
    finished: bool


def begin(home: Store, name: str, source: Source, options: Options, overwrite: bool) -> Job:
    """Makes the plan, and sees that the place is empty, or holds what was begun, or finished, by the same plan."""
    begun = None if overwrite else _begun(home)
    plan = make_plan(name, source, options, begun)
    places = [home.sub(one.folder) if one.folder else home for one in plan.sets]
    finished = begun is not None and bool(begun.get(FINISHED)) and all(place.head(INDEX) for place in places)
    if overwrite:
        _clear(home, places)
    if begun is None:
        for place in places:
            _check_empty(place)
        home.put(PLAN, plan.dump())
    elif differences := plan.differences(begun, sizes=finished):
        raise BadDataset(
            f"{home.url} already holds {'a pack' if finished else 'a pack that was begun'} of something else: "
            f"{'; '.join(differences)}; give what it was made from, choose another place, or overwrite it"
        )
    return Job(home, places, source, plan, options.seed, finished)


def _begun(home: Store) -> dict[str, Any] | None:
    """The facts of the plan of a pack that was begun, and perhaps finished."""
    try:
        facts = json.loads(home.get(PLAN))
    except NotFound:
        return None
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise BadDataset(f"{home.url}/{PLAN} is no plan of a pack; choose another place, or overwrite it")
    return facts


def _check_empty(place: Store) -> None:
    """Refuses a place that holds shards or an index."""
    old = [INDEX] if place.head(INDEX) else _shards_in(place)
    if old:
        raise BadDataset(f"{place.url} already holds {old[0]}; choose another place, or overwrite it")


def _clear(home: Store, places: list[Store]) -> None:
    """Empties the places, index first, so that no half of a set looks whole; then the plan, so that none is taken for begun."""
    for place in places:
        place.delete(INDEX)
    drop_notes(home)
    home.delete(PLAN)
    for place in places:
        for key in _shards_in(place):
            place.delete(key)
    for key in (SUMMARY, SHEET):
        home.delete(key)


def drop_notes(home: Store) -> None:
    for info in list(home.list(NOTES)):
        home.delete(info.key)


def _shards_in(place: Store) -> list[str]:
    return [
        info.key for info in place.list() if "/" not in info.key and info.key.endswith((".tar", ".tar.idx"))
    ]


def check_apart(source: str, home: Store) -> None:
    """Refuses to write into the folder that is packed: what was written would be packed with it the next time."""
    if source != DIGITS and f"{home.url}/".startswith(f"{open_store(source).url}/"):
        raise BadDataset(f"{home.url} lies in {source}, which is to be packed; choose a place outside of it")
