"""From what a user wrote to a Spec: YAML text -> `--set key.path=value` applied -> a recipe's values put under it -> validated.

Unknown keys are refused with the nearest known one; every mistake is a line that says what was given and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.errors import SpecError, UserError
from orchestrator.recipe import expand
from orchestrator.spec import Spec

_CREDENTIAL = re.compile(r"://[^/@\s]+:[^/@\s]+@|(?:AKIA|ASIA)[A-Z0-9]{16}")


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """The Spec in the YAML file `path` with `key.path=value` overrides applied. SpecError or UserError."""
    return written(load_tree(path, overrides))


def load_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a user wrote: the YAML file `path` with overrides applied, and nothing that was left out. SpecError or UserError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or f"not text: {error}"
        raise UserError(f"{path}: {why}; give the path of a spec (see runs/) or the name of a run") from None
    return parse_tree(text, overrides, where=str(path))


def parse_spec(
    text: str, overrides: Sequence[str] = (), where: str = "spec", *, recipes: bool = True
) -> Spec:
    """The Spec in YAML `text` with overrides applied. SpecError lists every mistake, one line each.

    Without `recipes` the text has all values, as that of a frozen run, and a recipe's name in it is no more than a name.
    """
    tree = parse_tree(text, overrides, where)
    return written(tree) if recipes else validate(tree)


def parse_tree(text: str, overrides: Sequence[str] = (), where: str = "spec") -> dict[str, Any]:
    """The mapping in YAML `text` with overrides applied. SpecError when it is none, or holds a credential."""
    if _CREDENTIAL.search(text) or any(_CREDENTIAL.search(item) for item in overrides):
        raise SpecError(
            [f"{where}: holds what looks like a credential; take it out and use the usual AWS places"]
        )
    tree = _yaml(text, where)
    if not isinstance(tree, dict):
        raise SpecError([f"{where}: got {type(tree).__name__}; a spec is a mapping of keys (see runs/)"])
    for item in overrides:
        _set(tree, item)
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, as YAML does: the first one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml(text: str, where: str) -> Any:
    """What YAML `text` says. SpecError."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SpecError([f"{where}: not YAML: {' '.join(str(error).split())}"]) from None


def written(tree: dict[str, Any]) -> Spec:
    """The Spec of what a user wrote: a recipe's values put under it, and no key in it that would do nothing. SpecError.

    A frozen spec is validated only: one that an older version accepted still loads.
    """
    spec = validate(expand(tree))
    if spec.model.drop_path_rescale and not spec.model.drop_path:
        raise SpecError(
            [
                "model.drop_path_rescale: got True; it goes with drop_path above 0, which is 0: leave it out, or set drop_path"
            ]
        )
    return spec


def validate(tree: dict[str, Any]) -> Spec:
    """The Spec of a mapping. SpecError lists every mistake, one line each."""
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        raise SpecError([_problem(item) for item in error.errors()]) from None


def _set(tree: dict[str, Any], item: str) -> None:
    path, equals, value = item.partition("=")
    if not equals or not path:
        raise SpecError([f"--set {item}: write key.path=value"])
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        child = node.get(key)
        node[key] = node = {} if child is None else child
        if not isinstance(node, dict):
            raise SpecError([f"--set {item}: {key} is a value, it has no keys below it"])
    node[last] = _scalar(value, f"--set {item}")


def _scalar(text: str, where: str) -> Any:
    value = _yaml(text, where) if text else ""
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _problem(error: Any) -> str:
    loc = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return f"{'.'.join(loc)}: unknown key; {_nearest(loc)}"
    message, given = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] == "missing":
        return f"{'.'.join(loc)}: missing; {_describe(loc)}"
    if error["type"] == "model_type":
        return f"{'.'.join(loc)}: got {given!r}; it is a section, with keys below it: {', '.join(_keys(loc))}"
    whole = error["type"] == "value_error" and isinstance(given, dict)  # a section: the message names the key
    said = "" if whole or message.startswith("got ") else f"got {given!r}; "
    return f"{'.'.join(loc) or 'spec'}: {said}{message[:1].lower()}{message[1:]}"


def _section(loc: Sequence[str]) -> type[BaseModel] | None:
    """The Section class that holds the key at `loc`."""
    section: type[BaseModel] = Spec
    for key in loc[:-1]:
        field = section.model_fields.get(key)
        kinds: tuple[Any, ...] = (
            (field.annotation, *getattr(field.annotation, "__args__", ())) if field else ()
        )
        inner = next((kind for kind in kinds if _is_section(kind)), None)
        if inner is None:
            return None
        section = inner
    return section


def _keys(loc: Sequence[str]) -> list[str]:
    """The keys of the section at `loc`."""
    section = _section([*loc, ""])
    return _names(section) if section else []


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _names(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def _nearest(loc: Sequence[str]) -> str:
    section = _section(loc)
    names = _names(section) if section else []
    close = difflib.get_close_matches(loc[-1], names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"allowed here: {', '.join(names)}"


def _describe(loc: Sequence[str]) -> str:
    section = _section(loc)
    field = section.model_fields.get(loc[-1]) if section else None
    kind = field.annotation if field else None
    said = field.description if field else None
    return said or (
        f"a section: {(kind.__doc__ or '').splitlines()[0]}" if _is_section(kind) and kind else "give it"
    )
