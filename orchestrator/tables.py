"""Tables that people read: a run's status, its ledger, its recoveries."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from orchestrator.accounts.loading import in_words
from orchestrator.frozen import InitFacts
from orchestrator.watch import rate_text

EPOCHS = 3  # the newest ones are shown; all are in --json
MARK = {
    "productive": "green", "startup": "blue", "compile": "cyan", "data wait": "yellow", "save": "magenta",
    "evaluation": "bright_blue", "recovery": "red", "lost work": "bright_red", "shutdown": "white", "waiting": "bright_yellow",
    "nobody": "bright_black",
}  # fmt: skip


def status_table(facts: dict[str, Any]) -> Table:
    """The facts of `mixer status`, then the ledger."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row("run", f"{facts['run']}  ({facts['state']})")
    if facts["init"]:
        table.add_row("begun from", InitFacts(**facts["init"]).words)
    table.add_row("step", f"{facts['step']} of {facts['steps']}, {facts['samples_seen']:,} samples")
    table.add_row(
        "workers", f"{facts['world_size']}, attempt {len(facts['attempts'])} (log {facts['attempt']})"
    )
    table.add_row("last checkpoint", str(facts["last_checkpoint"]))
    table.add_row("loss", _number(facts["loss"], ".4f"))
    table.add_row("images/s", "-" if facts["images_per_s"] is None else rate_text(facts["images_per_s"]))
    if facts["mfu"] is not None:
        table.add_row("MFU", f"{facts['mfu']:.1%}")
    if facts["evaluation"]:
        seen = facts["evaluation"]
        top5 = f" (top-5 {seen['top5']:.2%})" if "top5" in seen else ""
        table.add_row(
            "validation", f"{seen['accuracy']:.2%}{top5} of {seen['samples']} at step {seen['step']}"
        )
    if facts["bad_samples"]:
        table.add_row("bad samples", str(facts["bad_samples"]))
    if facts["left_out"]:
        table.add_row("batches left out", ", ".join(map(str, facts["left_out"])))
    if facts["loader"]:
        table.add_row("reading", ", ".join(f"{name} {value}" for name, value in in_words(facts["loader"])))
    table.add_row("goodput", f"{facts['goodput']:.1%} of {facts['wall_s']:.1f} s")
    table.add_row("where it went", ledger_table(facts["ledger"]))
    table.add_row("sample digest", facts["id_digest"])
    for epoch in facts["epochs"][-EPOCHS:]:
        table.add_row(f"epoch {epoch['epoch']}", f"{epoch['id_digest']}  ({epoch['steps']} steps)")
    return table


def ledger_table(seconds: dict[str, float]) -> Table:
    """Seconds and shares by name; names that took nothing are left out."""
    total = sum(seconds.values()) or 1.0
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        if value > 0:
            bar = "█" * max(1, round(30 * value / total))
            table.add_row(name, f"{value:.1f} s", f"{value / total:.1%}", f"[{MARK.get(name, 'white')}]{bar}")
    table.add_row("sum", f"{sum(seconds.values()):.1f} s", "")
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
