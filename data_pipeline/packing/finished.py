"""Whether a pack that says it is finished still is what it was: one listing per set, held against its index and the summary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.errors import BadDataset, NotFound
from data_pipeline.packing.place import Job
from data_pipeline.packing.summary import SUMMARY
from data_pipeline.shards.format import INDEX, parse_index
from data_pipeline.storage import Store

NAMED = 5  # of what is wrong


def finished_facts(job: Job) -> dict[str, Any]:
    """The summary of a finished pack. BadDataset where shards, indexes or summary are gone or are others; nothing is read of the shards."""
    facts = _summary(job)
    wrong = [
        line
        for place, one in zip(job.places, facts["sets"], strict=True)
        for line in _differences(place, one)
    ]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise BadDataset(
            f"{job.home.url} was packed, and is not what it was: {'; '.join(wrong[:NAMED])}{more}; put the files back, pack "
            "again with `--overwrite`, or go on with what is there: `mixer verify URL --fix-index`"
        )
    return facts


def _summary(job: Job) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(job.home.get(SUMMARY))
        if [one["name"] for one in facts["sets"]] == [planned.name for planned in job.plan.sets]:
            return facts
        why = "is of other sets"
    except NotFound:
        why = "is gone"
    except (ValueError, KeyError, TypeError):
        why = "is damaged"
    raise BadDataset(
        f"{job.home.url} was packed, and its {SUMMARY} {why}; put it back, or pack again with `--overwrite`"
    )


def _differences(place: Store, packed: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was packed, a line each."""
    index, shards, _ = parse_index(place.get(INDEX), f"{place.url}/{INDEX}")
    if index["digest"] != packed["digest"]:
        yield f"{place.url}/{INDEX} has another digest than {SUMMARY}"
    there = {info.key: info.size for info in place.list(f"{packed['name']}-")}
    for shard in shards:
        size = there.get(shard.name)
        if size is None:
            yield f"{place.url}/{shard.name} is gone"
        elif size != shard.size:
            yield f"{place.url}/{shard.name} has {size} bytes, not {shard.size}"
        if shard.idx_name not in there:
            yield f"{place.url}/{shard.idx_name} is gone"
