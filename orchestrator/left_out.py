"""What a spec leaves out when its run is frozen already: there the frozen value stands, not what a new run would have today.

What a user wrote -> over the run's identity -> a Spec. So a default, or a recipe, that changed since parts no spec from its run, and what
a user did write is compared with the run as ever. `init` and `head` are never filled in: without them weights are drawn, and that is no
default that could change.
"""

from __future__ import annotations

from typing import Any

from orchestrator.errors import SpecError
from orchestrator.frozen import Frozen, flat, identity_tree
from orchestrator.recipe import expand, under
from orchestrator.spec import Spec
from orchestrator.spec_text import validate

_NEVER = ("init", "head")


def resumed(tree: dict[str, Any], frozen: Frozen) -> tuple[Spec, list[str]]:
    """The Spec of `tree`, a spec without a mistake, for the run that `frozen` is; and `key: value (a new run has ...)` of what it keeps.

    Where the two cannot stand side by side the Spec is that of `tree` alone, which then differs from the run in what was written.
    """
    new = validate(expand(tree))
    if new.recipe != frozen.spec.recipe:
        return new, []
    values = identity_tree(frozen.spec)
    for key in _NEVER:
        del values["model"][key]
    if "activation_checkpointing" in (tree.get("train") or {}):  # its old name
        del values["train"]["recompute"]
    try:
        spec = validate(expand(under(tree, values)))
    except SpecError:
        return new, []
    return spec, _kept(flat(identity_tree(new)), flat(identity_tree(spec)))


def _kept(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    keys = [key for key in {**new, **old} if new.get(key) != old.get(key)]
    return [f"{key}: {old.get(key)!r} (a new run has {new.get(key)!r})" for key in keys]
