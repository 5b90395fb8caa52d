"""How figures look: one colour an engine, safe for the colour-blind (Okabe and Ito, 2008; Tol)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..contenders import BASE, NAMES
from ..measure.counts import KINDS
from .results import Row

COLOURS = {
    "loop": "#6b6b6b",
    "compile": "#E69F00",
    "cudnn": "#0072B2",
    "triton": "#D55E00",
    "native": "#009E73",
    "tensorflow": "#CC79A7",
    "tensorflow-xla": "#882255",
    "keras": "#56B4E9",
    "jax": "#DDCC77",
    "jax-cudnn": "#999933",
    "flashrnn": "#44AA99",
    "haste": "#AA4499",
    "torchrl": "#332288",
}
KIND_COLOURS = dict(
    zip(KINDS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#BBBBBB"), strict=True)
)
# A level of our own engines is a tint of the engine's colour, full at the highest.
TINTS = {"pointwise": 0.4, "steps": 0.7, "layers": 1.0}
MARKERS = {"small": "o", "medium": "s", "large": "^"}
EDGE: dict[str, Any] = {"edgecolor": "#333333", "linewidth": 0.5}  # of a bar
WIDTH = 5.2  # inches: text of 10 points is then still read on a phone held upright

RC = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    "figure.dpi": 100,
}


def colour(row: Row) -> tuple[float, float, float]:
    """The engine's colour, tinted by its level."""
    tint = TINTS.get(row.info["fuse"], 1.0)
    rgb = to_rgb(COLOURS.get(row.info["engine"], "#000000"))
    red, green, blue = (1 - tint * (1 - part) for part in rgb)
    return red, green, blue


def name(row: Row) -> str:
    """What a reader calls it."""
    called = NAMES.get(row.label, row.label.replace("-", ": "))
    if row.label != BASE:
        return called
    return f"{called} ({'cuDNN' if row.info['device'].startswith('cuda') else 'oneDNN'})"


def milliseconds(seconds: float) -> str:
    """Three digits, and no power of ten."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def in_milliseconds(rows: list[Row]) -> list[list[float]]:
    """Of each row the first quartile, the median and the third, three lists."""
    return [[1000 * t for t in part] for part in zip(*(r.time for r in rows), strict=True)]


def plain_log(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def bars(axes: Axes, rows: list[Row], values: list[float]) -> None:
    """Horizontal bars from zero, first row on top."""
    axes.barh(range(len(rows)), values, color=[colour(r) for r in rows], **EDGE)
    name_bars(axes, [name(r) for r in rows])
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)


def name_bars(axes: Axes, names: list[str]) -> None:
    """A name beside each bar, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)


def quartile_bars(axes: Axes, lows: list[float], mids: list[float], highs: list[float]) -> None:
    """Whiskers from the first quartile to the third."""
    below = [max(m - l, 0) for l, m in zip(lows, mids, strict=True)]
    above = [max(h - m, 0) for h, m in zip(highs, mids, strict=True)]
    axes.errorbar(
        mids, range(len(mids)), xerr=[below, above], fmt="none", ecolor="#111111", capsize=2.5,
        linewidth=1,
    )  # fmt: skip


def behind(axes: Axes, ends: list[float], texts: list[str]) -> None:
    """A text after the end of each bar, with room for the longest."""
    longest = max(map(len, texts))
    axes.set_xlim(0, max(ends) * (1 + 0.028 * longest + 0.02))
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(
            text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def to_svg(figure: Figure, salt: str) -> str:
    """An <svg> element that takes the width of its container; the same figure, the same bytes."""
    with matplotlib.rc_context(RC | {"svg.hashsalt": salt}):
        file = io.StringIO()
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    opening, rest = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest


def legend_below(figure: Figure, handles: Iterable, labels: Iterable[str], columns: int) -> None:
    """One legend for all panels, under them, where it covers nothing."""
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns,
        frameon=False, fontsize=9,
    )  # fmt: skip
