"""The recipes are the sources' numbers, and importing them needs no torch."""

from __future__ import annotations

import math

import pytest

from mixer_model.config import PRESETS
from mixer_model.recipes import RECIPES

# Table 4 of the paper: size, epochs, rate, decay, RandAugment magnitude, mixup, stochastic depth. 0 where it has a dash.
TABLE_4 = {
    "in1k-b": ("B", 300, 1e-3, 0.1, 15, 0.5, 0.1),
    "in1k-l": ("L", 300, 1e-3, 0.1, 15, 0.5, 0.1),
    "in21k-b": ("B", 300, 1e-3, 0.1, 10, 0.2, 0.1),
    "in21k-l": ("L", 300, 1e-3, 0.1, 20, 0.5, 0.1),
    "jft-s": ("S", 5, 3e-3, 0.03, 0, 0, 0),
    "jft-b": ("B", 7, 3e-3, 0.03, 0, 0, 0),
    "jft-l-7": ("L", 7, 1e-3, 0.03, 0, 0, 0),
    "jft-l-14": ("L", 14, 1e-3, 0.03, 0, 0, 0),
    "jft-h": ("H", 14, 1e-3, 0.03, 0, 0, 0),
}


@pytest.mark.parametrize("name", TABLE_4)
def test_each_row_of_table_4(name: str) -> None:
    values, source = RECIPES[name].values, RECIPES[name].source
    model, train, augment = values["model"], values["train"], values["data"]["augment"]
    random = augment["randaugment"] or {"ops": 2, "magnitude": 0}
    found = (
        train["epochs"],
        train["optimizer"]["lr"],
        train["optimizer"]["weight_decay"],
        random["magnitude"],
    )
    assert (model["preset"][0], *found, augment["mixup"], model["drop_path"]) == TABLE_4[name]
    assert random["ops"] == 2
    shared = {key: train[key] for key in ("global_batch", "warmup_steps", "schedule", "clip")}
    assert shared == {"global_batch": 4096, "warmup_steps": 10_000, "schedule": "linear", "clip": 1.0}
    assert source.startswith(f"arXiv:2105.01601v4, Table 4, row {TABLE_4[name][0]}, ")


def test_the_rerun_is_the_authors_config() -> None:
    """Sigmoid loss from a bias of -ln 1000; its decay of 1e-4, not times the rate, is 0.1 of torch's AdamW."""
    long, short = RECIPES["in1k-b16-sigmoid"].values, RECIPES["in1k-b16-sigmoid-60"].values
    assert long["model"] == {
        "preset": "B/16", "classes": 1000, "image_size": 224, "drop_path": 0.1, "loss": "sigmoid", "head_bias": -6.9,
    }  # fmt: skip
    assert long["model"]["head_bias"] == pytest.approx(-math.log(1000), abs=0.01)
    optimizer = long["train"]["optimizer"]
    assert optimizer["lr"] * optimizer["weight_decay"] == pytest.approx(1e-4)
    assert (long["train"]["epochs"], short["train"]["epochs"]) == (300, 60)
    assert {**short, "train": {**short["train"], "epochs": 300}} == long


@pytest.mark.parametrize(
    ("name", "classes", "steps"), [("in1k", 1000, 20_000), ("cifar10", 10, 10_000), ("cifar100", 100, 10_000)]
)
def test_fine_tuning_is_sgd_with_momentum_and_no_decay(name: str, classes: int, steps: int) -> None:
    values = RECIPES[f"finetune-{name}"].values
    train = values["train"]
    assert train["optimizer"] == {"name": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 0.0}
    assert (train["global_batch"], train["warmup_steps"], train["schedule"], train["clip"]) == (
        512,
        500,
        "cosine",
        1.0,
    )
    assert (values["model"]["classes"], train["steps"]) == (classes, steps)


def test_every_recipe_names_its_source_and_what_it_leaves_open() -> None:
    assert list(RECIPES) == [recipe.name for recipe in RECIPES.values()]
    for recipe in RECIPES.values():
        assert recipe.source
        assert recipe.unsaid
        assert recipe.values["model"]["preset"] in PRESETS
    unsaid = {name: " ".join(recipe.unsaid) for name, recipe in RECIPES.items()}
    assert "H/14 was trained on JFT-300M only" in unsaid["in21k-h"]
    assert RECIPES["in21k-h"].values["train"] == RECIPES["in21k-l"].values["train"]
    assert "4.7 points below B/16" in unsaid["in1k-l"]
    assert "1e-5 of the peak" in unsaid["in1k-b16-sigmoid"]
    assert all("classes" not in RECIPES[name].values["model"] for name in RECIPES if name.startswith("jft"))


def test_h_is_the_row_of_l_with_another_preset() -> None:
    nearest, own = RECIPES["in21k-l"].values, RECIPES["in21k-h"].values
    assert own == {**nearest, "model": {**nearest["model"], "preset": "H/14"}}


@pytest.mark.parametrize("name", ["in21k-b", "in21k-l", "in21k-h"])
def test_the_classes_of_imagenet_21k_are_those_of_the_published_heads(name: str) -> None:
    assert RECIPES[name].values["model"]["classes"] == 21_843


def test_no_two_recipes_share_what_someone_could_change() -> None:
    trains = [id(recipe.values["train"]) for recipe in RECIPES.values()]
    assert len(set(trains)) == len(trains)
