"""What a run's classes are called: kept beside it, so that its head is never taken for one of other classes.

names in the index of data.train -> `classes/<digest>.json` in the run's folder, when the run is made -> asked where its head meets other
data: a run that keeps it (`model.head`), `mixer eval --data`; and written beside exported weights

Sets whose labels are numbers have no names, nor have most files of weights; where one side has none there is nothing to compare. The
file is one that `mixer pack --classes` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from data_pipeline.errors import DataError
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.frozen import DataFacts, Frozen
    from orchestrator.run_store import Run
    from orchestrator.spec import Spec


@dataclass(frozen=True)
class Named:
    """The names of the outputs of a head, in the order of their numbers, and the file that they stand in."""

    names: Sequence[str]
    file: str


def key(digest: str) -> str:
    """Where in a run's folder the names in the data set of `digest` lie."""
    return f"classes/{digest[:16]}.json"


def keep(run: Run, frozen: Frozen) -> None:
    """Write the names that the training set has now, or that it has none, into the folder of a run that is being made."""
    from data_pipeline.shards.dataset import Dataset

    dataset = Dataset.open(frozen.spec.data.train)
    if dataset.digest == frozen.train.digest:
        run.write_json(key(dataset.digest), {"classes": dataset.classes})


def of_run(run: Run, frozen: Frozen) -> Named | None:
    """The names of the run's classes. Of a run older than the file those in the index of its training set, where that still is there."""
    place = key(frozen.train.digest)
    kept = run.read_json(place)
    if kept is not None:
        return Named(kept["classes"], f"{run.url}/{place}") if kept["classes"] else None
    with suppress(DataError):
        return _of_set(frozen.spec.data.train, frozen.train)
    return None


def _of_set(url: str, facts: DataFacts) -> Named | None:
    """The names in the index at `url`, as long as it is that of the set with these facts: its digest covers the names."""
    from data_pipeline.shards.dataset import Dataset

    dataset = Dataset.open(url)
    if dataset.digest != facts.digest or dataset.classes is None:
        return None
    return Named(dataset.classes, f"{dataset.index_url}/index.json")


def check_kept_head(spec: Spec, train: DataFacts, head: Named | None) -> None:
    """UserError where a head that is kept, with outputs of these names, would be trained on a set that numbers its classes otherwise."""
    there = _of_set(spec.data.train, train) if head else None
    if not head or not there:
        return
    if differ := first_difference(head.names, there.names, spec.model.classes):
        number, one, other = differ
        raise UserError(
            f"model.init {spec.model.init}: its head is to be kept, and class {number} is {one} there and {other} in data.train "
            f"{spec.data.train}: labels would mean other classes. Set model.head: new, or pack the data with --classes {head.file}"
        )


def check_evaluated(run: Run, frozen: Frozen, url: str, names: Sequence[str] | None) -> None:
    """UserError where the set at `url`, whose classes have these names, numbers them otherwise than the run's head does."""
    head = of_run(run, frozen) if names else None
    if not head or not names:
        return
    if differ := first_difference(head.names, names, frozen.spec.model.classes):
        number, one, other = differ
        raise UserError(
            f"class {number} is {one} in what {run.name} was trained on and {other} in {url}: the labels do not mean the same; "
            f"pack the set with --classes {head.file}"
        )


def first_difference(
    one: Sequence[str], other: Sequence[str], classes: int | None = None
) -> tuple[int, str, str] | None:
    """The first number, of the first `classes`, at which two lists of names differ, and what is said there; None where they are alike."""
    for number, pair in enumerate(zip_longest(one[:classes], other[:classes])):
        if pair[0] != pair[1]:
            first, second = ("no class" if name is None else repr(name) for name in pair)
            return number, first, second
    return None
