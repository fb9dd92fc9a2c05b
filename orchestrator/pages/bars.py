"""The bars of a report, as SVG by hand: a run's time with its names, and each recovery with its parts.

Colours are CSS variables of the page, so the bars follow its light or dark. Every piece says on hover what it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from orchestrator.accounts.account import AttemptLine
from orchestrator.accounts.ledger import NAMES, PARTS, Ledger
from orchestrator.accounts.timeline import Stroke
from orchestrator.pages.page import Html, duration, join, several, tag

WIDTH = 1000.0
FINEST = 150  # pieces the bar is cut into, where names change faster than that
BAR_TOP, BAR_HIGH = 50.0, 44.0
_PART_COLOURS = {
    "detect": "var(--bad)",
    "decide": "var(--warm)",
    "place": "var(--startup)",
    "import": "#93b1d8",
    "engine": "#5c8fc7",
    "load": "#3f74b5",
    "data": "#7fb7a3",
    "first batch": "var(--data-wait)",
    "compile": "var(--compile)",
}
_TICKS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def colour(name: str) -> str:
    """The colour of a name of the ledger."""
    return f"var(--{name.replace(' ', '-')})"


def part_colour(part: str) -> str:
    """The colour of a part of a recovery."""
    return _PART_COLOURS.get(part, "var(--faint)")


def legend(items: Sequence[tuple[str, str]]) -> Html:
    """(colour, name) pairs as a line of keys."""
    return tag("p", *(tag("span", key(shade), name) for shade, name in items), class_="legend")


def key(shade: str) -> Html:
    """A small square of a colour."""
    return tag("i", class_="key", style=f"background:{shade}")


def stacked(seconds: dict[str, float], longest: float) -> Html:
    """One attempt's seconds by name, side by side; a bar of full width is `longest` seconds."""
    parts = [
        tag(
            "i",
            style=f"width:{100 * seconds[name] / longest:.2f}%;background:{colour(name)}",
            title=f"{name}: {duration(seconds[name])}",
        )
        for name in NAMES
        if seconds.get(name)
    ]
    return tag("div", *parts, class_="stack")


def timeline(ledger: Ledger, attempts: Sequence[AttemptLine]) -> Html:
    """The attempts above, the time with its names below, faults marked over both."""
    if ledger.wall_s <= 0:
        return Html("")
    scale = WIDTH / ledger.wall_s

    def x(moment: float) -> float:
        return round((min(max(moment, ledger.start), ledger.end) - ledger.start) * scale, 2)

    parts = [_attempt(attempt, x(attempt.start), x(attempt.end)) for attempt in attempts]
    cut = pieces(ledger.spans, ledger.wall_s / FINEST)
    parts += [_piece(piece, x(piece.start), x(piece.end)) for piece in cut]
    detect = {span.attempt: span.start for span in reversed(ledger.spans) if span.part == "detect"}
    parts += [_fault(attempt, x(detect.get(attempt.n, attempt.end))) for attempt in attempts if attempt.fault]
    parts += _axis(ledger.wall_s)
    label = "time of the run by name"
    return tag("figure", tag("svg", *parts, viewBox=f"-8 0 {WIDTH + 16:g} 132", role="img", aria_label=label))


def recoveries(faults: Sequence[AttemptLine]) -> Html:
    """One bar for each recovery, all on one scale."""
    longest = max((sum(fault.recovery.values()) for fault in faults), default=0.0)
    if longest <= 0:
        return Html("")
    drawn: list[Html] = []
    for row, fault in enumerate(faults):
        left, top = 168.0, 8 + 34.0 * row
        drawn.append(_label(f"{fault.fault}, step {fault.reached}", 0, top + 16, "start", "var(--ink)"))
        for part in sorted(fault.recovery, key=_rank):
            wide = fault.recovery[part] / longest * (WIDTH - 250)
            title = f"{part}: {duration(fault.recovery[part])}"
            drawn.append(_box(left, top, wide, 24, part_colour(part), title))
            if wide > 10 + 7.5 * len(part):
                drawn.append(_label(part, left + wide / 2, top + 16, "middle", "#fff", 12))
            left += wide
        drawn.append(
            _label(duration(sum(fault.recovery.values())), left + 8, top + 16, "start", "var(--ink)")
        )
    box = f"0 0 {WIDTH:g} {12 + 34 * len(faults)}"
    return tag("figure", tag("svg", *drawn, viewBox=box, role="img", aria_label="parts of each recovery"))


@dataclass(frozen=True)
class Piece:
    """A stretch of the timeline and its seconds by name: of one, or of several too short to be seen alone."""

    start: float
    end: float
    seconds: dict[str, float]


def pieces(spans: Sequence[Stroke], finest: float) -> list[Piece]:
    """The spans by name alone; neighbours shorter than `finest` seconds together until they are as long."""
    found: list[Piece] = []
    for name, group in groupby(spans, key=lambda span: span.name):
        run = list(group)
        start, end = run[0].start, run[-1].end
        last = found[-1] if found else None
        if last and end - start < finest and last.end - last.start < finest:
            seconds = {**last.seconds, name: last.seconds.get(name, 0.0) + end - start}
            found[-1] = Piece(last.start, end, seconds)
        else:
            found.append(Piece(start, end, {name: end - start}))
    return found


def _rank(part: str) -> int:
    return PARTS.index(part) if part in PARTS else len(PARTS)


def _attempt(attempt: AttemptLine, left: float, right: float) -> Html:
    steps = f"step {attempt.begin} to {attempt.reached}"
    said = f"attempt {attempt.number}: {several(attempt.world, 'worker')}, {steps}"
    wide = max(1.0, right - left)
    box = _box(left, 22, wide, 22, "var(--line)", f"{said}, {attempt.outcome}", rounded=4)
    words = (
        f"attempt {attempt.number}, {several(attempt.world, 'worker')}",
        several(attempt.world, "worker"),
        str(attempt.number),
    )
    fits = next((text for text in words if 6.6 * len(text) + 8 < wide), None)
    label = _label(fits, left + wide / 2, 37, "middle", "var(--ink)", 12) if fits else ""
    return tag("g", box, label)


def _piece(piece: Piece, left: float, right: float) -> Html:
    """Full height for one name; several share the height as they share the time."""
    whole, foot, boxes = sum(piece.seconds.values()), BAR_TOP + BAR_HIGH, []
    for name in sorted(piece.seconds, key=NAMES.index):
        high = BAR_HIGH * piece.seconds[name] / whole
        foot -= high
        title = f"{name}: {duration(piece.seconds[name])}"
        boxes.append(_box(left, foot, max(0.3, right - left + 0.15), high, colour(name), title))
    return join(boxes)


def _fault(attempt: AttemptLine, at: float) -> Html:
    side = "end" if at > WIDTH - 130 else "start" if at < 130 else "middle"
    return tag(
        "g",
        tag("path", d=f"M{at:g} 18V98", stroke="var(--bad)", stroke_width="1.6", stroke_dasharray="4 2.5"),
        tag("path", d=f"M{at:g} 22l-4.5 -8h9z", fill="var(--bad)"),
        _label(attempt.fault or "", at, 10, side, "var(--bad)", 12),
    )


def _axis(wall_s: float) -> list[Html]:
    step = next((tick for tick in _TICKS if wall_s / tick <= 10), 86400 * max(1, round(wall_s / 864000)))
    ticks = [number * step for number in range(int(wall_s / step) + 1)]
    found = [tag("path", d=f"M0 98H{WIDTH:g}", stroke="var(--faint)", stroke_width="1")]
    for tick in ticks:
        at = tick / wall_s * WIDTH
        side = "start" if at < 20 else "end" if at > WIDTH - 20 else "middle"
        found.append(tag("path", d=f"M{at:g} 98v5", stroke="var(--faint)", stroke_width="1"))
        found.append(_label(_moment(tick, step), at, 118, side, "var(--soft)", 12))
    return found


def _moment(seconds: float, step: float) -> str:
    """A tick's label, in the unit that suits the distance of the ticks."""
    if step < 30:
        return f"{seconds:g} s"
    if step < 60:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if step >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _box(
    left: float, top: float, wide: float, high: float, fill: str, title: str, rounded: float = 0
) -> Html:
    place = {"x": f"{left:g}", "y": f"{top:g}", "width": f"{wide:.2f}", "height": f"{high:g}"}
    return tag("rect", tag("title", title), **place, fill=fill, rx=rounded or None)


def _label(words: str, x: float, y: float, anchor: str, fill: str, size: int = 13) -> Html:
    return tag("text", words, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor, fill=fill, font_size=size)
