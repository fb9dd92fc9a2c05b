"""What is said of recipes: the table and the YAML of `mixer recipes`, what a run overrides, and docs/recipes.md.

RECIPES -> rows, one recipe as YAML with its source, the page (`python -m orchestrator.recipe_page > docs/recipes.md`). A test fails when
the page is stale.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import yaml
from rich.table import Table

from mixer_model.recipes import RECIPES, Recipe
from orchestrator.frozen import differences, flat
from orchestrator.recipe import KEY, expand
from orchestrator.spec import Spec
from orchestrator.spec_text import validate

FILLED: dict[str, Any] = {"name": "x", "data": {"train": "x"}, "workers": {"max": 1}}

HEAD = """\
# Recipes

Made from the code by `python -m orchestrator.recipe_page > docs/recipes.md`. Do not edit it here.

`recipe: NAME` at the top of a spec puts a recipe's values under what the spec says: every key you write wins, alone. What a spec must
add is where the data are and how many machines may work:

```yaml
name: mixer-b16-in1k
recipe: in1k-b
data: {train: s3://bucket/imagenet1k/train, val: s3://bucket/imagenet1k/val}
workers: {min: 2, max: 32, gpus: 1, cpus: 14}
```

- Of `train.epochs` and `train.steps` the one you write stands, and the recipe's other one goes.
- With another `train.optimizer.name` nothing of the recipe's optimizer is taken.
- `mixer train` says which of the recipe's values the spec overrides. The frozen spec of a run holds all values; no later version of a
  recipe changes it.
- `mixer recipes` lists them, `mixer recipes NAME` prints the YAML of one.

Where the source leaves something open, the recipe says so. Of all of Table 4: weight decay is times the learning rate, as torch's AdamW
has it, and falls on kernels only; betas are 0.9 and 0.999; dropout is 0, so there is no such layer; images are scaled to -1..1.

"""


def spec_of(recipe: Recipe) -> Spec:
    """The spec of a recipe to which a user adds nothing but what must be there."""
    classes = recipe.values["model"].get("classes", 1)
    return validate(expand({**FILLED, KEY: recipe.name, "model": {"classes": classes}}))


def overridden(spec: Spec) -> list[str]:
    """`key: recipe's -> the spec's` for each value of its recipe that a spec does not have."""
    recipe = RECIPES.get(spec.recipe or "")
    if recipe is None:
        return []
    keys = flat(recipe.values).keys()
    plain, own = (flat(each.model_dump(mode="json", by_alias=True)) for each in (spec_of(recipe), spec))
    return differences(*({key: each.get(key) for key in keys} for each in (plain, own)))


def said(spec: Spec) -> list[str]:
    """What `mixer train` says of a spec's recipe."""
    if spec.recipe is None:
        return []
    recipe = RECIPES.get(spec.recipe)
    if recipe is None:
        return [f"recipe {spec.recipe}: not known to this version; the run has all its values"]
    changed = overridden(spec)
    own = f"; the spec has its own {', '.join(changed)}" if changed else ""
    return [f"recipe {recipe.name} ({recipe.source}){own}"]


def as_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields."""
    return asdict(recipe)


def as_yaml(recipe: Recipe) -> str:
    """A recipe as the part of a spec it stands for, with its source in comments."""
    said = [recipe.what, f"source: {recipe.source}"]
    said += [f"reaches: {recipe.result}"] if recipe.result else []
    said += [f"left open there: {item}" for item in recipe.unsaid]
    return "".join(f"# {line}\n" for line in said) + _dumped(recipe.values)


def recipes_table() -> Table:
    """All recipes, a row each."""
    table = Table(box=None, pad_edge=False)
    for name in ("recipe", "what", "lr", "decay", "source"):
        table.add_column(name, overflow="fold")
    for recipe in RECIPES.values():
        optimizer = recipe.values["train"]["optimizer"]
        numbers = (f"{optimizer[key]:g}" for key in ("lr", "weight_decay"))
        table.add_row(recipe.name, recipe.what, *numbers, recipe.source)
    return table


def page() -> str:
    """The page docs/recipes.md."""
    rows = [
        "| recipe | size | classes | length | batch | optimizer | lr | decay | RandAugment | mixup | stochastic depth | loss |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(recipe) for recipe in RECIPES.values()),
    ]
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(map(_part, RECIPES.values()))


def _row(recipe: Recipe) -> str:
    spec = spec_of(recipe)
    model, train, augment = spec.model, spec.train, spec.data.augment
    length = f"{train.epochs:g} epochs" if train.epochs else f"{train.steps:,} steps"
    cells = [
        f"[`{recipe.name}`](#{recipe.name})",
        model.preset or "",
        f"{model.classes:,}" if "classes" in recipe.values["model"] else "yours",
        length,
        f"{train.global_batch:,}",
        train.optimizer.name,
        f"{train.optimizer.lr:g}",
        f"{train.optimizer.weight_decay:g}",
        f"{augment.randaugment.ops} of {augment.randaugment.magnitude:g}" if augment.randaugment else "-",
        f"{augment.mixup:g}" if augment.mixup else "-",
        f"{model.drop_path:g}" if model.drop_path else "-",
        model.loss if model.head_bias is None else f"{model.loss}, head bias {model.head_bias:g}",
    ]
    return f"| {' | '.join(cells)} |"


def _part(recipe: Recipe) -> str:
    reached = f"\n\nReaches {recipe.result}." if recipe.result else ""
    unsaid = "".join(f"- {item}\n" for item in recipe.unsaid)
    return (
        f"## {recipe.name}\n\n{recipe.what}\n\nSource: {recipe.source}.{reached}\n\n"
        f"Left open there:\n\n{unsaid}\n```yaml\n{_dumped(recipe.values)}```\n"
    )


def _dumped(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)


if __name__ == "__main__":
    sys.stdout.write(page())
