"""An HTML page in one file: its elements, its style, and the ways numbers are written on it.

tag() escapes and redacts every text it is given unless that is Html already, so nothing of a user or a bucket
can become markup. The page loads nothing: its policy forbids scripts and the network. It follows the reader's
light or dark setting, and prints light.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from orchestrator.pages.page_style import STYLE
from orchestrator.redact import redact

GLUE = "\N{NO-BREAK SPACE}"
VOID = ("img", "br", "hr")  # elements without an end tag
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: object) -> Html:
    """`value` as markup: Html as it is, anything else escaped and without credentials."""
    return value if isinstance(value, Html) else Html(html.escape(redact(str(value))))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. A trailing `_` of an attribute's name is dropped, others become `-`; None leaves it out."""
    given = {
        key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None
    }
    head = name + "".join(f' {key}="{html.escape(redact(str(value)))}"' for key, value in given.items())
    if name in VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{''.join(text(child) for child in children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other."""
    return Html(between.join(text(part) for part in parts))


def section(title: str, *children: object, note: object = None, class_: str | None = None) -> Html:
    """A part of the page with its title, and a note under it."""
    under = tag("p", note, class_="note") if note else ""
    return tag("section", tag("h2", title), under, *children, class_=class_)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    classes: Sequence[str | None] = (),
) -> Html:
    """A table; the columns `numbers` are set right, in figures of one width. `classes` are its rows'."""

    def row(cells: Sequence[object], name: str, class_: str | None = None) -> Html:
        made = (tag(name, cell, class_="n" if i in numbers else None) for i, cell in enumerate(cells))
        return tag("tr", *made, class_=class_)

    body = [row(cells, "td", classes[i] if i < len(classes) else None) for i, cells in enumerate(rows)]
    return tag("div", tag("table", tag("thead", row(head, "th")), tag("tbody", *body)), class_="wide")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A list of names and values."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in pairs))


def page(title: str, *children: object) -> str:
    """The whole file."""
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    )
    body = tag("body", tag("main", *children))
    return f"{head}{tag('title', title)}<style>{STYLE}</style></head>\n{body}</html>\n"


# -- numbers -------------------------------------------------------------------------------------------------
def duration(seconds: float) -> str:
    """0.84 s, 12.3 s, 3 min 20 s, 2 h 14 min, 3 d 4 h."""
    if seconds < 99.95:
        return f"{seconds:.{2 if seconds < 10 else 1}f}{GLUE}s"
    whole = round(seconds)
    for unit, name, below, below_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit}{GLUE}{name}" + (f"{GLUE}{rest}{GLUE}{below_name}" if rest else "")
    return f"{whole}{GLUE}s"


def count(number: float) -> str:
    """1,234 with commas; three digits below 100."""
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def size(number: float) -> str:
    """Bytes as kB, MB, GB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def several(number: int, noun: str) -> str:
    """1 worker, 2 workers."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
