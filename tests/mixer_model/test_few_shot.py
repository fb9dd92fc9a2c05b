"""The probe on frozen features: the protocol's arithmetic against a direct solve, and what it is fitted on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mixer_model.few_shot import choose, fit, ridge

Floats = npt.NDArray[np.float64]


def directly(train: Floats, labels: npt.NDArray[np.int64], test: Floats, classes: int) -> Floats:
    """The protocol word for word: scores [M,K] by solving the normal equations."""
    mean, std = train.mean(axis=0), np.sqrt(((train - train.mean(axis=0)) ** 2).mean(axis=0)) + 1e-5
    x, t = (np.hstack([(each - mean) / std, np.full((len(each), 1), 100.0)]) for each in (train, test))
    y = np.where(np.arange(classes) == labels[:, None], 1.0, -1.0)
    return t @ np.linalg.solve(x.T @ x + 1024.0 * np.eye(x.shape[1]), x.T @ y)


@pytest.mark.parametrize("samples", [60, 21, 20, 12], ids=["more", "as many", "one less", "fewer"])
def test_the_probe_is_the_protocol_solved_directly(samples: int) -> None:
    """20 features and the constant one make 21: the other branch begins at 20 samples."""
    draw = np.random.default_rng(samples)
    train, test = draw.normal(3.0, 2.0, (samples, 20)), draw.normal(3.0, 2.0, (50, 20))
    labels = draw.integers(0, 4, samples)
    probe = fit(torch.from_numpy(train), torch.from_numpy(labels), 5)
    expected = directly(train, labels, test, 5)
    whitened = (torch.from_numpy(test) - probe.mean) / probe.std
    scores = whitened @ probe.weights[:-1] + 100.0 * probe.weights[-1]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-9, atol=1e-11)
    assert probe.predict(torch.from_numpy(test)).tolist() == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize("shape", [(30, 10), (10, 30)])
def test_both_branches_minimise_the_same_sum(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=shape), draw.normal(size=(shape[0], 3))
    expected = np.linalg.solve(x.T @ x + 0.5 * np.eye(shape[1]), x.T @ y)
    np.testing.assert_allclose(ridge(*map(torch.from_numpy, (x, y)), 0.5).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("width", [8, 300])
def test_separable_features_are_separated(width: int) -> None:
    """Three classes in three directions, far apart; also with more features than samples."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(20)
    features = torch.randn(60, width, generator=draw)
    features[labels[:, None] == torch.arange(width) % 3] += 10.0
    probe = fit(features[::2], labels[::2], 3)
    assert probe.predict(features[1::2]).tolist() == labels[1::2].tolist()


def test_a_feature_that_never_changes_does_no_harm() -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    features[:, 2] = 7.0
    probe = fit(features, torch.arange(20) % 2, 2)
    assert bool(torch.isfinite(probe.weights).all())


def test_shots_are_drawn_from_each_class_and_more_shots_are_the_same_and_more() -> None:
    labels = np.array([2, 0, 1, 0, 2, 2, 0, 1, 0, 2, 5] * 3)
    few, more = choose(labels, 2, seed=1), choose(labels, 4, seed=1)
    assert np.bincount(labels[few]).tolist() == [2, 2, 2, 0, 0, 2]
    assert np.bincount(labels[more]).tolist() == [4, 4, 4, 0, 0, 3]
    assert set(few.tolist()) < set(more.tolist())
    assert len(set(more.tolist())) == len(more)
    assert few.tolist() == choose(labels, 2, seed=1).tolist() != choose(labels, 2, seed=2).tolist()


def test_draws_never_change() -> None:
    """Golden: a number published with a seed can be had again."""
    assert choose(np.repeat([0, 7], 10).astype(np.int64), 3, seed=2).tolist() == [5, 7, 8, 17, 15, 10]


def test_shapes_that_do_not_fit_are_refused() -> None:
    for features, labels in ((torch.zeros(3, 2), torch.zeros(4)), (torch.zeros(0, 2), torch.zeros(0))):
        with pytest.raises(ValueError, match=r"give \[N,D\] and \[N\], N at least 1"):
            fit(features, labels.long(), 2)


@pytest.mark.parametrize(("labels", "shots"), [([], 5), ([1, 1, 2], 0)])
def test_nothing_to_choose_from_is_said(labels: list[int], shots: int) -> None:
    with pytest.raises(ValueError, match=rf"{len(labels)} labels and shots is {shots}; .* at least 1"):
        choose(np.array(labels, np.int64), shots, 0)
