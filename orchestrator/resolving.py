"""From a spec or a name to a run: found in the bucket, or bound to its data and frozen there.

resolve() -> Resolved, and nothing is written yet -> freeze() writes what is new
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_pipeline.storage import Store
from orchestrator import classes, left_out
from orchestrator.data_sets import data_facts
from orchestrator.errors import SpecError, UserError
from orchestrator.frozen import Frozen, InitFacts, bind, differences, identity, resources
from orchestrator.run_log import RunLog, new_writer
from orchestrator.run_store import Run, create, effective, new_name, runs_url
from orchestrator.spec import Spec
from orchestrator.spec_text import load_spec, load_tree, parse_spec, written
from orchestrator.stores import default_store, find_run, remember_store
from orchestrator.urls import absolute, whole

if TYPE_CHECKING:
    from orchestrator.weights.initial import Initial

Say = Callable[[str], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Resolved:
    """A run to lead: `frozen` with the resources wanted now; `new` when nothing lies in the bucket yet."""

    run: Run
    frozen: Frozen
    new: bool
    initial: Initial | None = None  # of a new run: the weights it begins with, to be copied into the bucket
    kept: tuple[
        str, ...
    ] = ()  # of a resumed one: what it has otherwise than a new run of the same spec would


def resolve(
    target: str,
    *,
    store: str | None = None,
    name: str | None = None,
    overrides: Sequence[str] = (),
    remember: bool = True,
) -> Resolved:
    """The run that `target` (a spec's path, a run's name or url) means. UserError when it differs from a frozen run's identity."""
    if Path(target).suffix in (".yaml", ".yml"):
        return _from_spec(load_tree(target, overrides), store, name, remember)
    if name:
        raise UserError(
            f"--name {name} goes with a spec; {target} is taken for the name of a run (a spec ends in .yaml)"
        )
    run = find_run(target, store)
    frozen = effective(run.frozen(), run.log().entries)
    tree = yaml.safe_load(yaml.safe_dump(frozen.spec.model_dump(mode="json", by_alias=True)))
    if not overrides:
        return _resume(run, frozen.spec)
    spec = parse_spec(yaml.safe_dump(tree), overrides, where=run.name, recipes=False)
    if spec.recipe != frozen.spec.recipe:
        raise UserError(
            f"run {run.name} was made with recipe {frozen.spec.recipe}, and has all its values; --set recipe={spec.recipe} would change "
            "none of them: set the keys you mean, or start a new run from a spec"
        )
    return _resume(run, whole(spec, run.url.rsplit("/runs/", 1)[0]))


def _from_spec(tree: dict[str, Any], store: str | None, name: str | None, remember: bool) -> Resolved:
    spec = written(tree)
    base = absolute(store or spec.store or default_store())
    spec = whole(spec, base)
    run = Run(f"{runs_url(base)}/{name or new_name(spec.name)}")
    if name is not None and not _NAME.fullmatch(name):
        raise UserError(
            f"--name got {name!r}; allowed are letters, digits, `.`, `_` and `-`, 1 to 80 of them, a letter or digit first"
        )
    if remember:
        remember_store(base)
    if run.exists():
        resumed, kept = left_out.resumed(tree, run.frozen())
        return replace(_resume(run, whole(resumed, base)), kept=tuple(kept))
    data, initial = data_facts(spec), _initial(spec)
    if initial and initial.facts.head == "keep":
        classes.check_kept_head(spec, data[0], initial.classes)
    init = initial.facts if initial else None
    frozen = bind(spec, *data, code=code_versions(), init=init)
    return Resolved(run, frozen, new=True, initial=initial)


def frozen_of(path: str, overrides: Sequence[str] = ()) -> Frozen:
    """A new run of the spec at `path` as it would be frozen, its first weights left aside. Nothing is written anywhere."""
    spec = whole(load_spec(path, overrides))
    return bind(spec, *data_facts(spec), code=code_versions())


def _initial(spec: Spec) -> Initial | None:
    """The weights that `spec` begins with, read and fitted; None where they are drawn."""
    if spec.model.init is None:
        return None
    from orchestrator.weights.initial import prepare

    return prepare(spec)


def _resume(run: Run, spec: Spec) -> Resolved:
    frozen = run.frozen()
    train, val = (frozen.train, frozen.val) if spec.data == frozen.spec.data else data_facts(spec)
    init = frozen.init if spec.model.init == frozen.spec.model.init else _init_facts(spec)
    if init and frozen.init and frozen.init.weights is None:
        init = replace(init, weights=None)  # frozen by a version that knew the file's digest only
    changed = differences(
        identity(frozen.spec, frozen.train, frozen.val, frozen.init), identity(spec, train, val, init)
    )
    if changed:
        raise SpecError(
            [f"run {run.name} is frozen and differs in {len(changed)} key(s): {'; '.join(changed)}. "
             "Put them back, or start a new run under another --name"]
        )  # fmt: skip
    return Resolved(run, frozen.with_resources(spec), new=False)


def _init_facts(spec: Spec) -> InitFacts | None:
    initial = _initial(spec)
    return initial.facts if initial else None


def code_versions() -> dict[str, str]:
    """What a run was made with."""
    found = {}
    for package in ("mixer-pretrain", "torch", "deepspeed", "ray", "webdataset"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "source"
    return found


def freeze(resolved: Resolved, say: Say, *, submitted: bool, writer: str | None = None) -> bool:
    """Write a new run into the bucket. Whether the store honours conditional writes."""
    honours = probe(resolved.run.store, say)
    for line in resolved.kept:
        say(f"run {resolved.run.name} keeps what the spec leaves out: {line}")
    if resolved.new:
        if resolved.initial:
            for note in resolved.initial.notes:
                say(f"note on {resolved.initial.facts.source}: {note}")
            resolved.initial.write(resolved.run.store)
        classes.keep(resolved.run, resolved.frozen)
        create(
            resolved.run, resolved.frozen, writer or new_writer(), conditional=honours, submitted=submitted
        )
    return honours


def probe(store: Store, say: Say) -> bool:
    """Whether `store` honours conditional writes; says what it does not honour and what that means."""
    found = store.probe()
    for line in found.describe():
        say(line)
    return bool(found.conditional_put)


def changed(resolved: Resolved, log: RunLog) -> bool:
    """Whether the resources wanted now differ from those the run had last."""
    before = effective(resolved.run.frozen(), log.entries)
    return bool(differences(resources(before.spec), resources(resolved.frozen.spec)))
