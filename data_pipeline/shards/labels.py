"""Where a sample's labels stand, and which classes they are.

    cls  txt ...     the whole member, as text: a class number, or the name of a class
    json             the whole member: a number, a name, or a list of them
    json:key.inner   a value inside the object that the member holds

member bytes -> `raw` (numbers, or names) -> `Labels.numbers`, by the data set's list of classes where they are
names. Text of decimal digits is always a number. Samples with several labels are as good as those with one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.errors import BadDataset

MAX_LABEL = 999_999_999
MAX_LABELS = 1000  # of one sample
LONGEST_NAME = 200  # characters; longer text is a caption, not a class
JSON = "json"
OTHER_NUMBER = re.compile(r"[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?")
_NUMBER = re.compile(r"[0-9]{1,9}")
_RULE = re.compile(r"[a-z0-9_.-]+")
_SHOWN = 40


class BadLabel(ValueError):
    """A member that holds no label by the rule; the message says what it holds and what is needed."""


@dataclass(frozen=True, slots=True)
class LabelRule:
    """The extension of the member, in lower case, and the way to the value inside its JSON, if it has one."""

    ext: str = "cls"
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelRule:
        """The rule of `cls`, `txt`, `json`, `json:key` or `json:key.inner`. Raises BadDataset."""
        ext, colon, path = text.partition(":")
        keys = tuple(path.split(".")) if colon else ()
        if not _RULE.fullmatch(ext) or not all(keys) or (colon and ext != JSON):
            raise BadDataset(
                f"label {text!r} is no rule; give the extension that holds the label (cls, txt, ...), json, or json:key"
            )
        return cls(ext, keys)

    def __str__(self) -> str:
        return f"{self.ext}:{'.'.join(self.path)}" if self.path else self.ext

    def raw(self, data: bytes) -> tuple[int | str, ...]:
        """The labels in a member: all numbers or all names, at least one, none twice. Raises BadLabel."""
        values = self._values(data)
        found = [_label(value) for value in values]
        if len({type(label) for label in found}) != 1 or len(found) > MAX_LABELS:
            raise BadLabel(
                f"the labels are {_shown(values)}; 1 to {MAX_LABELS} numbers, or names, are needed"
            )
        return tuple(dict.fromkeys(found))

    def _values(self, data: bytes) -> list[Any]:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise BadLabel(f"the label is {_shown(data)}; a class number or a name is needed") from None
        if self.ext != JSON:
            return [text]
        try:
            value = json.loads(text)
        except ValueError:
            raise BadLabel(f"the {self.ext} member is {_shown(text)}; that is not JSON") from None
        for key in self.path:
            if not isinstance(value, dict) or key not in value:
                raise BadLabel(f"there is no {'.'.join(self.path)!r} in {_keys(value)}")
            value = value[key]
        if isinstance(value, dict):
            raise BadLabel(
                f"the label would be {_keys(value)}; say which key holds it: label json:{next(iter(value), 'KEY')}"
            )
        return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Labels:
    """A rule and the classes of a data set: member bytes -> class numbers."""

    rule: LabelRule
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        numbers = {name: number for number, name in enumerate(self.classes or ())}
        if len(numbers) < len(self.classes or ()):
            twice = next(name for n, name in enumerate(self.classes or ()) if numbers[name] != n)
            raise BadDataset(f"the class {twice!r} is named twice; names of classes must differ")
        object.__setattr__(self, "_numbers", numbers)

    def numbers(self, data: bytes) -> tuple[int, ...]:
        """The class numbers of a sample. BadLabel for what is no class."""
        if not self.classes and data.isdigit() and len(data) < 10 and not self.rule.path:  # nearly always so
            return (int(data),)
        return self.of(self.rule.raw(data))

    def of(self, raw: tuple[int | str, ...]) -> tuple[int, ...]:
        """The class numbers of raw labels. BadLabel for what is no class."""
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        found: list[int] = []
        for label in raw:
            number = numbers.get(label) if isinstance(label, str) else label
            if number is None and not numbers:
                raise BadLabel(f"the label is {_shown(label)}; the classes of this data set are numbers")
            if number is None or (numbers and number >= len(numbers)):
                raise BadLabel(f"the label {_shown(label)} is none of the {len(numbers)} classes")
            found.append(number)
        return tuple(found)


def _label(value: Any) -> int | str:
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return int(text)
        if 0 < len(text) <= LONGEST_NAME and text.isprintable() and not OTHER_NUMBER.fullmatch(text):
            return text
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LABEL:
        return value
    raise BadLabel(
        f"the label is {_shown(value)}; a class number (0 to {MAX_LABEL}) or the name of a class is needed"
    )


def _keys(value: Any) -> str:
    if not isinstance(value, dict):
        return _shown(value)
    keys = ", ".join(list(map(str, value))[:12])
    return f"an object with the keys {keys}" if keys else "an object without keys"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
