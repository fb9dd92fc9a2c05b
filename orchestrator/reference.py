"""The reference of the spec, made from its pydantic models: `python -m orchestrator.reference > docs/spec.md`.

Spec -> its Sections, each with the path a user writes -> a Markdown table per Section -> one page. What a key belongs to, the run's
identity or its resources, is asked of `frozen.py`, which decides it. A test fails when the page in docs/ is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from mixer_model.config import PRESETS
from orchestrator.durations import Duration, parse_bytes
from orchestrator.frozen import DataFacts, identity, resources
from orchestrator.spec import Section, Spec
from orchestrator.spec_text import validate

SMALLEST = {
    "name": "x",
    "model": {"preset": "S/32", "classes": 1},
    "data": {"train": "x"},
    "train": {"global_batch": 1, "micro_batch": 1, "steps": 1},
    "workers": {"max": 1},
}

HEAD = """\
# The spec

Made from the code by `python -m orchestrator.reference > docs/spec.md`. Do not edit it here.

A spec is a YAML file. `mixer train SPEC` and `mixer submit SPEC` read it, and `--set key.path=value` writes over it, as often as
you like: `--set workers.max=4 --set train.optimizer.lr=3e-3`. A key that is not listed here is refused, and the nearest one is
named. Credentials do not belong into it; they come from the usual AWS places.

The column *kind* says what a key belongs to.

- **identity**: part of what the run computes. It is fingerprinted and frozen when the run is made. A rerun that differs in one of
  these keys is refused, with the keys. Where it leaves one out (other than `init` and `head`), the frozen value stands.
- **resource**: how the run is carried out. It may change each time the run is resumed, and each change stands in the run's log.

`name` and `store` say where the run lies, and `recipe` where values come from that the spec does not have. They are neither. Of the
data, the url is a resource and the digest of the index is identity: the same bytes may lie elsewhere, other bytes may not lie in the
same place.

## Units

**Durations** are a number and a unit: `500 steps`, `1e6 images` (or `samples`), `2 epochs`, `30 s`, `10 min`, `2 h`. A number
alone is steps. A step is one update of the weights. Images and epochs become steps, rounded up, when the run is frozen or
resumed. Some keys take no wall time, and `recovery.wait` wants wall time; the tables say which.

**Bytes** are a number alone, or one with `kB`, `MB`, `GB`, `TB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024):
`64 MB`.

"""

RULES = """\
## Rules across keys

- `train.micro_batch` divides `train.global_batch`. The quotient is M, the micro-batches of a step.
- `workers.max` is at most M, and `workers.min` at most `workers.max`.
- Either `train.epochs` or `train.steps`, not both.
- `train.zero: 0` with `train.precision: bf16` is refused: DeepSpeed's first update is wrong there. Use `zero: 1` or more.
- `train.warmup_steps` and `evaluate.every` take no wall time.
- Without `model.preset`, `model.patch`, `model.dim` and `model.depth` must be given. `token_dim` is then half of `dim`, and
  `channel_dim` four times `dim`, where they are not given.
- `model.image_size` is a multiple of the patch.
- With `model.mixer: s2`, 4 divides `dim`; with `ccs`, 8 does; with `hire`, the image has an even number of patches along a side.
- `model.drop_path_rescale: true` goes with `model.drop_path` above 0.
- `model.label_smoothing` above 0 goes with `model.loss: softmax`.
- `recipe` is read when a run is made; a run that is there takes no other.
- With `model.init`, `patch`, `dim`, `depth`, `channel_dim`, `activation` and `mixer` are those of the weights. `image_size` is theirs or
  K times it, K a whole number, and `token_dim` then K² times theirs. `head` goes with `init`, and `head: keep` with as many classes.
- `train.optimizer` takes `betas` and `eps` for `adamw`, `momentum` for `sgd`.
- `data.scale` and `data.ratio` are two numbers, 0 < low <= high; `data.scale` ends at 1 at most.

"""


def spec_reference() -> str:
    """The page docs/spec.md."""
    sections = "".join(_section(path, section) for path, section in _sections(Spec))
    return HEAD + sections + RULES + _presets()


def _sections(section: type[Section], path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every Section with its path, a parent before its children."""
    yield path, section
    for name, field in section.model_fields.items():
        inner = _inner(field)
        if inner:
            yield from _sections(inner, _below(path, field.alias or name))


def _section(path: str, section: type[Section]) -> str:
    rows = [
        "| key | type | default | allowed | kind | what it is |",
        "|---|---|---|---|---|---|",
        *(_row(path, field.alias or name, field) for name, field in section.model_fields.items()),
    ]
    title = f"`{path}`" if path else "Top level"
    return f"## {title}\n\n{' '.join((section.__doc__ or '').split())}\n\n" + "\n".join(rows) + "\n\n"


def _row(path: str, key: str, field: FieldInfo) -> str:
    whole, inner = _below(path, key), _inner(field)
    what = field.description or " ".join((inner.__doc__ or "").split() if inner else [])
    if inner:
        what = f"[below](#{whole.replace('.', '')}). {what[:1].upper()}{what[1:]}"
    cells = [f"`{key}`", _type(field), _default(field), _allowed(field), _kind(whole), what]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# -- a cell each ------------------------------------------------------------------------------------------------------------
def _inner(field: FieldInfo) -> type[Section] | None:
    """The Section that a field holds, if it holds one."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _type(field: FieldInfo) -> str:
    if any(getattr(item, "func", None) is parse_bytes for item in field.metadata):
        return "bytes"
    return _type_name(field.annotation)


def _type_name(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type_name(args[0])
    if origin is Literal:
        return _names({type(value) for value in args}, _type_name)
    if origin is tuple:
        return f"[{', '.join(map(_type_name, args))}]"
    if args:
        return _names([arg for arg in args if arg is not NoneType], _type_name)
    if kind is Duration:
        return "duration"
    if isinstance(kind, type) and issubclass(kind, Section):
        return "section"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}[kind]


def _names(parts: Any, name: Callable[[Any], str]) -> str:
    return " or ".join(name(part) for part in parts)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Section):
        return "its defaults"
    return f"`{_bytes(value) if _type(field) == 'bytes' else _value(value)}`"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bytes(value: int) -> str:
    scale, unit = next(
        (pair for pair in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")) if value >= pair[0]), (1, "")
    )
    return f"{value / scale:g} {unit}".strip()


def _allowed(field: FieldInfo) -> str:
    values = _literals(field.annotation)
    bounds = [text for item in field.metadata if (text := _bound(item))]
    null = ["`null`"] if NoneType in get_args(field.annotation) else []
    return ", ".join([*(f"`{_value(value)}`" for value in values), *bounds, *null])


def _literals(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for arg in get_args(kind) for value in _literals(arg)]


def _bound(item: Any) -> str:
    if pattern := getattr(item, "pattern", None):
        return f"matches `{pattern}`"
    match item:
        case annotated_types.Ge(ge=edge):
            return f">= {edge}"
        case annotated_types.Gt(gt=edge):
            return f"> {edge}"
        case annotated_types.Le(le=edge):
            return f"<= {edge}"
        case annotated_types.Lt(lt=edge):
            return f"< {'2^63' if edge == 2**63 else edge}"
    return ""


# -- identity and resources -------------------------------------------------------------------------------------------------
def _kind(key: str) -> str:
    """What `key` belongs to, as frozen.py divides the smallest spec."""
    spec, facts = validate(SMALLEST), DataFacts(1, 1.0, "")
    found = {"identity": identity(spec, facts, None), "resource": resources(spec)}
    return " and ".join(kind for kind, flat in found.items() if any(_related(key, name) for name in flat))


def _related(key: str, name: str) -> bool:
    """Whether `name`, a key of a flat mapping, is `key`, lies below it, or is a section above it that is left out."""
    return name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.")


def _presets() -> str:
    rows = [
        f"| `{name}` | {size.patch} | {size.dim} | {size.depth} | {size.token_dim} | {size.channel_dim} |"
        for name, size in PRESETS.items()
    ]
    head = "| preset | patch | dim | depth | token_dim | channel_dim |\n|---|---|---|---|---|---|\n"
    return f"## Presets\n\nTable 1 of the paper (arXiv:2105.01601).\n\n{head}" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(spec_reference())
