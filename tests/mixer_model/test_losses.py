"""Losses per sample, from classes and from shares, and the mixing of a micro-batch with itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mixer_model.losses import (
    LOSSES,
    is_among,
    is_right,
    mixup,
    multi_hot,
    one_hot,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    training_loss,
)

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
CLASSES = torch.tensor([0, 2])


@pytest.mark.parametrize("name", LOSSES)
def test_classes_and_their_shares_lose_the_same(name: str) -> None:
    loss = LOSSES[name](LOGITS, CLASSES)
    assert loss.shape == (2,)
    torch.testing.assert_close(loss, LOSSES[name](LOGITS, one_hot(CLASSES, 3)))


def test_softmax_by_hand() -> None:
    loss = softmax_cross_entropy(LOGITS, CLASSES)
    first = math.log(math.exp(2.0) + math.exp(-1.0) + math.exp(0.5)) - 2.0
    assert loss.tolist() == pytest.approx([first, math.log(3.0)])


def test_sigmoid_sums_over_classes() -> None:
    loss = sigmoid_cross_entropy(LOGITS, CLASSES)
    first = math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-1.0)) + math.log1p(math.exp(0.5))
    assert loss.tolist() == pytest.approx([first, 3 * math.log(2.0)])


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_logits_are_taken_in_fp32(name: str) -> None:
    half = LOGITS.to(torch.bfloat16)
    assert LOSSES[name](half, CLASSES).dtype == torch.float32
    shares = one_hot(CLASSES, 3).to(torch.bfloat16)
    torch.testing.assert_close(LOSSES[name](half, shares), LOSSES[name](half.float(), CLASSES))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "targets", [torch.tensor([0]), torch.zeros(2, 4), torch.zeros(2, 3, 1, dtype=torch.int64)]
)
def test_targets_of_another_shape_are_refused(name: str, targets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"logits are \[2, 3\] and targets .*; allowed: logits \[B,K\] with"):
        LOSSES[name](LOGITS, targets)


def test_mixup_mixes_with_the_one_before() -> None:
    images = torch.arange(3.0).reshape(3, 1, 1, 1)
    mixed, targets = mixup(images, one_hot(torch.tensor([0, 1, 2]), 3), 0.75)
    assert mixed.flatten().tolist() == pytest.approx([0.75 * 0 + 0.25 * 2, 0.75 * 1, 0.75 * 2 + 0.25])
    assert targets[0].tolist() == pytest.approx([0.75, 0.0, 0.25])
    assert targets.sum(dim=1).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_mixup_with_weight_one_changes_nothing() -> None:
    images, shares = torch.randn(4, 3, 2, 2), one_hot(torch.tensor([0, 1, 2, 0]), 3)
    mixed, targets = mixup(images, shares, 1.0)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, shares)


def test_mixup_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"given torch.int64 \[2\]; use one_hot first"):
        mixup(torch.zeros(2, 3, 4, 4), CLASSES, 0.5)


def test_the_loss_of_a_mixture_is_the_mixture_of_losses() -> None:
    _, targets = mixup(torch.zeros(2, 1), one_hot(CLASSES, 3), 0.7)
    expected = 0.7 * F.cross_entropy(LOGITS, CLASSES, reduction="none")
    expected = expected + 0.3 * F.cross_entropy(LOGITS, CLASSES.roll(1), reduction="none")
    torch.testing.assert_close(softmax_cross_entropy(LOGITS, targets), expected)


def test_several_classes_of_a_sample_share_the_target() -> None:
    logits, several = torch.randn(3, 5), torch.tensor([[1, -1], [4, 0], [2, 3]])
    shares = torch.tensor([[0.0, 1, 0, 0, 0], [0.5, 0, 0, 0, 0.5], [0, 0, 0.5, 0.5, 0]])
    assert torch.equal(LOSSES["softmax"](logits, several), LOSSES["softmax"](logits, shares))
    assert torch.equal(LOSSES["sigmoid"](logits, several), LOSSES["sigmoid"](logits, (shares > 0).float()))
    for name in LOSSES:
        torch.testing.assert_close(
            LOSSES[name](logits, several[:1, :1].expand(3, 1)), LOSSES[name](logits, torch.ones(3).long())
        )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("label", [3, 4])
def test_a_class_that_the_network_does_not_have_is_an_error_beside_others_too(name: str, label: int) -> None:
    for targets in (torch.tensor([[1, -1], [label, -1]]), torch.tensor([[1, 0], [0, label]])):
        with pytest.raises(RuntimeError, match=f"index {label} is out of bounds"):
            LOSSES[name](LOGITS, targets)


def test_a_class_named_twice_counts_once_and_none_counts_nothing() -> None:
    hot = multi_hot(torch.tensor([[2, 2, -1], [-1, -1, -1], [0, -1, 0]]), 3)
    assert hot.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_a_sample_is_right_when_its_likeliest_class_is_one_of_its_own() -> None:
    logits = torch.eye(3)
    assert is_right(logits, torch.tensor([0, 2, 2])).tolist() == [True, False, True]
    assert is_right(logits, torch.tensor([[1, 0], [-1, 2], [2, -1]])).tolist() == [True, False, True]


# -- every loss on every kind of label, against the formula in numpy ---------------------------------------------------
def softmax_by_numpy(logits: np.ndarray, shares: np.ndarray, smoothing: float) -> np.ndarray:
    """- sum over classes of target * log softmax, the target smoothed."""
    target = (1 - smoothing) * shares + smoothing / logits.shape[1]
    top = logits.max(axis=1, keepdims=True)
    log_sum = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return -(target * (logits - log_sum)).sum(axis=1)  # type: ignore[no-any-return]


def sigmoid_by_numpy(logits: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """- sum over classes of target * log sigmoid(x) + (1 - target) * log sigmoid(-x)."""
    return (wanted * np.logaddexp(0, -logits) + (1 - wanted) * np.logaddexp(0, logits)).sum(axis=1)  # type: ignore[no-any-return]


INTEGER = torch.tensor([4, 0, 2, 2])
MULTIPLE = torch.tensor([[1, -1, -1], [4, 0, -1], [2, 3, 0], [0, -1, -1]])
HOT = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 1], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0]], np.float64)
KINDS: dict[str, tuple[torch.Tensor, np.ndarray]] = {
    "integer": (INTEGER, np.eye(5)[INTEGER.numpy()]),
    "several": (MULTIPLE, HOT),
    "mixed": (
        mixup(torch.zeros(4, 1), one_hot(INTEGER, 5), 0.7)[1],
        0.7 * np.eye(5)[[4, 0, 2, 2]] + 0.3 * np.eye(5)[[2, 4, 0, 2]],
    ),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_softmax_on_every_kind_of_label_is_the_formula(kind: str, smoothing: float) -> None:
    targets, hot = KINDS[kind]
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)) * 3
    expected = softmax_by_numpy(logits.double().numpy(), hot / hot.sum(axis=1, keepdims=True), smoothing)
    found = training_loss("softmax", smoothing)(logits, targets)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sigmoid_on_every_kind_of_label_is_the_formula(kind: str) -> None:
    targets, hot = KINDS[kind]
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)) * 3
    found = training_loss("sigmoid")(logits, targets)
    np.testing.assert_allclose(found.numpy(), sigmoid_by_numpy(logits.double().numpy(), hot), rtol=2e-6)


@pytest.mark.parametrize("targets", [INTEGER, MULTIPLE], ids=["integer", "several"])
@pytest.mark.parametrize(("name", "smoothing"), [("softmax", 0.0), ("softmax", 0.1), ("sigmoid", 0.0)])
def test_the_loss_of_mixed_images_as_the_engine_computes_it_is_that_of_the_mixed_shares(
    name: str, smoothing: float, targets: torch.Tensor
) -> None:
    """The engine mixes two losses, not two targets: the same, since both losses are linear in the target."""
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(4))
    loss = training_loss(name, smoothing)
    hot = one_hot(targets, 5) if targets.ndim == 1 else multi_hot(targets, 5)
    shares = F.normalize(hot, p=1.0, dim=1) if name == "softmax" else hot
    mixed = 0.8 * loss(logits, targets) + 0.2 * loss(logits, targets.roll(1, 0))
    torch.testing.assert_close(mixed, loss(logits, mixup(logits, shares, 0.8)[1]))


@pytest.mark.parametrize(("name", "smoothing"), [("sigmoid", 0.1), ("softmax", 1.0), ("softmax", -0.1)])
def test_smoothing_that_means_nothing_is_refused(name: str, smoothing: float) -> None:
    with pytest.raises(ValueError, match="it is from 0 up to 1, for softmax only"):
        training_loss(name, smoothing)
    with pytest.raises(ValueError, match="no loss 'hinge'; allowed: softmax, sigmoid"):
        training_loss("hinge")


def test_the_first_five_hold_one_of_the_samples_classes() -> None:
    logits = torch.arange(7.0).flip(0).expand(3, 7)  # class 0 first, then 1, and so on
    assert is_among(logits, torch.tensor([0, 4, 5])).tolist() == [True, True, False]
    assert is_among(logits, torch.tensor([[6, -1], [6, 4], [5, 6]])).tolist() == [False, True, False]
    assert torch.equal(
        is_among(logits, torch.tensor([0, 1, 2]), 1), is_right(logits, torch.tensor([0, 1, 2]))
    )
