"""A recipe put under what a user wrote: `recipe: NAME` -> its values, and over them the user's, key by key.

Done once, when a spec is read. The frozen spec holds every value, so that no later change of a recipe changes a run.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any

from mixer_model.recipes import RECIPES, Recipe
from orchestrator.errors import SpecError

KEY = "recipe"


def named(name: object) -> Recipe:
    """The recipe called `name`. SpecError names the nearest."""
    if isinstance(name, str) and name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(str(name), RECIPES, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(RECIPES)}."
    raise SpecError([f"recipe: no recipe {name!r}; {hint} `mixer recipes` says what each is"])


def expand(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the values of its recipe, if it names one, where it has none of its own. SpecError for an unknown recipe."""
    if tree.get(KEY) is None:
        return tree
    return under(tree, named(tree[KEY]).values)


def under(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`tree`, what a user wrote, with `values` where it has none of its own and they can stand beside it."""
    values = copy.deepcopy(dict(values))
    _give_way(values["train"], tree.get("train"))
    return _over(tree, values)


def _give_way(values: dict[str, Any], given: Any) -> None:
    """Takes from `values` what cannot stand beside what the user wrote: the other length, another optimizer's numbers."""
    if not isinstance(given, dict):
        return
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if given.get(one) is not None:
            values.pop(other, None)
    optimizer = given.get("optimizer")
    if (
        isinstance(optimizer, dict)
        and optimizer.get("name", values["optimizer"]["name"]) != values["optimizer"]["name"]
    ):
        del values["optimizer"]


def _over(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `values`, section by section; a null that was given stays."""
    both = {
        key: _over(value, values[key])
        for key, value in given.items()
        if isinstance(value, dict) and isinstance(values.get(key), dict)
    }
    return {**values, **given, **both}
