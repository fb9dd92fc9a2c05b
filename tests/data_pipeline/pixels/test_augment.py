"""The pixels of a training image depend on (image, recipe, seed, item) and on nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.pixels.augment import Recipe, keyed_draws, resize, resize_into
from data_pipeline.pixels.decode import Pixels
from data_pipeline.pixels.randaugment import OPERATIONS, randaugment


def gradient(height: int = 60, width: int = 80) -> Pixels:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, (x + y) * 1.5], axis=2).astype(np.uint8)


def view(recipe: Recipe, image: Pixels, seed: int, item: int) -> Pixels:
    out = np.zeros((recipe.image_size, recipe.image_size, 3), np.uint8)
    recipe.train(image, out, seed=seed, item=item)
    return out


def test_golden_draws() -> None:
    """THESE NUMBERS ARE A FORMAT: they are the randomness of every augmented image."""
    assert keyed_draws(7, 1_000_000_007)(4).tolist() == [
        0.2830685024940316,
        0.7658042772101721,
        0.01211425843875169,
        0.6120500336919135,
    ]
    assert keyed_draws(2**63 - 1, 0)(1).tolist() == [0.3119137782495982]


def test_golden_pixels() -> None:
    out = view(Recipe(8), gradient(), seed=3, item=11)
    expected = np.array([100, 91, 81, 71, 61, 51, 41, 32])
    assert np.abs(out[0, :, 0].astype(int) - expected).max() <= 1  # other processors may round otherwise


def test_golden_crop() -> None:
    recipe = Recipe(8)
    assert recipe._crop(375, 500, keyed_draws(3, 11)) == (88, 61, 215, 167)
    assert recipe._crop(375, 500, keyed_draws(3, 12)) == (179, 127, 176, 209)


def test_draws_are_one_stream_however_taken() -> None:
    draws, again = keyed_draws(1, 2), keyed_draws(1, 2)
    assert [*draws(3), *draws(4)] == again(7).tolist()


@pytest.mark.parametrize("randaugmented", [None, (2, 15.0)])
def test_threads_and_order_change_no_pixel(randaugmented: tuple[int, float] | None) -> None:
    recipe, image = Recipe(32, randaugment=randaugmented), gradient()
    alone = [view(recipe, image, 5, item) for item in range(64)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: view(recipe, image, 5, item), reversed(range(64))))
    for item in range(64):
        assert np.array_equal(alone[item], together[63 - item])


def test_seed_and_item_both_matter() -> None:
    recipe, image = Recipe(32), gradient()
    views = [view(recipe, image, seed, item).tobytes() for seed in range(3) for item in range(3)]
    assert len(set(views)) == 9


def test_crops_stay_within_scale_and_ratio() -> None:
    recipe = Recipe(8, scale=(0.2, 0.5), ratio=(0.5, 2.0))
    boxes = np.array([recipe._crop(300, 400, keyed_draws(0, item)) for item in range(500)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    share = height * width / 120_000
    assert 0.19 < share.min() < 0.22
    assert 0.48 < share.max() < 0.51
    assert 0.48 < (width / height).min() < (width / height).max() < 2.05


@pytest.mark.parametrize(
    ("height", "width", "box"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))]
)
def test_an_extreme_image_gives_its_centre(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    assert Recipe(8, scale=(0.9, 1.0))._crop(height, width, keyed_draws(0, 0)) == box


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (2, 1)])
@pytest.mark.parametrize("recipe", [Recipe(16), Recipe(16, "resize"), Recipe(16, randaugment=(2, 30))])
def test_tiny_images_are_no_exception(recipe: Recipe, height: int, width: int) -> None:
    out = np.zeros((16, 16, 3), np.uint8)
    for item in range(5):
        view(recipe, gradient(height, width), 0, item)
    recipe.evaluate(gradient(height, width), out)


def test_half_are_mirrored_and_none_when_off() -> None:
    image = gradient(16, 16)
    mirrored = [
        np.array_equal(view(Recipe(16, "resize"), image, 0, item), image[:, ::-1]) for item in range(400)
    ]
    assert 150 < sum(mirrored) < 250
    assert all(np.array_equal(view(Recipe(16, "resize", flip=False), image, 0, i), image) for i in range(50))


@pytest.mark.parametrize("size", [(30, 40), (100, 120), (60, 33)])
def test_resizing_is_pillows_to_one_level(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resize(image, *size).astype(int) - expected).max() <= 1


def test_evaluation_takes_the_centre() -> None:
    image = gradient(256, 512)
    out = np.zeros((224, 224, 3), np.uint8)
    Recipe(224).evaluate(image, out)
    assert np.array_equal(out, image[16:240, 144:368])


@pytest.mark.parametrize("size", [224, 448, 32])
def test_the_papers_two_crops(size: int) -> None:
    """256 and 224, for other sizes in the same proportion; resmall keeps the aspect, resize does not."""
    margin = size * 8 // 7 - size
    image = gradient(2 * (size + margin), size + margin)  # twice as high as wide
    kept, squeezed = np.empty((size, size, 3), np.uint8), np.empty((size, size, 3), np.uint8)
    Recipe(size, eval_crop="resmall-crop").evaluate(image, kept)
    top, left = round((2 * (size + margin) - size) / 2), round(margin / 2)
    assert (kept == image[top : top + size, left : left + size]).all()
    Recipe(size, eval_crop="resize-crop").evaluate(image, squeezed)
    whole = resize(image, size + margin, size + margin)
    assert (squeezed == whole[left : left + size, left : left + size]).all()
    assert (kept != squeezed).any()


def test_a_crop_by_name_is_what_auto_takes() -> None:
    def centre(image: Pixels, mode: str, crop: str) -> list[int]:
        out = np.empty((32, 32, 3), np.uint8)
        Recipe(32, mode, eval_crop=crop).evaluate(image, out)  # type: ignore[arg-type]
        return out.flatten().tolist()

    large, small = gradient(60, 80), gradient(20, 30)
    assert (
        centre(large, "rrc", "auto")
        == centre(large, "rrc", "resmall-crop")
        == centre(large, "resize", "resmall-crop")
    )
    assert (
        centre(large, "resize", "auto")
        == centre(large, "rrc", "whole")
        != centre(large, "rrc", "resize-crop")
    )
    assert (
        centre(small, "rrc", "auto") == centre(small, "rrc", "whole") != centre(small, "rrc", "resmall-crop")
    )
    with pytest.raises(ValueError, match="eval_crop 'centre'; give auto, resmall-crop, resize-crop, whole"):
        Recipe(32, eval_crop="centre")  # type: ignore[arg-type]


def test_evaluation_of_a_small_image_keeps_all_of_it() -> None:
    out = np.zeros((32, 32, 3), np.uint8)
    Recipe(32).evaluate(gradient(32, 32), out)
    assert np.array_equal(out, gradient(32, 32))
    Recipe(32, "resize").evaluate(gradient(64, 32), out)
    assert np.array_equal(out, resize(gradient(64, 32), 32, 32))


def test_golden_order_of_operations() -> None:
    assert [name for name, _ in OPERATIONS] == [
        *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color"),
        *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
    ]


@pytest.mark.parametrize("name", [name for name, _ in OPERATIONS])
def test_magnitude_zero_changes_little(name: str) -> None:
    """What has a strength does nothing at none. Solarizing at threshold 255 inverts pure white only."""
    picture = Image.fromarray(np.minimum(gradient(), 250))
    result = dict(OPERATIONS)[name](picture, 0.0, 1.0)
    assert result.size == picture.size
    if name not in ("autocontrast", "equalize"):
        assert np.array_equal(np.asarray(result), np.asarray(picture))


@pytest.mark.parametrize("name", [name for name, _ in OPERATIONS if name not in ("identity",)])
def test_operations_do_something(name: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(20, 200, (60, 80, 3), dtype=np.uint8))
    assert not np.array_equal(np.asarray(dict(OPERATIONS)[name](picture, 1.0, 1.0)), np.asarray(picture))


def test_operations_in_numbers() -> None:
    """Values worked out by hand from torchvision's definitions."""
    by_name, picture = dict(OPERATIONS), Image.fromarray(gradient())
    moved = np.asarray(
        by_name["translate_x"](picture, 0.5, 1.0)
    )  # int(80 * 150 / 331 / 2) = 18 to the right, black behind
    assert np.array_equal(moved[:, 18:], gradient()[:, :-18])
    assert not moved[:, :18].any()
    assert np.array_equal(np.asarray(by_name["posterize"](picture, 0.5, 1.0)), gradient() & 0b11111100)
    inverted = np.where(gradient() < 128, gradient(), 255 - gradient())
    assert np.array_equal(np.asarray(by_name["solarize"](picture, 0.5, 1.0)), inverted)


def test_randaugment_takes_two_draws_per_operation() -> None:
    taken: list[int] = []

    def draws(n: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        taken.append(n)
        return np.zeros(n)

    assert np.array_equal(randaugment(gradient(), 3, 30, draws), gradient())  # draw 0 is the identity
    assert taken == [6]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"mode": "crop"},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 1.1)},
        {"ratio": (2.0, 1.0)},
        {"randaugment": (0, 5)},
        {"randaugment": (2, 31)},
    ],
)
def test_recipes_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give"):
        Recipe(**{"image_size": 32, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(300, 400), (160, 90), (97, 311)])
def test_both_ways_of_resizing_are_pillows_to_a_grey_level(shape: tuple[int, int]) -> None:
    """On pictures without hard edges; where Pillow's bicubic overshoots it clips between its two passes, torch at the end."""
    image = gradient(*shape) // 2 + 60
    for how, resample in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        ours = resize(image, 64, 64, "bicubic" if how == "bicubic" else "bilinear").astype(int)
        theirs = np.asarray(Image.fromarray(image).resize((64, 64), resample)).astype(int)
        assert np.abs(ours - theirs).max() <= (1 if how == "bilinear" else 2), how
    assert not np.array_equal(resize(image, 64, 64, "bicubic"), resize(image, 64, 64, "bilinear"))


def test_a_recipe_resizes_as_it_says() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for mode in ("rrc", "resize"):
        one, other = (Recipe(16, mode=mode, interpolation=how) for how in ("bilinear", "bicubic"))
        assert not np.array_equal(view(one, image, 1, 2), view(other, image, 1, 2))
        outs = [np.zeros((16, 16, 3), np.uint8) for _ in range(2)]
        for recipe, out in zip((one, other), outs, strict=True):
            recipe.evaluate(image, out)
        assert not np.array_equal(*outs)


def test_a_flip_mirrors_what_would_have_been() -> None:
    plain, image = Recipe(16, flip=False), gradient()
    views = [(view(Recipe(16), image, 1, item), view(plain, image, 1, item)) for item in range(40)]
    mirrored = [np.array_equal(flipped, straight[:, ::-1]) for flipped, straight in views]
    assert all(m or np.array_equal(*pair) for m, pair in zip(mirrored, views, strict=True))
    assert 10 < sum(mirrored) < 30


def test_what_is_written_into_a_batch_is_what_interpolate_gives() -> None:
    """`resize_into` calls torch's kernel by itself, to write in place."""
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    source = torch.from_numpy(image).permute(2, 0, 1)[None]
    batch = np.zeros((2, 24, 32, 3), np.uint8)
    for how in ("bilinear", "bicubic"):
        resize_into(batch[1], image, "bicubic" if how == "bicubic" else "bilinear")
        expected = torch.nn.functional.interpolate(source, size=(24, 32), mode=how, antialias=True)
        assert np.array_equal(batch[1], expected[0].permute(1, 2, 0).numpy())
    assert not batch[0].any()
