"""The report's figures: each takes results and gives a figure, or None where it would be empty."""

from __future__ import annotations

import functools
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from . import style, table
from .contenders import BASE, LOOP
from .count import KINDS, shares
from .measured import Results, Row, find, gain

REST = 0.35  # opacity of what is not the LSTM
AXES = {
    "T": "time steps T",
    "B": "batch B",
    "H": "hidden size H",
    "L": "layers L",
}


def styled(draw: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """With the report's look, whatever the reader's matplotlibrc says."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure | None:
        with matplotlib.rc_context(style.RC):
            return draw(*args, **kwargs)

    return drawn


def _canvas(rows: int, title: str) -> tuple[Figure, object]:
    figure = Figure(figsize=(style.WIDTH, 0.7 + 0.36 * rows), layout="tight")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _times(axes, rows: list[Row], texts: list[str]) -> None:
    lows, mids, highs = (
        [1000 * t for t in part] for part in zip(*(r.time for r in rows), strict=True)
    )
    style.bars(axes, rows, mids)
    style.quartile_bars(axes, lows, mids, highs)
    style.behind(axes, [max(m, h) for m, h in zip(mids, highs, strict=True)], texts)


def rungs(results: Results, size: str, mode: str = "step") -> list[Row]:
    """nn.LSTM, the loop, and our levels upwards."""
    rows = results.select("lstm", size=size, mode=mode)
    return [r for r in rows if r.is_own or r.label in (BASE, LOOP)]


@styled
def ladder(results: Results, size: str) -> Figure | None:
    """Time of forward and backward at each rung, and each fusion's gain over the rung below."""
    rows = rungs(results, size)
    if len(rows) < 2:
        return None
    texts, below = [], None
    for row in rows:
        text = f"{style.milliseconds(row.time.median)} ms"
        if row.is_own and below is not None:
            text += f", {row.info['fuse']}: {gain(below, row):.2f}x"
        below = None if row.label == BASE else row
        texts.append(text)
    figure, axes = _canvas(len(rows), f"{size}: forward and backward of the LSTM")
    _times(axes, rows, texts)
    if (base := find(rows, BASE)) is not None:
        at = 1000 * base.time.median
        axes.axvline(at, color=style.COLOURS["cudnn"], linestyle="--", linewidth=1, zorder=0)
    axes.set_xlabel("milliseconds, median and quartiles")
    return figure


@styled
def peers(results: Results, size: str) -> Figure | None:
    """Every system on the same work; None where no peer was timed."""
    rows = results.select("lstm", size=size, mode="step")
    if not any(r.is_peer for r in rows):
        return None
    base = find(rows, BASE)
    texts = [f"{style.milliseconds(r.time.median)} ms, {gain(base, r) or 0:.2f}x" for r in rows]
    figure, axes = _canvas(len(rows), f"{size}: the same step (x: nn.LSTM's speed)")
    _times(axes, rows, texts)
    axes.set_xlabel("milliseconds, median and quartiles")
    return figure


@styled
def training(results: Results) -> Figure | None:
    """Time for 1,000 words of training at each size, its LSTM apart, in the table's order."""
    panels = {
        size: rows for size in results.sizes("train") if (rows := table.rows_of(results, size))
    }
    if not panels:
        return None
    says = {line.label: line.says for line in table.lines(results.machine["device"])}
    heights = [len(rows) for rows in panels.values()]
    inches = 0.9 + 0.75 * len(heights) + 0.26 * sum(heights)
    figure = Figure(figsize=(1.3 * style.WIDTH, inches), layout="tight")
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, (size, rows) in zip(drawn, panels.items(), strict=True):
        axes.set_title(f"{size}: words per second, and times TensorFlow's step loop")
        _training_bars(axes, list(rows.values()), rows.get(table.FIRST), says)
    drawn[-1].set_xlabel("milliseconds for 1,000 words: the shorter the faster")
    handles = [Patch(color="#555555"), Patch(color="#555555", alpha=REST)]
    style.legend_below(figure, handles, ["in the LSTM", "the rest: softmax, loss, update"], 2)
    return figure


def _training_bars(axes, rows: list[Row], first: Row | None, says: dict[str, str]) -> None:
    whole = [1e6 / row.info["tokens_per_second"] for row in rows]
    lstm = [
        ms * table.lstm_seconds(row) / row.time.median for ms, row in zip(whole, rows, strict=True)
    ]
    rest = [ms - part for ms, part in zip(whole, lstm, strict=True)]
    colours = [style.colour(row) for row in rows]
    axes.barh(range(len(rows)), lstm, color=colours, edgecolor="#333333", linewidth=0.5)
    axes.barh(
        range(len(rows)), rest, left=lstm, color=colours, alpha=REST, edgecolor="#333333",
        linewidth=0.5,
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [says[row.label] for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    texts = [f"{row.info['tokens_per_second']:,.0f}" for row in rows]
    if first is not None:
        texts = [f"{t}, {table.faster(first, r):.2f}x" for t, r in zip(texts, rows, strict=True)]
    for n, row in enumerate(rows):  # a rung: what it adds to the one above
        if says[row.label].startswith(" "):
            texts[n] += f" ({table.faster(rows[n - 1], row):.2f}x the bar above)"
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
    starts = [0.0] * len(rows)
    style.bars(axes, rows, starts)
    for kind in KINDS:
        widths = [
            1000 * r.time.median * shares(r.info["seconds_by_kind"], r.time.median)[kind]
            for r in rows
        ]
        axes.barh(range(len(rows)), widths, left=starts, color=style.KIND_COLOURS[kind])
        starts = [s + w for s, w in zip(starts, widths, strict=True)]
    axes.set_xlim(0, max(starts) * 1.05)
    axes.set_xlabel("milliseconds")
    labels = {"fused": "both in one launch", "copies": "moving data"}
    handles = [Patch(color=style.KIND_COLOURS[kind]) for kind in KINDS]
    style.legend_below(figure, handles, [labels.get(k, k) for k in KINDS], 3)
    return figure


@styled
def scaling(results: Results) -> Figure | None:
    """Milliseconds of a step as one dimension grows, a panel for each that was swept."""
    swept = {axis: results.select("scaling", axis=axis) for axis in AXES}
    swept = {axis: rows for axis, rows in swept.items() if len({r.info["value"] for r in rows}) > 1}
    if not swept:
        return None
    lines = (len(swept) + 1) // 2
    figure = Figure(figsize=(style.WIDTH, 0.6 + 2.5 * lines), layout="tight")
    panels = figure.subplots(lines, 2, squeeze=False).flatten()
    drawn = {}
    for axes, (axis, rows) in zip(panels, swept.items(), strict=False):
        for label in dict.fromkeys(r.label for r in rows):
            curve = sorted((r for r in rows if r.label == label), key=lambda r: r.info["value"])
            low, mid, high = (
                [1000 * t for t in part] for part in zip(*(r.time for r in curve), strict=True)
            )
            errors = [
                [m - l for m, l in zip(mid, low, strict=True)],
                [h - m for h, m in zip(high, mid, strict=True)],
            ]
            drawn[label] = axes.errorbar(
                [r.info["value"] for r in curve], mid, yerr=errors, color=style.colour(curve[0]),
                marker="o", markersize=3.5, linewidth=1.4, capsize=2, label=style.name(curve[0]),
            )  # fmt: skip
        values = sorted({r.info["value"] for r in rows})
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, [str(v) for v in values])
        axes.xaxis.set_minor_locator(NullLocator())
        style.plain_log(axes.yaxis)
        axes.set_xlabel(AXES[axis])
        axes.set_ylabel("ms a step")
        axes.grid(color="#dddddd", linewidth=0.6)
    for axes in panels[len(swept) :]:
        axes.remove()
    style.legend_below(figure, drawn.values(), [h.get_label() for h in drawn.values()], 3)
    return figure


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
    points = [(r.info["gflops"] * r.time.median * 1e9 / r.info["bytes"], r) for r in rows]
    low, high = min(x for x, _ in points) / 2, max(x for x, _ in points) * 2
    ridge = peak / bandwidth
    roof = sorted({low, min(max(ridge, low), high), high})
    axes.plot(roof, [min(peak, bandwidth * x) for x in roof], color="#333333", linewidth=1.2)
    for x, row in points:
        axes.plot(
            x, row.info["gflops"], marker=style.MARKERS.get(row.info["size"], "D"), markersize=8,
            color=style.colour(row), markeredgecolor="#333333", markeredgewidth=0.6, linestyle="",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    top = max(peak, *(r.info["gflops"] for r in rows))
    axes.set_ylim(min(r.info["gflops"] for r in rows) / 2, top * 2.2)
    axes.annotate(
        f"best product: {peak:.0f} GF/s", (high, top), xytext=(-4, 12),
        textcoords="offset points", ha="right", va="bottom", fontsize=9,
    )  # fmt: skip
    axes.set_xlabel(f"operations per byte of operands (slope: {bandwidth:.1f} GB/s)")
    axes.set_ylabel("GF/s of a step")
    style.plain_log(axes.xaxis)
    style.plain_log(axes.yaxis)
    axes.grid(color="#dddddd", linewidth=0.6)
    firsts = {r.label: r for _, r in reversed(points)}
    marks = [
        Line2D([], [], marker="o", linestyle="", color=style.colour(r)) for r in firsts.values()
    ]
    names = [style.name(r) for r in firsts.values()]
    sizes = results.sizes("lstm")
    marks += [
        Line2D(
            [],
            [],
            marker=style.MARKERS.get(s, "D"),
            linestyle="",
            color="#333333",
            fillstyle="none",
        )
        for s in sizes
    ]
    style.legend_below(figure, marks, names + sizes, 3)
    return figure
