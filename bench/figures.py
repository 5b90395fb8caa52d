"""The report's figures: bars, lines and spans of one unit each, for a phone, light or dark.

Colours are told apart by the colour-blind (Okabe and Ito, 2008; Tol), and every bar has its name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .tables import digits, name

COLOURS = {
    "loop": "#7f7f7f",
    "compile": "#E69F00",
    "cudnn": "#0072B2",
    "triton": "#D55E00",
    "native": "#009E73",
    "tensorflow": "#CC79A7",
    "keras": "#56B4E9",
    "jax": "#DDCC77",
    "onnxruntime": "#AA4499",
    "openvino": "#882255",
    "torchrl": "#332288",
}
TINTS = {"pointwise": 0.45, "hoisted": 0.6, "steps": 0.8}  # of our levels below the highest
# Drawn in these, and replaced in the file by variables that follow the reader's light or dark mode.
INK, PAPER, GRID = "#1a1a1a", "#fefefe", "#dcdcdc"
MODES = f"""<style>
svg {{ --ink: {INK}; --paper: {PAPER}; --grid: {GRID}; }}
@media (prefers-color-scheme: dark) {{
  svg {{ --ink: #e8e8e8; --paper: #1e2227; --grid: #444b54; }}
}}
</style>"""
RC = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.axisbelow": True, "svg.fonttype": "path",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "figure.facecolor": PAPER, "axes.facecolor": PAPER, "grid.color": GRID,
    "savefig.facecolor": PAPER, "legend.labelcolor": INK,
}  # fmt: skip
WIDTH = 5.2  # inches: text of 10 points is then still read on a phone held upright


class Bar(NamedTuple):
    """One bar: `part` of it is drawn in full colour, the rest light; `note` stands behind it."""

    name: str
    value: float
    colour: str
    note: str = ""
    low: float | None = None
    high: float | None = None
    part: float = 1.0


def engine(label: str) -> str:
    """Return the engine of a contender's label."""
    return label.removeprefix("stock-").partition("-")[0]


def colour(label: str) -> str:
    """Return the engine's colour, tinted by its level."""
    tint = TINTS.get(label.rpartition("-")[2], 1.0)
    red, green, blue = (
        1 - tint * (1 - part) for part in to_rgb(COLOURS.get(engine(label), "#555555"))
    )
    return to_hex((red, green, blue))


def bars(
    panels: Mapping[str, Sequence[Bar]], unit: str, parts: tuple[str, str] | None = None,
    rule: float | None = None,
) -> Figure:  # fmt: skip
    """Return horizontal bars from zero, a panel under another, the first bar on top.

    Args:
        parts: what the full and the light part of a bar are, for a legend.
        rule: where a dashed line stands.
    """
    heights = [len(rows) for rows in panels.values()]
    with matplotlib.rc_context(RC):
        inches = 0.7 * len(heights) + 0.3 * sum(heights) + 0.3
        figure = Figure(figsize=(WIDTH, inches), layout="tight")
        drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flatten()
        for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
            axes.set_title(title)
            _bars(axes, rows)
            if rule is not None:
                axes.axvline(rule, color=INK, linestyle="--", linewidth=0.8)
        drawn[-1].set_xlabel(unit)
        if parts is not None:
            handles = [Patch(color="#777777"), Patch(color="#777777", alpha=0.35)]
            _legend(figure, handles, parts)
        return figure


def _bars(axes: Axes, rows: Sequence[Bar]) -> None:
    places = range(len(rows))
    colours = [row.colour for row in rows]
    full = [row.value * row.part for row in rows]
    rest = [row.value - part for row, part in zip(rows, full, strict=True)]
    axes.barh(places, full, color=colours)
    axes.barh(places, rest, left=full, color=colours, alpha=0.35)
    for place, row in zip(places, rows, strict=True):
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.2)
    axes.set_yticks(places, [row.name for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    ends = [max(row.value, row.high or 0) for row in rows]
    longest = max(len(row.note) for row in rows)
    axes.set_xlim(0, max(ends) * (1.02 + 0.026 * longest))
    axes.locator_params(axis="x", nbins=5)
    for place, (end, row) in enumerate(zip(ends, rows, strict=True)):
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.4}
        behind = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        axes.annotate(row.note, (end, place), bbox=box, **behind)


def lines(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], unit: str) -> Figure:
    """Return panels of lines on logarithmic axes: title -> label -> points."""
    count = (len(panels) + 1) // 2
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 0.5 + 2.3 * count), layout="tight")
        drawn = figure.subplots(count, 2, squeeze=False).flatten()
        for axes in drawn[len(panels) :]:
            axes.set_visible(False)
        labels: dict[str, object] = {}
        for axes, (title, series) in zip(drawn, panels.items(), strict=False):
            axes.set_title(title)
            axes.loglog()
            for label, points in series.items():
                x, y = zip(*sorted(points), strict=True)
                labels[label] = axes.plot(x, y, marker="o", markersize=4, color=colour(label))[0]
            axes.set_xticks(sorted({x for points in series.values() for x, _ in points}))
            axes.tick_params(axis="x", labelsize=8)
            _plain(axes.xaxis, ())
            _plain(axes.yaxis)
            axes.grid(axis="y", linewidth=0.6)
            axes.set_ylabel(unit)
        _legend(figure, list(labels.values()), [name(label) for label in labels])
        return figure


def spans(panels: Mapping[str, Sequence[tuple[str, str, float, float]]], unit: str) -> Figure:
    """Return p50 (a dot) to p99 (a bar's end) on a logarithmic axis: title -> name, label, both."""
    heights = [len(rows) for rows in panels.values()]
    with matplotlib.rc_context(RC):
        inches = 0.6 * len(heights) + 0.3 * sum(heights) + 0.3
        figure = Figure(figsize=(WIDTH, inches), layout="tight")
        drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights, sharex=True)
        for axes, (title, rows) in zip(drawn.flatten(), panels.items(), strict=True):
            axes.set_title(title)
            axes.set_xscale("log")
            for place, (_, label, p50, p99) in enumerate(rows):
                axes.plot([p50, p99], [place, place], color=colour(label), linewidth=4)
                axes.plot([p50], [place], marker="o", color=INK, markersize=6)
                axes.annotate(f"{digits(p50)} / {digits(p99)}", (p99, place), xytext=(5, 0),
                    textcoords="offset points", va="center", fontsize=9)  # fmt: skip
            axes.set_yticks(range(len(rows)), [row[0] for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", linewidth=0.6)
            _plain(axes.xaxis, (1,))
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.35)  # for the notes
        axes.set_xlabel(unit)
        return figure


def _plain(axis: Axis, ticks: Sequence[int] = (1, 2, 5)) -> None:
    """Write ticks out, at these places of each decade; without places as they are set."""
    if ticks:
        axis.set_major_locator(LogLocator(subs=ticks, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0f}" if value >= 1 else f"{value:g}")
    )


def _legend(figure: Figure, handles: Sequence, labels: Sequence[str]) -> None:
    """Put one legend for all panels under them, where it covers nothing."""
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2,
        frameon=False, fontsize=9)  # fmt: skip


def to_svg(figure: Figure, salt: str) -> str:
    """Return an <svg> that takes its container's width; the same figure gives the same bytes."""
    with matplotlib.rc_context(RC | {"svg.hashsalt": salt}):
        file = io.StringIO()
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour_of, variable in ((INK, "ink"), (PAPER, "paper"), (GRID, "grid")):
        text = text.replace(colour_of, f"var(--{variable})")
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f"{opening}>{MODES}{rest}"
