"""The loss curve of a report: matplotlib -> SVG -> markup that takes its colours from the page.

matplotlib is imported when a chart is drawn, with its SVG canvas and a Figure of its own: pyplot's state is
never touched. Colours are drawn as placeholders and replaced by CSS variables, so the chart follows the
page's light or dark.
"""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from orchestrator.accounts.account import Account, AttemptLine
from orchestrator.pages.page import Html, several, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[int, float]]
MOST_POINTS = 1500
MOST_LABELS = 6
LOG_FROM = 8.0  # greatest over least loss from which a log scale shows more
_INK = {
    "#0a0b01": "var(--ink)",
    "#0a0b02": "var(--soft)",
    "#0a0b03": "var(--line)",
    "#0a0b04": "var(--curve)",
    "#0a0b05": "var(--bad)",
    "#0a0b06": "var(--point)",
    "#0a0b07": "var(--band)",
    "#0a0b08": "var(--card)",
}
_COLOUR = {value[6:-1]: key for key, value in _INK.items()}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mixer",
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": _COLOUR["line"],
    "axes.labelcolor": _COLOUR["soft"],
    "axes.linewidth": 0.8,
    "xtick.color": _COLOUR["soft"],
    "ytick.color": _COLOUR["soft"],
    "text.color": _COLOUR["ink"],
    "text.parse_math": False,
    "path.simplify": True,
}


def loss_curve(account: Account) -> Html:
    """Loss by step, the attempts as bands by their world size, faults as lines, evaluations as points."""
    if not account.curve:
        return tag("p", "No step has been noted yet.", class_="note")
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(10.4, 4.1), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.subplots()
        _style(axes, account)
        _bands(axes, account)
        _curves(axes, account)
        _faults(axes, account.faults)
        if account.evaluations:
            _evaluations(axes.twinx(), account.evaluations)
        out = io.StringIO()
        canvas.print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return tag("figure", _inline(out.getvalue()))


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """At most `most` points: the median of each of `most` equal stretches, in order."""
    if len(points) <= most:
        return points
    edges = [len(points) * number // most for number in range(most + 1)]
    groups = [points[low:high] for low, high in pairwise(edges)]
    return [(group[len(group) // 2][0], statistics.median(loss for _, loss in group)) for group in groups]


def smooth(points: Points, width: int) -> Points:
    """Each point with the mean loss of the `width` points around it (fewer at the ends)."""
    sums = [0.0]
    for _, loss in points:
        sums.append(sums[-1] + loss)
    found = []
    for at, (step, _) in enumerate(points):
        reach = min(width // 2, at, len(points) - 1 - at)
        low, high = at - reach, at + reach + 1
        found.append((step, (sums[high] - sums[low]) / (high - low)))
    return found


def _style(axes: Axes, account: Account) -> None:
    losses = [loss for _, loss in account.curve if math.isfinite(loss)]
    if losses and min(losses) > 0 and max(losses) / min(losses) >= LOG_FROM:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    axes.set_xlabel("step")
    axes.set_ylabel(f"training loss{', log' if axes.get_yscale() == 'log' else ''}", color=_COLOUR["curve"])
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    axes.grid(axis="y", color=_COLOUR["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3)
    axes.margins(y=0.09)
    last = max(account.curve[-1][0], *(attempt.reached for attempt in account.attempts))
    axes.set_xlim(0, max(1, last))


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bands(axes: Axes, account: Account) -> None:
    """The steps of each attempt that count, darker for more workers."""
    widest, last = max((a.world for a in account.attempts), default=1), axes.get_xlim()[1]
    for attempt in account.attempts:
        if attempt.kept <= attempt.begin:
            continue
        shade = 0.05 + 0.09 * attempt.world / widest
        axes.axvspan(attempt.begin, attempt.kept, color=_COLOUR["band"], alpha=shade, linewidth=0)
        words = several(attempt.world, "worker")
        if (attempt.kept - attempt.begin) / last > 0.012 * len(words):
            middle = (attempt.begin + attempt.kept) / 2
            axes.text(
                middle,
                0.025,
                words,
                transform=axes.get_xaxis_transform(),
                ha="center",
                color=_COLOUR["soft"],
                fontsize=8.5,
            )


def _curves(axes: Axes, account: Account) -> None:
    for lost in account.lost:
        axes.plot(*_columns(thin(lost)), color=_COLOUR["bad"], alpha=0.35, linewidth=6, solid_capstyle="butt")
    width = len(account.curve) // 40
    noisy = width >= 5
    axes.plot(
        *_columns(thin(account.curve)),
        color=_COLOUR["curve"],
        linewidth=0.9 if noisy else 1.6,
        alpha=0.45 if noisy else 1,
    )
    if noisy:
        axes.plot(*_columns(thin(smooth(account.curve, width))), color=_COLOUR["curve"], linewidth=2)


def _faults(axes: Axes, faults: Sequence[AttemptLine]) -> None:
    last = axes.get_xlim()[1]
    for number, fault in enumerate(faults):
        axes.axvline(fault.reached, color=_COLOUR["bad"], linewidth=1.3, linestyle=(0, (4, 2.5)))
        if len(faults) > MOST_LABELS:
            continue
        left = fault.reached > 0.75 * last
        axes.annotate(
            f"{fault.fault}, step {fault.reached}",
            (fault.reached, 0.97 - 0.075 * (number % 4)),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-5 if left else 5, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=_COLOUR["bad"],
            fontsize=9.5,
            fontweight="bold",
        )


def _evaluations(axes: Axes, evaluations: Sequence[dict[str, Any]]) -> None:
    steps = [event["step"] for event in evaluations]
    shares = [100 * event["accuracy"] for event in evaluations]
    axes.plot(
        steps,
        shares,
        color=_COLOUR["point"],
        linewidth=0.8,
        linestyle=":",
        marker="o",
        markersize=6,
        markeredgecolor=_COLOUR["card"],
        markeredgewidth=1,
        clip_on=False,
        zorder=5,
    )
    axes.set_ylim(0, 102)
    axes.set_ylabel("validation accuracy, %", color=_COLOUR["point"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=3)
    left = len(steps) > 1
    axes.annotate(
        f"{shares[-1]:.1f} %",
        (steps[-1], shares[-1]),
        xytext=(-8 if left else 8, -13),
        textcoords="offset points",
        ha="right" if left else "left",
        color=_COLOUR["point"],
        fontweight="bold",
    )


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]


def _inline(svg: str) -> Html:
    """The <svg> element alone, as wide as the page, with the page's colours and without its own style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img" aria-label="loss by step"', svg, count=1)
    svg = re.sub(r"font(-family)?: ([^;\"]*?)(?:'[^']*'|sans-serif)(?:, *(?:'[^']*'|[\w-]+))*", _font, svg)
    return Html(re.sub(r"#0a0b0\d", lambda found: _INK.get(found[0], found[0]), svg))


def _font(found: re.Match[str]) -> str:
    family = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
    return f"font{found[1] or ''}: {found[2]}{family}"
