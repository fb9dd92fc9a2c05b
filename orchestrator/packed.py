"""What `mixer pack` prints at its end: a table per data set, and what was left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table
from rich.text import Text

NAMED_CLASSES = 3  # at each end
LISTED = 20  # left out; all are in pack-summary.json


def pack_table(facts: dict[str, Any]) -> Table:
    """One column per data set."""
    sets = facts["sets"]
    table = Table(box=None, pad_edge=False, show_header=len(sets) > 1)
    table.add_column(justify="right", style="bold")
    for one in sets:
        table.add_column(one["name"])
    for name, show in ROWS.items():
        cells = [show(one) for one in sets]
        if any(cells):
            table.add_row(name, *(Text(cell or "-", overflow="fold") for cell in cells))
    return table


def closing_lines(facts: dict[str, Any]) -> list[str]:
    """Remarks, what was left out, the sheet, the time."""
    skipped = facts["skipped"]
    lines = [f"left out {item['path']}: {item['why']}" for item in skipped[:LISTED]]
    if len(skipped) > LISTED:
        lines.append(f"and {len(skipped) - LISTED} more left out: all are named in pack-summary.json")
    if facts["sheet"]:
        lines.append(f"contact sheet: {facts['sheet']}")
    return [*facts["remarks"], *lines, f"{facts['seconds']:.1f} s, {facts['images_per_s']:,.0f} images/s"]


def _counts(one: dict[str, Any]) -> str:
    shards = f"{one['shards']:,} {'shard' if one['shards'] == 1 else 'shards'}"
    return f"{one['samples']:,} in {shards}, {one['bytes'] / 1e6:,.1f} MB"


def _classes(one: dict[str, Any]) -> str:
    counts = list(one["per_class"].values())
    each = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{min(counts):,}"
    return f"{len(counts):,}, {each} images each" + ("" if one["classes"] else ", without names")


def _ends(one: dict[str, Any], most: bool) -> str:
    """The classes with the most or the fewest images; nothing where all have as many."""
    ranked = sorted(one["per_class"].items(), key=lambda item: -item[1] if most else item[1])
    if ranked[0][1] == ranked[-1][1]:
        return ""
    return ", ".join(f"{name} ({count:,})" for name, count in ranked[:NAMED_CLASSES])


def _pixels(one: dict[str, Any]) -> str:
    return ", ".join(f"{name} {width} x {height}" for name, (width, height) in one["size"].items())


def _formats(one: dict[str, Any]) -> str:
    return ", ".join(f"{form} ({count:,})" for form, count in one["formats"].items())


def _changed(one: dict[str, Any]) -> str:
    done = {"scaled down": one["resized"], "encoded anew": one["encoded"]}
    return (
        ", ".join(f"{count:,} {what}" for what, count in done.items() if count) or "none: bytes as they came"
    )


ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "url": lambda one: one["url"],
    "images": _counts,
    "classes": _classes,
    "most": lambda one: _ends(one, most=True),
    "fewest": lambda one: _ends(one, most=False),
    "pixels": _pixels,
    "came as": _formats,
    "changed": _changed,
    "broken": lambda one: f"{one['broken']:,} left out" if one["broken"] else "",
    "labels": lambda one: one["label"],
    "digest": lambda one: one["digest"][:12],
}
