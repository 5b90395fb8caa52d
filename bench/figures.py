"""All figures: bars in parts and spans, of one unit each, for a phone, in light and dark.

Colours are told apart by the colour-blind (Okabe and Ito, 2008; Tol), and every bar has its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lm.figure import INK, PAPER, STYLE

WIDTH = 5.2  # inches: text of 10 points is then still read on a phone held upright
BLUE, ORANGE, GREEN, AMBER, SKY, PINK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#999999"
)  # fmt: skip
NOTE: dict[str, Any] = {
    "xytext": (4, 0),
    "textcoords": "offset points",
    "va": "center",
    "fontsize": 9,
}


class Bar(NamedTuple):
    """One bar, of parts that `colours` names; `note` stands behind it. No name: the one above's.

    range: the ends of a line across the bar's end, such as quartiles.
    saved: the length of a hatched bar behind it.
    """

    name: str
    parts: Mapping[str, float]
    note: str = ""
    range: tuple[float, float] | None = None
    saved: float | None = None


@matplotlib.rc_context(STYLE)
def bars(panels: Mapping[str, Sequence[Bar]], unit: str, colours: Mapping[str, str]) -> Figure:
    """Return horizontal bars from zero, a panel under another, the first bar on top.

    A panel's key is its title. Colour "" is hatched paper.
    """
    heights = [len(rows) for rows in panels.values()]
    figure, drawn = _panels(list(panels), heights, 0.27)
    for axes, rows in zip(drawn, panels.values(), strict=True):
        longest = max(sum(row.parts.values()) for row in rows)
        places: dict[float, str] = {}
        place, paired = 0.0, False
        for row in rows:
            place += 0.35 * (paired and bool(row.name))  # what belongs together stands together
            paired, left = not row.name, 0.0
            for part, value in row.parts.items():
                axes.barh(place, value, 0.8, left=left, **_filled(colours[part]))
                left += value
            if row.range is not None:
                axes.plot(row.range, (place, place), color=INK, linewidth=1.2, marker="|")
                left = max(left, *row.range)
            axes.annotate(row.note, (left, place), **NOTE)
            if row.name:
                places[place] = row.name
            place += 1
        axes.set_yticks(list(places), list(places.values()))
        axes.set_ylim(place - 0.4, -0.6)
        axes.set_xlim(0, longest * (1.02 + 0.027 * max(len(row.note) for row in rows)))
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    drawn[-1].set_xlabel(unit)
    # One legend for all panels, under them, where it covers nothing.
    patches = [Patch(**_filled(colour)) for colour in colours.values()]
    figure.legend(patches, list(colours), loc="upper center", bbox_to_anchor=(0.5, 0.0),
        ncols=len(colours), frameon=False, fontsize=9)  # fmt: skip
    return figure


@matplotlib.rc_context(STYLE)
def beside(
    panels: Mapping[str, Sequence[Bar]], title: str, unit: str, colours: Mapping[str, str]
) -> Figure:
    """Return panels of horizontal bars side by side, the first bar on top; a key is its title."""
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(1.8 * WIDTH, 0.42 * most + 1.5), layout="tight")
    for axes, (says, rows) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        longest = max(sum(row.parts.values()) for row in rows)
        for place, row in enumerate(rows):
            left = 0.0
            for part, value in row.parts.items():
                axes.barh(place, value, 0.7, left=left, **_filled(colours[part]))
                left += value
            if row.saved is not None:
                axes.barh(place, row.saved, 0.7, left=left, color=AMBER, hatch="///", edgecolor=INK)
                left += row.saved
            axes.annotate(row.note, (left, place), **NOTE)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(most - 0.4, -0.6)
        axes.set_xlim(0, 1.65 * longest)
        axes.set_title(says, fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.6)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(unit)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    patches = [Patch(**_filled(colour)) for colour in colours.values()]
    figure.legend(patches, list(colours), loc="upper center", bbox_to_anchor=(0.5, 0.0),
        ncols=len(colours), frameon=False, fontsize=9)  # fmt: skip
    return figure


@matplotlib.rc_context(STYLE)
def waterfall(
    first: tuple[str, float],
    steps: Sequence[tuple[str, Sequence[float]]],
    last: tuple[str, float],
    rest: str,
    unit: str,
    title: str,
    explained: float,
) -> Figure:
    """Return a bar, what is taken from it step by step, what is left over, and the bar at the end.

    A step is a name, and the least and the most that it takes; its bar is the middle of the two,
    its line the range. `rest` names the hatched bar that remains between steps and `last`, of which
    `explained` is what is explained itself: the rest of it is hatched.
    """
    figure = Figure(figsize=(WIDTH, 0.38 * (len(steps) + 3) + 0.7), layout="tight")
    axes = figure.subplots()
    place, end = 0, first[1]
    names = [first[0]]
    axes.barh(0, first[1], 0.75, color=INK)
    axes.annotate(f"{first[1]:.1f}", (first[1], 0), **NOTE)
    for name, (low, high) in steps:
        place, middle = place + 1, (low + high) / 2
        axes.barh(place, -middle, 0.75, left=end, color=BLUE)
        axes.plot([end - high, end - low], [place, place], color=INK, linewidth=1.5, marker="|")
        range_of = f"{low:.1f} to {high:.1f}" if high < 10 else f"{low:.0f} to {high:.0f}"
        axes.annotate(range_of, (end, place), **NOTE)
        end -= middle
        names.append(name)
    most, least = (first[1] - sum(step[end_of] for _, step in steps) - last[1] for end_of in (0, 1))
    axes.barh(place + 1, last[1] - end, 0.75, left=end, **_filled(""))
    note = f"{max(least, 0):.0f} to {most:.0f}"
    axes.annotate(note, (max(end, last[1]), place + 1), **NOTE)
    axes.barh(place + 2, explained, 0.75, color=INK)
    axes.barh(place + 2, last[1] - explained, 0.75, left=explained, **_filled(""))
    says = f"{last[1]:.1f}, of which the arithmetic\nexplains {explained:.0f} at the least"
    axes.annotate(says, (last[1], place + 2), **NOTE)
    names += [rest, last[0]]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(place + 2.6, -0.6)
    axes.set_xlim(0, first[1] * 1.15)
    axes.set_title(title)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_xlabel(unit)
    return figure


def _filled(colour: str) -> dict[str, Any]:
    return {"color": colour} if colour else {"facecolor": PAPER, "edgecolor": INK, "hatch": "///"}


def _panels(
    titles: Sequence[str], heights: Sequence[int], row: float, **more: Any
) -> tuple[Figure, list[Axes]]:
    inches = 0.65 * len(heights) + row * sum(heights) + 0.3
    figure = Figure(figsize=(WIDTH, inches), layout="tight")
    shape: dict[str, Any] = {"squeeze": False, "height_ratios": list(heights)} | more
    drawn: list[Axes] = list(figure.subplots(len(heights), 1, **shape).flatten())
    for axes, title in zip(drawn, titles, strict=True):
        axes.set_title(title)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.6)
    return figure, drawn


@matplotlib.rc_context(STYLE)
def scatter(
    kinds: Mapping[str, Sequence[tuple[float, float]]],
    axes_of: tuple[str, str],
    limits: tuple[float, float],
    sides: tuple[str, str],
) -> Figure:
    """Return points (x, y) of two kinds on logarithmic axes, with a line at y = 1.

    limits: the least and the most y, so that two figures can be compared.
    sides: what is written above the line, and below it.
    """
    figure = Figure(figsize=(WIDTH, 2.7), layout="tight")
    axes = figure.subplots()
    for (label, points), colour, marker in zip(kinds.items(), (BLUE, ORANGE), "os", strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker, color=colour, markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel=axes_of[0], ylabel=axes_of[1], ylim=limits)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.axhline(1, color=INK, linewidth=1)
    for says, place in zip(sides, (0.97, 0.03), strict=True):
        where: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "fontsize": 9}
        axes.annotate(says, (0.99, place), va="top" if place > 0.5 else "bottom", **where)
    axes.grid(linewidth=0.6)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False, fontsize=9)
    return figure
