"""A recipe lies under what a user writes, once, and what is said of it is true."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mixer_model.recipes import RECIPES
from orchestrator.cli import app
from orchestrator.errors import SpecError, UserError
from orchestrator.frozen import DataFacts, Frozen, bind, flat
from orchestrator.recipe import expand
from orchestrator.recipe_page import as_yaml, overridden, page, said, spec_of
from orchestrator.resolving import freeze, resolve
from orchestrator.spec_text import parse_spec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
SHORT = """
name: t
recipe: in1k-b
data: {train: /d}
workers: {max: 32}
"""
FACTS = DataFacts(1_281_167, 110_000.0, "ab" * 32)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_spec_with_nothing_but_data_machines_and_classes_added(name: str) -> None:
    spec, recipe = spec_of(RECIPES[name]), RECIPES[name]
    assert overridden(spec) == []
    text = f"name: t\ndata: {{train: x}}\nworkers: {{max: 1}}\n{as_yaml(recipe)}"
    tree = yaml.safe_load(text)
    tree["data"]["train"] = "x"
    tree["model"].setdefault("classes", 1)
    tree["name"], tree["workers"] = "x", {"max": 1}
    written = parse_spec(yaml.safe_dump(tree))
    assert written.model_copy(update={"recipe": name}) == spec
    if recipe.values["train"]["optimizer"]["name"] == "adamw":
        assert spec.train.optimizer.betas == (0.9, 0.999)


def test_a_recipe_fills_what_is_left_out() -> None:
    spec = parse_spec(SHORT)
    assert (spec.model.preset, spec.model.classes, spec.train.epochs) == ("B/16", 1000, 300)
    assert spec.data.augment.randaugment is not None
    assert spec.data.augment.mixup == 0.5
    frozen = bind(spec, FACTS, None, code={})
    assert (frozen.steps, frozen.warmup_steps) == (93_836, 10_000)  # 300 epochs, rounded up


def test_what_the_user_writes_wins_key_by_key() -> None:
    spec = parse_spec(
        SHORT + "model: {preset: B/32}\ntrain: {optimizer: {lr: 3e-3}}", ["data.augment.randaugment=null"]
    )
    assert (spec.model.preset, spec.model.classes, spec.train.optimizer.lr) == ("B/32", 1000, 3e-3)
    assert spec.train.optimizer.weight_decay == 0.1
    assert spec.data.augment.randaugment is None
    assert spec.data.augment.mixup == 0.5
    (line,) = said(spec)
    assert line.startswith(
        "recipe in1k-b (arXiv:2105.01601v4, Table 4, row B, ImageNet); the spec has its own "
    )
    for change in ("model.preset: 'B/16' -> 'B/32'", "train.optimizer.lr: 0.001 -> 0.003"):
        assert change in line
    assert "weight_decay" not in line
    assert said(parse_spec(SHORT)) == ["recipe in1k-b (arXiv:2105.01601v4, Table 4, row B, ImageNet)"]
    assert said(parse_spec(SHORT, ["recipe=null", "model.preset=S/32", "model.classes=2", "train.steps=1",
                                   "train.global_batch=32", "train.micro_batch=1"])) == []  # fmt: skip


def test_another_length_or_optimizer_takes_the_recipes_own_away() -> None:
    assert parse_spec(SHORT, ["train.steps=100"]).train.epochs is None
    tuned = ["recipe=finetune-cifar10", "workers.max=8"]
    assert parse_spec(SHORT, tuned).train.steps == 10_000
    assert parse_spec(SHORT, [*tuned, "train.epochs=3"]).train.steps is None
    adam = parse_spec(SHORT, [*tuned, "train.optimizer.name=adamw"]).train.optimizer
    assert (adam.lr, adam.weight_decay, adam.momentum) == (1e-3, 0.1, None)
    assert parse_spec(SHORT, [*tuned, "train.optimizer.name=sgd"]).train.optimizer.momentum == 0.9


def test_data_nobody_can_have_leaves_the_classes_to_the_user() -> None:
    with pytest.raises(SpecError, match=r"model\.classes: missing; outputs of the head"):
        parse_spec(SHORT, ["recipe=jft-h"])
    assert parse_spec(SHORT, ["recipe=jft-h", "model.classes=18291"]).model.preset == "H/14"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("in1kb", "did you mean in1k-b?"), ("zzz", "allowed: in1k-b, in1k-l,"), ("7", "no recipe 7")],
)
def test_an_unknown_recipe_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(SHORT, [f"recipe={name}"])
    (problem,) = caught.value.problems
    assert problem.startswith("recipe: no recipe ")
    assert hint in problem
    assert "`mixer recipes` says what each is" in problem


def test_a_frozen_run_has_all_values_and_no_recipe_can_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bind(parse_spec(SHORT), FACTS, None, code={}).to_yaml()
    frozen = Frozen.from_yaml(text)
    keys = flat(frozen.spec.model_dump(mode="json", by_alias=True))
    assert flat(RECIPES["in1k-b"].values).keys() <= keys.keys()
    for module in ("recipe", "recipe_page"):  # a later version without it
        monkeypatch.setattr(f"orchestrator.{module}.RECIPES", {})
    assert Frozen.from_yaml(text) == frozen
    assert said(frozen.spec) == ["recipe in1k-b: not known to this version; the run has all its values"]
    whole = yaml.safe_dump(frozen.spec.model_dump(mode="json", by_alias=True))
    assert parse_spec(whole, ["workers.max=4"], recipes=False).train == frozen.spec.train


def test_expanding_changes_neither_the_recipe_nor_what_was_given() -> None:
    before, given = copy.deepcopy(RECIPES["in1k-b"].values), yaml.safe_load(SHORT)
    tree = expand(given)
    tree["train"]["optimizer"]["lr"] = tree["data"]["augment"]["mixup"] = 9
    assert RECIPES["in1k-b"].values == before
    assert given == yaml.safe_load(SHORT)


def test_the_page_in_docs_is_not_stale() -> None:
    assert PAGE.read_text() == page(), "run: python -m orchestrator.recipe_page > docs/recipes.md"


def test_the_command_lists_prints_and_refuses() -> None:
    run = CliRunner()
    listed = run.invoke(app, ["recipes", "--json"])
    assert [each["name"] for each in json.loads(listed.stdout)] == list(RECIPES)
    one = run.invoke(app, ["recipes", "jft-h"])
    assert yaml.safe_load(one.stdout) == RECIPES["jft-h"].values
    assert "# source: arXiv:2105.01601v4, Table 4, row H, JFT-300M" in one.stdout
    assert (
        json.loads(run.invoke(app, ["recipes", "jft-h", "--json"]).stdout)["values"]["train"]["epochs"] == 14
    )
    assert isinstance(run.invoke(app, ["recipes", "jft"]).exception, SpecError)


def test_a_run_keeps_its_recipe(digits: str, tmp_path: Path) -> None:
    """A run that is there already takes no other recipe, since that would change nothing."""
    path = tmp_path / "smoke.yaml"
    path.write_text(
        f"name: s\nrecipe: smoke\nmodel: {{classes: 10, image_size: 32}}\ndata: {{train: {digits}/train}}\nworkers: {{max: 1}}\n"
    )
    made = resolve(str(path), store=str(tmp_path), name="s")
    freeze(made, lambda _: None, submitted=True)
    assert resolve(str(path), store=str(tmp_path), name="s").new is False
    assert (
        resolve("s", store=str(tmp_path), overrides=["workers.max=2"]).frozen.spec.train
        == made.frozen.spec.train
    )
    with pytest.raises(
        UserError, match="run s was made with recipe smoke, and has all its values; --set recipe=in1k-b would"
    ):
        resolve("s", store=str(tmp_path), overrides=["recipe=in1k-b"])
