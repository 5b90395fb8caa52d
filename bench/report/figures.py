"""The report's figures: each takes results and gives a figure, or None where it would be empty."""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import mode
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from ..contenders import BASE
from ..measure.counts import KINDS, shares
from . import style, systems
from .results import Results, Row, find, gain

REST = 0.35  # opacity of what is not the LSTM
AXES = {"T": "time steps T", "B": "batch B", "H": "hidden size H", "L": "layers L"}


def styled(draw: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """With the report's look, whatever the reader's matplotlibrc says."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure | None:
        with matplotlib.rc_context(style.RC):
            return draw(*args, **kwargs)

    return drawn


def _canvas(rows: int, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(style.WIDTH, 0.7 + 0.36 * rows), layout="tight")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _times(rows: list[Row], texts: list[str], title: str) -> tuple[Figure, Axes]:
    """Bars of milliseconds with their quartiles, a text behind each."""
    figure, axes = _canvas(len(rows), title)
    lows, mids, highs = style.in_milliseconds(rows)
    style.bars(axes, rows, mids)
    style.quartile_bars(axes, lows, mids, highs)
    style.behind(axes, [max(m, h) for m, h in zip(mids, highs, strict=True)], texts)
    axes.set_xlabel("milliseconds, median and quartiles")
    return figure, axes


@styled
def ladder(results: Results, size: str) -> Figure | None:
    """Time of forward and backward at each rung, and each fusion's gain over the rung below."""
    rows = results.ladder(size)
    if len(rows) < 2:
        return None
    texts, above = [], None
    for row in rows:
        text = f"{style.milliseconds(row.time.median)} ms"
        if row.is_own and above is not None:
            text += f", {row.info['fuse']}: {gain(above, row):.2f}x"
        above = None if row.label == BASE else row
        texts.append(text)
    figure, axes = _times(rows, texts, f"{size}: forward and backward of the LSTM")
    if (base := find(rows, BASE)) is not None:
        at = 1000 * base.time.median
        axes.axvline(at, color=style.COLOURS["cudnn"], linestyle="--", linewidth=1, zorder=0)
    return figure


@styled
def peers(results: Results, size: str) -> Figure | None:
    """Every system on the same work; None where no peer was timed."""
    rows = results.select("lstm", size=size, mode="step")
    if not any(r.is_peer for r in rows):
        return None
    base = find(rows, BASE)
    texts = [f"{style.milliseconds(r.time.median)} ms, {gain(base, r) or 0:.2f}x" for r in rows]
    return _times(rows, texts, f"{size}: the same step (x: nn.LSTM's speed)")[0]


@styled
def training(results: Results) -> Figure | None:
    """Time for 1,000 words of training at each size, its LSTM apart, in the table's order."""
    panels = {size: systems.rows_of(results, size) for size in results.sizes("train")}
    panels = {size: rows for size, rows in panels.items() if rows}
    if not panels:
        return None
    says = {line.label: line.short for line in systems.lines(results.machine["device"])}
    heights = [len(rows) for rows in panels.values()]
    inches = 0.9 + 0.75 * len(heights) + 0.26 * sum(heights)
    figure = Figure(figsize=(style.WIDTH, inches), layout="tight")
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, (size, rows) in zip(drawn, panels.items(), strict=True):
        axes.set_title(f"{size}: words per second, x TF step loop")
        _training_bars(axes, list(rows.values()), rows.get(systems.FIRST), says)
    drawn[-1].set_xlabel("ms for 1,000 words (+: over the bar above)")
    handles = [Patch(color="#555555"), Patch(color="#555555", alpha=REST)]
    style.legend_below(figure, handles, ["in the LSTM", "softmax, loss, update"], 2)
    return figure


def _training_bars(axes: Axes, rows: list[Row], first: Row | None, says: dict[str, str]) -> None:
    whole = [1e6 / row.info["tokens_per_second"] for row in rows]
    parts = [systems.lstm_seconds(row) / row.time.median for row in rows]
    lstm = [ms * part for ms, part in zip(whole, parts, strict=True)]
    rest = [ms - part for ms, part in zip(whole, lstm, strict=True)]
    places, colours = range(len(rows)), [style.colour(row) for row in rows]
    axes.barh(places, lstm, color=colours, **style.EDGE)
    axes.barh(places, rest, left=lstm, color=colours, alpha=REST, **style.EDGE)
    style.name_bars(axes, [says[row.label] for row in rows])
    texts = [f"{row.info['tokens_per_second']:,.0f}" for row in rows]
    for n, row in enumerate(rows):  # a rung: what it adds to the one above
        texts[n] += "" if first is None else f", {gain(first, row):.2f}x"
        if says[row.label].startswith("+"):
            texts[n] += f" (+ {gain(rows[n - 1], row):.2f}x)"
    style.behind(axes, whole, texts)
    axes.locator_params(axis="x", nbins=5)


@styled
def where_time_goes(results: Results, size: str) -> Figure | None:
    """Milliseconds of a step by kind of work, stacked."""
    rows = results.select("lstm", size=size, mode="step")
    rows = [r for r in rows if r.info.get("seconds_by_kind")]
    if not rows:
        return None
    figure, axes = _canvas(len(rows), f"{size}: where a step's time goes")
    starts, parts = [0.0] * len(rows), [parts_of(row) for row in rows]
    style.bars(axes, rows, starts)
    for kind in KINDS:
        widths = [1000 * r.time.median * p[kind] for r, p in zip(rows, parts, strict=True)]
        axes.barh(range(len(rows)), widths, left=starts, color=style.KIND_COLOURS[kind])
        starts = [s + w for s, w in zip(starts, widths, strict=True)]
    axes.set_xlim(0, max(starts) * 1.05)
    axes.set_xlabel("milliseconds")
    labels = {"fused": "both in one launch", "copies": "moving data"}
    handles = [Patch(color=style.KIND_COLOURS[kind]) for kind in KINDS]
    style.legend_below(figure, handles, [labels.get(k, k) for k in KINDS], 3)
    return figure


def parts_of(row: Row) -> dict[str, float]:
    """Parts of a step by kind; in a file of an earlier version overhead is what is left over."""
    seconds = row.info["seconds_by_kind"]
    left = max(row.time.median - sum(seconds.values()), 0.0)
    return shares({"overhead": left, **seconds})


@styled
def scaling(results: Results) -> Figure | None:
    """Milliseconds of a step as one dimension grows, a panel for each that was swept."""
    rows = results.select("scaling")
    if not rows:
        return None
    start = {axis: mode(getattr(r.shape, axis) for r in rows) for axis in AXES}
    swept = {}
    for axis in AXES:  # where all axes meet is a point of each
        others = [other for other in AXES if other != axis]
        found = [r for r in rows if all(getattr(r.shape, o) == start[o] for o in others)]
        if len({getattr(r.shape, axis) for r in found}) > 1:
            swept[axis] = found
    if not swept:
        return None
    lines = (len(swept) + 1) // 2
    figure = Figure(figsize=(style.WIDTH, 0.6 + 2.5 * lines), layout="tight")
    panels = figure.subplots(lines, 2, squeeze=False).flatten()
    drawn: dict[str, ErrorbarContainer] = {}
    for axes, (axis, found) in zip(panels, swept.items(), strict=False):
        for label in dict.fromkeys(r.label for r in found):
            drawn[label] = _curve(axes, axis, [r for r in found if r.label == label])
        values = sorted({getattr(r.shape, axis) for r in found})
        axes.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel="ms a step")
        axes.set_xticks(values, [str(v) for v in values])
        axes.xaxis.set_minor_locator(NullLocator())
        style.plain_log(axes.yaxis)
        axes.grid(color="#dddddd", linewidth=0.6)
    for axes in panels[len(swept) :]:
        axes.remove()
    style.legend_below(figure, drawn.values(), [str(h.get_label()) for h in drawn.values()], 3)
    return figure


def _curve(axes: Axes, axis: str, rows: list[Row]) -> ErrorbarContainer:
    at = {getattr(row.shape, axis): row for row in rows}  # once a value
    curve = [at[value] for value in sorted(at)]
    low, mid, high = style.in_milliseconds(curve)
    errors = [[m - l for m, l in zip(mid, low, strict=True)],
              [h - m for h, m in zip(high, mid, strict=True)]]  # fmt: skip
    return axes.errorbar(
        sorted(at), mid, yerr=errors, color=style.colour(curve[0]), marker="o", markersize=3.5,
        linewidth=1.4, capsize=2, label=style.name(curve[0]),
    )  # fmt: skip


@styled
def roofline(results: Results) -> Figure | None:
    """Speed over the operations that each byte serves, under the machine's two roofs."""
    rows = [r for r in results.select("lstm", mode="step") if r.info.get("bytes")]
    if not rows:
        return None
    peak = results.machine["product_peak_gflops"]
    bandwidth = results.machine["copy_bandwidth_gb_per_second"]
    figure = Figure(figsize=(style.WIDTH, 4.2), layout="tight")
    axes = figure.subplots()
    places = [r.info["gflops"] * r.time.median * 1e9 / r.info["bytes"] for r in rows]
    low, high = min(places) / 2, max(places) * 2
    roof = sorted({low, min(max(peak / bandwidth, low), high), high})
    axes.plot(roof, [min(peak, bandwidth * x) for x in roof], color="#333333", linewidth=1.2)
    mark = {"linestyle": "", "markeredgecolor": "#333333", "markeredgewidth": 0.6}
    for x, row in zip(places, rows, strict=True):
        shape = style.MARKERS.get(row.info["size"], "D")
        axes.plot(
            x, row.info["gflops"], marker=shape, markersize=8, color=style.colour(row), **mark
        )
    speeds = [r.info["gflops"] for r in rows]
    top = max(peak, *speeds)
    axes.set(xscale="log", yscale="log", ylim=(min(speeds) / 2, top * 2.2))
    axes.annotate(
        f"best product: {peak:.0f} GF/s", (high, top), xytext=(-4, 12),
        textcoords="offset points", ha="right", va="bottom", fontsize=9,
    )  # fmt: skip
    axes.set_xlabel(f"operations per byte of operands (slope: {bandwidth:.1f} GB/s)")
    axes.set_ylabel("GF/s of a step")
    style.plain_log(axes.xaxis)
    style.plain_log(axes.yaxis)
    axes.grid(color="#dddddd", linewidth=0.6)
    firsts, sizes = {r.label: r for r in reversed(rows)}, results.sizes("lstm")
    dot: dict[str, Any] = {"linestyle": ""}
    marks = [Line2D([], [], marker="o", color=style.colour(r), **dot) for r in firsts.values()]
    dot |= {"color": "#333333", "fillstyle": "none"}
    marks += [Line2D([], [], marker=style.MARKERS.get(s, "D"), **dot) for s in sizes]
    names = [style.name(r) for r in firsts.values()]
    style.legend_below(figure, marks, names + sizes, 3)
    return figure
