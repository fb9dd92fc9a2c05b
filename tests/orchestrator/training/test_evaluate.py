"""What an evaluation counts: real samples only, the first class and the first five."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_pipeline.loading.bad_samples import TooManyBadSamples
from data_pipeline.loading.eval_loader import EvalLoader
from data_pipeline.pixels.augment import Recipe
from data_pipeline.shards.dataset import Dataset
from mixer_model import losses
from orchestrator.training.evaluate import NOTHING, added, evaluate, facts, scores
from orchestrator.training.pulse import Pulse

LOGITS = torch.arange(8.0).flip(0).expand(4, 8)  # class 0 first, then 1, and so on
REAL = torch.tensor([True, True, True, False])
LOSSES = torch.tensor([1.0, 2.0, 4.0, float("nan")])


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([0, 4, 5, 0]), torch.tensor([[7, 0], [4, -1], [6, 5], [0, -1]])],
    ids=["one", "several"],
)
def test_samples_that_fill_the_batch_do_not_count(labels: torch.Tensor) -> None:
    assert scores(LOGITS, labels, REAL, LOSSES) == [1.0, 2.0, 7.0, 3.0]


def test_parts_add_up() -> None:
    sums = added(added(NOTHING, [1.0, 2.0, 7.0, 3.0]), [0.0, 1.0, 1.0, 1.0])
    assert facts(sums, 8) == {"accuracy": 0.25, "top5": 0.75, "loss": 2.0, "samples": 4}


@pytest.mark.parametrize(("classes", "there"), [(4, False), (5, True)])
def test_top_5_takes_five_classes(classes: int, there: bool) -> None:
    sums = scores(LOGITS[:, :classes], torch.tensor([0, 1, 2, 0]), REAL, LOSSES)
    assert ("top5" in facts(sums, classes)) is there
    assert facts(sums, classes)["accuracy"] == pytest.approx(1 / 3)


CONTACT: Any = SimpleNamespace(leave=False)


def alone(loss: str) -> Any:
    """What `evaluate` asks of an engine, of a rank that has nobody to agree with; it takes every image for a 3."""
    return SimpleNamespace(
        logits=lambda images: torch.eye(10)[torch.full((len(images),), 3)],
        plain_losses=losses.LOSSES[loss],
        agree=list,
        spec=SimpleNamespace(model=SimpleNamespace(classes=10)),
    )


@pytest.mark.parametrize("loss", list(losses.LOSSES))
def test_a_rank_whose_last_batch_has_no_sample_of_its_own_counts_the_others(digits: str, loss: str) -> None:
    dataset, last = Dataset.open(f"{digits}/val"), []
    found = []
    for rank in range(
        7
    ):  # 360 samples: 51 or 52 each, so that in batches of 17 some have a fourth one and some do not
        batches = list(EvalLoader(dataset, Recipe(8), rank=rank, world=7, micro_batch=17))
        last.append(int(batches[-1].real.sum()))
        found.append(evaluate(alone(loss), batches, CONTACT, Pulse()))
    assert set(last) == {0, 1}
    samples = [each["samples"] for each in found if each]
    assert (sum(samples), len(samples)) == (360, 7)
    assert all(each and 0 < each["loss"] < 10 for each in found)


def test_a_set_of_which_nothing_decodes_has_no_accuracy_and_says_so() -> None:
    with pytest.raises(TooManyBadSamples, match="no sample of the validation set decodes"):
        facts(NOTHING, 10)
