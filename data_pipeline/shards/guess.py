"""Which member holds the label, when nobody said: found out from the first sample, or asked.

A .cls member is it. Else a .txt that could name a class, or a .json that is a label or has one key that says
so by its name. More than one way, or none, is for the user to decide: the error lists what there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.errors import BadDataset
from data_pipeline.shards.format import IMAGE_EXTS
from data_pipeline.shards.labels import JSON, BadLabel, LabelRule

CLS, TXT = "cls", "txt"
TELLING = ("label", "labels", "class", "classes", "cls", "target", "class_id", "class_name", "category")


def guess_rule(members: Mapping[str, bytes], where: str) -> LabelRule:
    """The rule by which the first sample of `where`, by extension, has a label. Raises BadDataset."""
    if CLS in members:
        return LabelRule(CLS)
    ways = [*_as_text(members), *_in_json(members)]
    if len(ways) == 1:
        return ways[0]
    held = "; ".join(_describe(members)) or "no sample"
    if not ways:
        raise BadDataset(
            f"where the labels stand is not clear: the first sample of {where} holds {held}. "
            "Give --label: an extension, or json:key for a value inside the JSON"
        )
    raise BadDataset(
        f"where the labels stand is not clear: the first sample of {where} holds {held}. "
        f"Give one: {', '.join(f'--label {way}' for way in ways)}"
    )


def _as_text(members: Mapping[str, bytes]) -> Iterator[LabelRule]:
    if TXT in members and _holds(LabelRule(TXT), members[TXT]):
        yield LabelRule(TXT)


def _in_json(members: Mapping[str, bytes]) -> Iterator[LabelRule]:
    if JSON not in members:
        return
    rules = [LabelRule(JSON)] + [
        LabelRule(JSON, (key,)) for key in _keys(members[JSON]) if key.lower() in TELLING
    ]
    yield from (rule for rule in rules if _holds(rule, members[JSON]))


def _holds(rule: LabelRule, data: bytes) -> bool:
    try:
        return bool(rule.raw(data))
    except BadLabel:
        return False


def _describe(members: Mapping[str, bytes]) -> Iterator[str]:
    """The members that could hold a label, and what a JSON one has inside."""
    for ext, data in members.items():
        if ext == JSON:
            usable = [key for key in _keys(data) if _holds(LabelRule(JSON, (key,)), data)]
            yield f"json with the keys {', '.join(_keys(data)[:20])}" + (
                f" (that could be labels: {', '.join(usable[:20])})" if usable else ""
            )
        else:
            yield ext + (" (an image)" if ext in IMAGE_EXTS else "")


def _keys(data: bytes) -> list[str]:
    try:
        value: Any = json.loads(data)
    except ValueError:
        return []
    return list(value) if isinstance(value, dict) else []
