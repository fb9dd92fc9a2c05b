"""What an evaluation counts: real samples only, the first class and the first five."""

from __future__ import annotations

import pytest
import torch

from orchestrator.training.evaluate import NOTHING, added, facts, scores

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
