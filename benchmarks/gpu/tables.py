"""What is printed of the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.curve import PRECISIONS, verdict
from benchmarks.gpu.plan import BEST, OURS
from benchmarks.gpu.results import differs, of_plain, reference

WIDTH = 150


def show(tree: Mapping[str, Any]) -> None:
    """Everything there is: the ceiling, the steps, the curves, the profiles."""
    console = Console(width=WIDTH, highlight=False)
    if "products" in tree.get("ceiling", {}):
        console.print(_ceiling(tree["ceiling"]["products"]))
    if tree.get("rows"):
        console.print(_steps(tree["rows"]))
    if tree.get("curve"):
        console.print(_curve(tree["curve"]))
    for name, each in tree.get("profile", {}).items():
        if each["status"] == "measured":
            console.print(_profile(name, each))


def _ceiling(ceiling: Mapping[str, Any]) -> Table:
    table = Table(title="matrix products alone, TFLOP/s")
    for column in ("product", "bf16", "FP8", "FP8, fast sums"):
        table.add_column(column, justify="left" if column == "product" else "right")
    for name, rate in ceiling["bf16"].items():
        other = [ceiling["fp8"].get(name + more, "") for more in ("", ", fast sums")]
        table.add_row(name, _number(rate), *map(_number, other))
    table.caption = (
        f"ceiling {_number(ceiling['bf16_tflops'])}; all products of one block in a row {_number(ceiling['own_tflops'])}, "
        f"which is {ceiling['own_images_per_s']} images/s and nothing else; copy {ceiling['copy_tbs']} TB/s"
    )
    return table


def _steps(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="training steps")
    table.add_column("network, micro-batch: way")
    for column in ("images/s", "step ms", "of ceiling", "/ timm compiled", "peak GiB", "ready s"):
        table.add_column(column, justify="right")
    table.add_column("note", max_width=50)
    for key, row in sorted(rows.items(), key=lambda item: (item[1]["size"], item[1]["batch"])):
        table.add_row(
            key, *(_figures(row, rows) if row["status"] == "measured" else [""] * 6), _note(row, rows)
        )
    return table


def _figures(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    base = reference(row, rows)
    return [
        f"{row['images_per_s']:.1f}",
        f"{row['step_ms']:.1f}",
        f"{row['of_ceiling']:.1%}" if row.get("of_ceiling") else "",
        f"{row['images_per_s'] / base:.3f}" if base else "",
        "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}",
        f"{row['ready_s']:.0f}",
    ]


def _note(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    if row["status"] != "measured":
        return f"{row['status']} {row.get('why', '')}"[:100]
    changed = {
        name: value
        for name, value in row["options"].items()
        if row["label"].startswith(BEST) and value != getattr(OURS, name)
    }
    said = [f"{name} {value}" for name, value in changed.items()]
    share = of_plain(row, rows)
    if share is not None:
        said.append(f"{share:.3f} of ours, a plain loop")
    return ", ".join([*said, *(["LOSS DIFFERS from ours"] if differs(row, rows) else [])])


def _curve(curve: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="loss over the last tenth of the steps; for each seed the same data and start")
    for column in ("seed", *PRECISIONS):
        table.add_column(column, justify="right")
    for seed in sorted({each["seed"] for each in curve.values() if "seed" in each}):
        runs = [curve.get(f"{precision}, seed {seed}", {}) for precision in PRECISIONS]
        table.add_row(
            str(seed), *[f"{run['end']:.4f}" if "end" in run else run.get("status", "") for run in runs]
        )
    table.caption = "; ".join(verdict(curve).values())
    return table


def _profile(name: str, each: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{name}: {each['step_ms']:.1f} ms a step, of which the device works {each['busy_ms']:.1f}"
    )
    for column in ("kernel", "kind", "ms a step", "calls", "share"):
        table.add_column(column, justify="left" if column in ("kernel", "kind") else "right")
    for kernel in each["kernels"]:
        table.add_row(
            kernel["name"][:80],
            kernel["kind"],
            f"{kernel['ms']:.2f}",
            f"{kernel['calls']:.0f}",
            f"{kernel['share']:.1%}",
        )
    table.caption = ", ".join(f"{kind} {share:.1%}" for kind, share in each["shares"].items())
    return table


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 10 else f"{value:.3f}"
    return str(value)[:40]
