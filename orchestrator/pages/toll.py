"""The middle of a report: where the time went, what broke and how it came back, and the attempts one by one."""

from __future__ import annotations

from orchestrator.accounts.account import Account, AttemptLine
from orchestrator.accounts.ledger import NAMES, PARTS
from orchestrator.pages import bars
from orchestrator.pages.page import Html, count, join, section, table, tag

MOST_FAULTS = 12
_MEANS = {
    "productive": "steps that count",
    "startup": "driver, placement, imports, engine, load",
    "compile": "the first micro-batch",
    "data wait": "a step waited for its batch",
    "save": "a step waited for a checkpoint",
    "evaluation": "the validation set",
    "recovery": "from a fault or a preemption to the first new micro-batch",
    "lost work": "steps that were done again",
    "shutdown": "after the last step",
    "waiting": "for machines",
    "nobody": "no driver was alive",
}
_SOURCES = {"here": "own memory", "far": "another node", "bucket": "bucket"}


def time_spent(account: Account) -> Html:
    ledger = account.book.ledger
    seconds, wall = ledger.seconds, ledger.wall_s or 1.0
    longest = max(seconds.values(), default=0.0) or 1.0
    rows: list[list[object]] = []
    for name in NAMES:
        bar = tag(
            "i",
            class_="bar",
            style=f"width:{100 * seconds[name] / longest:.2f}%;background:{bars.colour(name)}",
        )
        shade = join([bars.key(bars.colour(name)), name])
        rows.append(
            [
                shade,
                tag("span", _MEANS[name], class_="soft"),
                bar if seconds[name] else "",
                *_share(seconds[name], wall),
            ]
        )
    rows.append(["wall time", "", "", *_share(sum(seconds.values()), wall)])
    classes = [None if seconds[name] else "zero" for name in NAMES] + ["sum"]
    listed = table(["", "", "", "seconds", "share"], rows, numbers=(3, 4), classes=classes)
    note = (
        "Every second of the run, from its first driver to its end, has one name; "
        "the names add up to the wall time."
    )
    drawn = bars.timeline(ledger, account.attempts)
    return section("Where the time went", drawn, tag("div", listed, class_="ledger"), note=note)


def _share(seconds: float, wall: float) -> list[object]:
    return [f"{seconds:,.2f}", f"{seconds / wall:.1%}"]


def fault_list(account: Account) -> Html:
    faults = account.faults
    if not faults:
        return Html("")
    shown = faults[-MOST_FAULTS:]
    parts = [part for part in PARTS if any(part in fault.recovery for fault in shown)]
    rows = [
        [
            join(
                [tag("span", fault.fault, class_="bad"), f" at step {fault.reached}, attempt {fault.number}"]
            ),
            *(f"{fault.recovery[part]:.2f}" if part in fault.recovery else "" for part in parts),
            tag("b", f"{sum(fault.recovery.values()):.2f}"),
            _after(fault),
        ]
        for fault in shown
    ]
    numbers = tuple(range(1, len(parts) + 2))
    listed = table(["fault", *parts, "total", "steps again"], rows, numbers=(*numbers, len(parts) + 2))
    left_out = f" The newest {MOST_FAULTS} of {len(faults)}." if len(faults) > MOST_FAULTS else ""
    note = f"Seconds from the last sign of life to the end of the first new micro-batch, by part.{left_out}"
    keys = bars.legend([(bars.part_colour(part), part) for part in parts])
    return section(
        "Faults and recoveries", bars.recoveries(shown), keys, tag("div", listed, class_="parts"), note=note
    )


def _after(fault: AttemptLine) -> str:
    return count(fault.again) if fault.back else f"{count(fault.again)}, not back"


def attempt_list(account: Account) -> Html:
    book = account.book
    facts = {item["attempt"]: item for item in book.waterfall}
    longest = max((item["wall_s"] for item in facts.values()), default=0.0) or 1.0
    rows = [
        [
            str(line.number),
            str(line.world),
            count(line.begin),
            count(line.reached),
            tag(
                "span",
                line.outcome,
                class_="bad" if line.fault else "good" if line.outcome == "finished" else None,
            ),
            line.cause,
            bars.stacked(facts[line.n]["ledger"], longest),
            f"{line.end - line.start:,.1f}",
            _source(facts[line.n]["loaded"]),
            tag("span", str(line.n), class_="soft"),
        ]
        for line in account.attempts
    ]
    head = [
        "",
        "workers",
        "from step",
        "to step",
        "outcome",
        "cause",
        "where the time went",
        "seconds",
        "state from",
    ]
    note = "Colours as above. State comes from the memory of a rank's own node, of another node, or from the bucket."
    listed = table([*head, "log entry"], rows, numbers=(1, 2, 3, 7, 9))
    return section("Attempts", tag("div", listed, class_="attempts"), class_="long", note=note)


def _source(loaded: dict[str, int]) -> str:
    """Where an attempt's state came from."""
    whole = sum(loaded.values())
    if len(loaded) == 1:
        return _SOURCES[next(iter(loaded))]
    return ", ".join(f"{_SOURCES[where]} {size / whole:.0%}" for where, size in loaded.items())
