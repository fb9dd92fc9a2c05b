"""The place a pack goes to: empty, begun, or finished. What is there is refused, gone on with, or cleared away.

`pack.json` decides. Without it the place must hold no shards and no index. With it the plan must be the one that it was made
from; then what is missing is made, or, if it says `finished`, nothing. While a pack is not finished no index.json stands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.packing.apart import check_apart
from data_pipeline.packing.clearing import clear, old_places, place_of, shards_in
from data_pipeline.packing.notes import NOTES
from data_pipeline.packing.plan import FINISHED, PLAN, Options, Plan, make_plan
from data_pipeline.packing.sources import Source
from data_pipeline.shards.format import INDEX
from data_pipeline.storage import Store


@dataclass(frozen=True)
class Job:
    """A pack under way. `places` are those of the plan's sets; `home` is above them, or the only one. `remarks`: what was found there."""

    home: Store
    places: list[Store]
    source: Source
    plan: Plan
    seed: int
    finished: bool
    remarks: list[str] = field(default_factory=list)


def begin(home: Store, name: str, source: Source, options: Options, overwrite: bool) -> Job:
    """Makes the plan, and sees that the place is empty, or holds what was begun, or finished, by the same plan.

    Nothing is written or removed before all of it is known to lie apart from the source.
    """
    begun = _begun(home)
    plan = make_plan(name, source, options, None if overwrite else begun)
    places = [place_of(home, one.folder) for one in plan.sets]
    notes = [home.sub(f"{NOTES}{one.name}") for one in plan.sets]
    check_apart(name, [home, *places, *notes, *(old_places(home, begun).values() if overwrite else ())])
    _check_no_other_pack(home, places)
    if overwrite:
        clear(home, begun, places)
    if overwrite or begun is None:
        for place in places:
            _check_empty(place)
        home.put(PLAN, plan.dump())
        return Job(home, places, source, plan, options.seed, finished=False)
    return _go_on(Job(home, places, source, plan, options.seed, _is_finished(begun, places)), begun)


def _go_on(job: Job, begun: dict[str, Any]) -> Job:
    if differences := job.plan.differences(begun, sizes=job.finished):
        raise BadDataset(
            f"{job.home.url} already holds {'a pack' if job.finished else 'a pack that was begun'} of something else: "
            f"{'; '.join(differences)}; give what it was made from, choose another place, or begin again with `--overwrite`"
        )
    if not job.finished:
        _withdraw(job, begun)
    return job


def _withdraw(job: Job, begun: dict[str, Any]) -> None:
    """Removes every index of a pack that is not finished: somebody indexed what there was, or it was killed at its very end."""
    if begun.get(FINISHED):
        job.home.put(PLAN, job.plan.dump())
    for place in job.places:
        if place.head(INDEX):
            place.delete(INDEX)
            job.remarks.append(f"{place.url}/{INDEX} stood beside an unfinished pack; it was written anew")


def _is_finished(begun: dict[str, Any], places: Sequence[Store]) -> bool:
    return bool(begun.get(FINISHED)) and all(place.head(INDEX) for place in places)


def _begun(home: Store) -> dict[str, Any] | None:
    """The facts of the plan of a pack that was begun, and perhaps finished."""
    try:
        facts = json.loads(home.get(PLAN))
    except NotFound:
        return None
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("sets"), dict):
        raise BadDataset(f"{home.url}/{PLAN} is no plan of a pack; move it, or choose another place")
    return facts


def _check_empty(place: Store) -> None:
    """Refuses a place that holds shards or an index."""
    old = [INDEX] if place.head(INDEX) else shards_in(place)
    if old:
        raise BadDataset(
            f"{place.url} already holds {old[0]}; choose another place, or replace what a pack wrote there with `--overwrite`"
        )


def _check_no_other_pack(home: Store, places: Sequence[Store]) -> None:
    """Refuses a place for train or val that is the home of a pack of its own."""
    for place in places:
        if place.url != home.url and place.head(PLAN):
            raise BadDataset(
                f"{place.url} holds a pack of its own ({PLAN}); choose another place, or remove that one"
            )
