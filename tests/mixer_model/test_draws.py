"""Random numbers of a micro-batch: pure, apart from one another, and of the distribution they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_model.draws import drop_rates, keep_masks, mixup_lambda

MASKS = [[[1, 1, 1, 1], [1, 1, 1, 1]], [[1, 1, 1, 1], [1, 1, 0, 1]], [[1, 1, 1, 1], [0, 1, 1, 1]]]
LAMBDA_HALF = 0.9288467180636452
LAMBDA_TWO = 0.5377677697502465


def test_masks_are_a_function_of_seed_and_item() -> None:
    torch.manual_seed(0)
    first = keep_masks(3, 1000, 12, 64, 0.5)
    np.random.default_rng(9).random(5)
    assert torch.equal(first, keep_masks(3, 1000, 12, 64, 0.5))
    assert not torch.equal(first, keep_masks(4, 1000, 12, 64, 0.5))
    assert not torch.equal(first, keep_masks(3, 1001, 12, 64, 0.5))
    assert (first.shape, first.dtype) == ((12, 2, 64), torch.float32)
    assert set(first.flatten().tolist()) == {0.0, 1.0}


def test_masks_never_change() -> None:
    """Golden: the masks of a run are part of its history."""
    assert keep_masks(7, 123_456_789_012, 3, 4, 0.5).int().tolist() == MASKS


def test_mixup_weights_never_change() -> None:
    assert mixup_lambda(7, 123_456_789_012, 0.5) == pytest.approx(LAMBDA_HALF, rel=1e-12)
    assert mixup_lambda(7, 5, 2.0) == pytest.approx(LAMBDA_TWO, rel=1e-12)


def test_the_rate_rises_linearly_to_the_one_given() -> None:
    assert drop_rates(5, 0.2) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert drop_rates(1, 0.2) == [0.0]


def test_blocks_drop_at_their_rate_and_apart() -> None:
    masks = torch.stack([keep_masks(0, item, 5, 50, 0.4) for item in range(200)])
    kept = masks.mean(dim=(0, 3))
    expected = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6])
    assert bool((kept[0] == 1).all())
    torch.testing.assert_close(kept, expected[:, None].expand(5, 2), atol=0.02, rtol=0)
    token, channel = masks[:, 4, 0].flatten(), masks[:, 4, 1].flatten()
    assert abs(float(torch.corrcoef(torch.stack([token, channel]))[0, 1])) < 0.04


def test_no_rate_drops_nothing() -> None:
    assert bool((keep_masks(0, 1, 4, 8, 0.0) == 1).all())


def test_masks_are_not_the_numbers_augmentation_draws_from() -> None:
    """Same key, counter 0: the stream another part of a run may use for the same item."""
    other = (
        np.random.Philox(key=np.array([3, 1000], dtype=np.uint64)).random_raw(64).astype(np.float64)
        * 2.0**-64
    )
    ours = keep_masks(3, 1000, 2, 16, 0.5)[1].numpy().ravel()
    assert not np.array_equal(ours, (other[32:] >= 0.5).astype(np.float32))
    assert not np.array_equal(ours, (other[:32] >= 0.5).astype(np.float32))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.8, 1.0, 2.0, 8.0])
def test_mixup_weights_are_beta_folded_at_one_half(alpha: float) -> None:
    drawn = np.array([mixup_lambda(0, item, alpha) for item in range(3000)])
    assert drawn.min() >= 0.5
    assert drawn.max() <= 1.0
    variance = 1.0 / (4.0 * (2.0 * alpha + 1.0))
    assert np.square(drawn - 0.5).mean() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-300])
def test_a_mixup_next_to_zero_is_next_to_off(alpha: float) -> None:
    """Nearly all shares are 0 or 1, beyond what e^x can hold; warnings of overflow are errors here."""
    drawn = [mixup_lambda(0, item, alpha) for item in range(200)]
    assert drawn.count(1.0) > 180
    assert min(drawn) >= 0.5


def test_mixup_of_zero_is_off() -> None:
    assert mixup_lambda(0, 5, 0.0) == 1.0


def test_keys_and_strengths_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"item is -1; it must be from 0 up to 2\*\*64 - 1"):
        keep_masks(0, -1, 2, 2, 0.1)
    with pytest.raises(ValueError, match="seed is 18446744073709551616"):
        mixup_lambda(1 << 64, 0, 0.5)
    with pytest.raises(ValueError, match=r"mixup is -0\.5; it must be 0"):
        mixup_lambda(0, 0, -0.5)


def test_rescaled_masks_drop_the_same_and_keep_the_mean() -> None:
    plain, scaled = (keep_masks(3, 9, 5, 2000, 0.4, rescale=rescale) for rescale in (False, True))
    for block, rate in enumerate(drop_rates(5, 0.4)):
        torch.testing.assert_close(scaled[block], plain[block] / (1 - rate))
    assert scaled.mean(dim=2)[-1].tolist() == pytest.approx([1.0, 1.0], abs=0.06)
    assert plain.mean(dim=2)[-1].tolist() == pytest.approx([0.6, 0.6], abs=0.04)
