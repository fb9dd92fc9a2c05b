"""The data sets of a spec, opened and asked whether they go with it and with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_pipeline.storage import StoreError
from orchestrator.classes import first_difference
from orchestrator.errors import UserError
from orchestrator.frozen import DataFacts
from orchestrator.spec import Spec

if TYPE_CHECKING:
    from data_pipeline.shards.dataset import Dataset


def data_facts(spec: Spec) -> tuple[DataFacts, DataFacts | None]:
    """What the run must know of its data sets. UserError when one is not there."""
    train = _opened(spec.data.train, spec.model.classes)
    val = _opened(spec.data.val, spec.model.classes) if spec.data.val else None
    if val:
        check_classes(train, val)
    return _facts(train), _facts(val) if val else None


def _opened(url: str, classes: int) -> Dataset:
    from data_pipeline.shards.dataset import Dataset

    try:
        dataset = Dataset.open(url)
    except StoreError as error:
        raise UserError(f"data at {url}: {error}") from None
    if dataset.max_label >= classes:
        raise UserError(
            f"data at {url} has label {dataset.max_label}; model.classes is {classes}, and labels begin with 0"
        )
    return dataset


def check_classes(train: Dataset, val: Dataset) -> None:
    """Where both sets name their classes, they must number them alike: else validation measures something else."""
    if train.classes is None or val.classes is None:
        return
    if differ := first_difference(train.classes, val.classes):
        number, one, other = differ
        raise UserError(
            f"class {number} is {one} in {train.url} and {other} in {val.url}: the labels of data.train and data.val do not mean "
            f"the same; pack or index one of them again with --classes {train.index_url}/index.json"
        )


def _facts(dataset: Dataset) -> DataFacts:
    return DataFacts(dataset.samples, dataset.mean_bytes, dataset.digest)
