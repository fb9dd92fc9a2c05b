"""Weights as maps: their order, their colours, and what cannot be drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mixer_model import maps


def waves(cycles: list[float], side: int = 8) -> npt.NDArray[np.float64]:
    """One map per number: a cosine with so many cycles over the image."""
    along = np.arange(side) / side
    return np.stack([np.tile(np.cos(2 * np.pi * count * along), (side, 1)) for count in cycles])


def test_frequency_is_in_cycles_per_patch() -> None:
    assert maps.frequencies(waves([0, 1, 2, 4])) == pytest.approx([0, 1 / 8, 2 / 8, 4 / 8], abs=1e-9)
    assert maps.frequencies(np.zeros((1, 4, 4))).tolist() == [0.0]


def test_units_are_sorted_by_frequency_beside_their_opposite() -> None:
    low, middle, high = waves([1, 2, 4])
    order = maps.paired_order(np.stack([high, -low, middle, -high, low, -2 * middle]))
    assert [set(order[at : at + 2].tolist()) for at in (0, 2, 4)] == [{1, 4}, {2, 5}, {0, 3}]


def test_every_unit_is_drawn_once() -> None:
    drawn = maps.paired_order(np.random.default_rng(0).normal(size=(37, 5, 5)))
    assert sorted(drawn.tolist()) == list(range(37))


def test_the_strongest_keep_their_order() -> None:
    given = np.array([1.0, 5.0, 0.1, 3.0]).reshape(4, 1, 1)
    assert maps.strongest(given, 2).ravel().tolist() == [5.0, 3.0]
    assert maps.strongest(given, None) is given
    assert maps.by_energy(given).tolist() == [1, 3, 0, 2]


def test_colours_say_the_sign_and_the_size() -> None:
    (negative, half, zero, positive, beyond) = maps.colours(np.array([[[-2.0, -1.0, 0.0, 2.0, 9.0]]]), 2.0)[
        0, 0
    ]
    assert (negative.tolist(), zero.tolist(), positive.tolist()) == ([33, 79, 158], [255] * 3, [178, 36, 48])
    assert half.tolist() == [144, 167, 206]
    assert beyond.tolist() == positive.tolist()


def test_one_loud_weight_does_not_pale_the_others() -> None:
    quiet = np.full((100, 4, 4), 0.1)
    quiet[3, 0, 0] = 50.0
    assert maps.full_colour(quiet) == pytest.approx(0.1)
    alone = np.zeros((100, 4, 4))
    alone[3, 0, 0] = 50.0
    assert maps.full_colour(alone) == 50.0
    assert maps.full_colour(np.zeros((2, 1, 1))) == 1.0


def test_a_filter_is_drawn_in_its_own_scale_about_grey() -> None:
    weight = np.zeros((3, 3, 2, 2))
    weight[0, 0, 0, 0], weight[0, 2, 1, 1] = (
        0.5,
        -0.25,
    )  # red at the top left, half as much less blue at the bottom right
    weight[1] = 1000 * weight[0]
    drawn = maps.filter_colours(maps.filter_maps(weight))
    assert drawn.shape == (3, 2, 2, 3)
    assert drawn[0, 0, 0].tolist() == [255, 128, 128]
    assert drawn[0, 1, 1].tolist() == [128, 128, 64]
    assert np.array_equal(drawn[0], drawn[1])
    assert set(drawn[2].ravel().tolist()) == {128}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: maps.token_maps(np.zeros((4, 6)), 2, "fc1"),
            r"fc1 is \[4, 6\] and the grid 2 x 2; it must be \[D_S, 4\]",
        ),
        (
            lambda: maps.filter_maps(np.zeros((4, 1, 2, 2))),
            r"the weight is \[4, 1, 2, 2\]; a stem's must be \[C, 3, P, P\]",
        ),
        (lambda: maps.token_maps(np.full((1, 4), np.nan), 2, "fc1"), "fc1 holds numbers that are not finite"),
        (lambda: maps.filter_maps(np.full((1, 3, 1, 1), np.inf)), "not finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
