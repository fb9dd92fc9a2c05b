"""The figures of several calls in one file: rows by their key, newest first kept; written after every row.

Results.open(folder, name) -> put(...) -> gpu-<card>.json -> bars, table
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.gpu.curve import verdict

LIKE: Final = 0.03
"""Losses after the same steps may differ by this share between rows: more, and a row computes something else."""


class Results:
    """What is known of one card."""

    def __init__(self, path: Path, tree: dict[str, Any], command: str) -> None:
        self.path, self.tree, self.command = path, tree, command

    @classmethod
    def open(cls, folder: Path, name: str, command: str) -> Results:
        """What `folder` has of this card, or what the repository has; nothing yet, if neither."""
        path = folder / f"{name}.json"
        for known in (path, report.RESULTS / path.name):
            if known.exists():
                return cls(path, json.loads(known.read_text()), command)
        return cls(path, {}, command)

    def part(self, name: str) -> dict[str, Any]:
        """One part of the figures: "rows", "ceiling", "curve", "profile"."""
        found: dict[str, Any] = self.tree.setdefault(name, {})
        return found

    def put(self, part: str, key: str, value: Any) -> None:
        """Keep a figure, and write the file: whole, or as it was."""
        self.part(part)[key] = value
        facts = {
            name: self.tree[name]
            for name in ("card", "ceiling", "rows", "curve", "profile")
            if name in self.tree
        }
        self.tree = report.tree(
            self.command, **facts, verdict=verdict(self.part("curve")), bars=bars(self.tree)
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.tree, indent=1) + "\n")
        beside.replace(self.path)


def file_name(card: str) -> str:
    """ "NVIDIA H200" -> gpu-nvidia-h200."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def reference(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Images per second of timm compiled, block by block or whole, at the row's size and batch: the faster."""
    return _fastest(
        [
            each
            for each in rows.values()
            if (each["size"], each["batch"]) == (row["size"], row["batch"]) and _compiled_timm(each)
        ]
    )


def differs(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether its losses are not those of ours at the same size and batch: all rows start from the same weights."""
    other = rows.get(f"{row['size']}, {row['batch']}: ours", {})
    if "losses" not in row or "losses" not in other:
        return False
    return any(
        abs(one - two) > LIKE * abs(two) for one, two in zip(row["losses"], other["losses"], strict=True)
    )


def of_plain(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Images per second through DeepSpeed's engine over those of ours in a plain loop, at the same size and batch."""
    plain = rows.get(f"{row['size']}, {row['batch']}: ours", {})
    if not row["options"].get("zero") or "images_per_s" not in plain:
        return None
    return float(row["images_per_s"] / plain["images_per_s"])


def bars(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures to reach, as far as there is something to compare: of H/14 in a plain loop, each at its best micro-batch."""
    rows = [row for row in tree.get("rows", {}).values() if row["size"] == "H/14"]
    ours = [row for row in rows if row["options"]["whose"] == "ours" and not row["options"].get("zero")]
    bf16 = _fastest([row for row in ours if row["options"]["fp8"] == "no"])
    fp8 = _fastest([row for row in ours if row["options"]["fp8"] != "no"])
    timm = _fastest([row for row in rows if _compiled_timm(row)])
    share = max(
        (row["of_ceiling"] for row in ours if row.get("of_ceiling") and row["options"]["fp8"] == "no"),
        default=None,
    )
    found = [
        ("H/14 bf16, share of the measured ceiling", share, 0.80),
        ("H/14 bf16, ours / timm compiled", bf16 / timm if bf16 and timm else None, 1.25),
        ("H/14, FP8 channel mixing / our bf16", fp8 / bf16 if fp8 and bf16 else None, 1.30),
    ]
    return [report.bar(name, value, limit, most=False) for name, value, limit in found if value is not None]


def _compiled_timm(row: Mapping[str, Any]) -> bool:
    return row["options"]["whose"] == "timm" and row["options"]["compiled"] != "no"


def _fastest(rows: list[Mapping[str, Any]]) -> float | None:
    return max((row["images_per_s"] for row in rows if row["status"] == "measured"), default=None)
