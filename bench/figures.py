"""All figures: bars in parts and spans, of one unit each, for a phone, in light and dark.

FIGURES are those of README and docs, from results files; `bars` draws what `make report` shows.
Colours are told apart by the colour-blind (Okabe and Ito, 2008; Tol), and every bar has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from lm.figure import INK, PAPER, STYLE

from . import arithmetic, tables
from .contenders import OURS
from .tables import Pick, Record, pick, read

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
    """One bar, of parts that `colours` names; `note` stands behind it.

    range: the ends of a line across the bar's end, such as quartiles.
    saved: the length of its end that is hatched.
    """

    name: str
    parts: Mapping[str, float]
    note: str = ""
    range: tuple[float, float] | None = None
    saved: float | None = None


def _rows(axes: Axes, rows: Sequence[Bar], colours: Mapping[str, str], height: float) -> float:
    """Draw bars from zero, the first on top; return the length of the longest."""
    for place, row in enumerate(rows):
        left = 0.0
        for part, value in row.parts.items():
            axes.barh(place, value, height, left=left, **_filled(colours[part]))
            left += value
        if row.saved is not None:
            of = {"color": AMBER, "hatch": "///", "edgecolor": INK}
            axes.barh(place, row.saved, height, left=left - row.saved, **of)
        if row.range is not None:
            axes.plot(row.range, (place, place), color=INK, linewidth=1.2, marker="|")
            left = max(left, *row.range)
        axes.annotate(row.note, (left, place), **NOTE)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.6)
    axes.locator_params(axis="x", nbins=5)
    return max(sum(row.parts.values()) for row in rows)


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """Add one legend for all panels, under them, where it covers nothing."""
    patches = [Patch(**_filled(colour)) for colour in colours.values()]
    figure.legend(patches, list(colours), loc="upper center", bbox_to_anchor=(0.5, 0.0),
        ncols=len(colours), frameon=False, fontsize=9)  # fmt: skip


@matplotlib.rc_context(STYLE)
def bars(panels: Mapping[str, Sequence[Bar]], unit: str, colours: Mapping[str, str]) -> Figure:
    """Return panels of horizontal bars, one under another; a panel's key is its title."""
    heights = [len(rows) for rows in panels.values()]
    inches = 0.65 * len(heights) + 0.27 * sum(heights) + 0.3
    figure = Figure(figsize=(WIDTH, inches), layout="tight")
    drawn = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
        axes.set_title(title)
        longest = _rows(axes, rows, colours, 0.8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, longest * (1.02 + 0.027 * max(len(row.note) for row in rows)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    drawn[-1].set_xlabel(unit)
    _legend(figure, colours)
    return figure


@matplotlib.rc_context(STYLE)
def beside(
    panels: Mapping[str, Sequence[Bar]], title: str, unit: str, colours: Mapping[str, str]
) -> Figure:
    """Return panels of horizontal bars side by side; a key is its title."""
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(1.8 * WIDTH, 0.42 * most + 1.5), layout="tight")
    for axes, (says, rows) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        longest = _rows(axes, rows, colours, 0.7)
        axes.set_ylim(most - 0.4, -0.6)
        axes.set_xlim(0, 1.65 * longest)
        axes.set_title(says, fontsize=10)
        axes.set_xlabel(unit)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    _legend(figure, colours)
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


# --- README's and docs' ---

OWNERS = {"a loop": GREY, "ours": GREEN, "nn.LSTM": BLUE}
LEVELS = {"loop": "step loop", **{name: f"+ {name}" for name in
    ("pointwise", "hoisted", "steps", "layers")}}  # fmt: skip
WORDS = {  # of the post's table: label -> what stands at its bar, and whose it is
    "tensorflow": ("TensorFlow, loop", "a loop"),
    "stock-loop-none": ("PyTorch, loop", "a loop"),
    "stock-cudnn": ("PyTorch, nn.LSTM", "nn.LSTM"),
    "stock-native-steps": ("PyTorch, our layer", "ours"),
    "native-layers": ("and our loss, update", "ours"),
}


def typical(picks: Sequence[Pick]) -> Pick:
    """Return the process in the middle, by the time of its last record."""
    return sorted(picks, key=lambda one: one[-1]["median"])[len(picks) // 2]


def factor(one: Pick) -> str:
    """Return how many times as fast the second is, behind a comma, where that was seen."""
    (ratio,) = tables.factors([one])
    return f", {ratio}" if ratio.clear else ""


def climb(case: str, threads: int) -> list[Bar]:
    """Return the bars of the levels of a case, and nn.LSTM's."""
    where, found = {"case": case, "dtype": "float32", "threads": threads}, []
    below: Record | None = None
    for label, says in {**LEVELS, "nn.LSTM": "nn.LSTM"}.items():
        if not (picks := pick(read("ladder"), where, [label])):
            continue
        record = typical(picks)[0]
        owner = {"loop": "a loop", "nn.LSTM": "nn.LSTM"}.get(label, "ours")
        gain = factor((below, record)) if below and label != "nn.LSTM" else ""
        note = f"{tables.ms(record['median'])} ms{gain}"
        found.append(Bar(says, {owner: 1e3 * record["median"]}, note))
        below = record
    return found


def ladders() -> Figure:
    """Draw the levels of two sizes: where launches and steps cost, and where bytes do."""
    medium = climb("medium", 1)
    above = next(n for n, bar in enumerate(medium) if bar.name == LEVELS["hoisted"]) - 1
    where = {"case": "medium", "dtype": "float32", "threads": 1}
    first, last = typical(pick(read("ladder"), where, ["loop", "steps"]))
    off = 1e3 * (first["predicted"]["gradients"] - last["predicted"]["gradients"])
    note = f"{medium[above].note}\nhatched: {off:.0f} ms by the model,\ngradients added up 35 times"
    medium[above] = medium[above]._replace(saved=off, note=note)
    panels = {
        "H = 64, T = 100, B = 4, two cores": climb("tiny", 2),
        "H = 650, T = 35, B = 20, one core": medium,
    }
    title = "Where a step is little work each fusion pays; where it is much, hoisting does"
    return beside(panels, title, "ms of forward and backward (shorter is better)", OWNERS)


def post_card() -> Figure:
    """Draw how TensorFlow's step becomes cuDNN's, by arithmetic, and what is not explained."""
    terms, took = arithmetic.post(), arithmetic.POST_SECONDS
    steps = [
        (term.name, [1e3 * seconds for seconds in arithmetic.terms_between([term])])
        for term in terms
        if any(arithmetic.terms_between([term]))
    ]
    steps.sort(key=lambda step: -sum(step[1]))
    unit = "milliseconds per training step (GTX 1080, by arithmetic)"
    ends = [(f"{who}\n(the post)", 1e3 * seconds) for who, seconds in took.items()]
    title = "By arithmetic, gradients and weights are half to four fifths of the gap\n"
    title += "(bars: middle of the range; lines: the range)"
    least = 1e3 * arithmetic.post_span(terms, arithmetic.CUDNN).low
    return waterfall(ends[0], steps, ends[1], "of the gap, not explained", unit, title, least)


def words() -> Figure:
    """Draw medium's training speed in five programs, each with its factor over TensorFlow's."""
    picks = pick(read("post"), {"case": "medium", "mode": "train"}, list(WORDS))
    of = typical(picks)
    first, _, stock, *_ = of
    found = []
    for record, (says, owner) in zip(of, WORDS.values(), strict=True):
        speed = record["tokens"] / record["median"]
        more = "" if record is first else f", {tables.times([(first, record)])}"
        found.append(Bar(says, {owner: speed}, f"{speed:,.0f}{more}"))
    ratio = arithmetic.POST_WORDS[arithmetic.CUDNN] / arithmetic.POST_WORDS[arithmetic.LOOP]
    title = f"nn.LSTM trains {tables.times([(first, stock)])} as fast as TensorFlow's loop here"
    title += f"\n(the post, on a GTX 1080: {ratio:.2f}x)"
    unit = "words per second of training, medium (longer is better)"
    return bars({title: found}, unit, OWNERS)


@matplotlib.rc_context(STYLE)
def sizes() -> Figure:
    """Draw how many times as fast as nn.LSTM ours is, over H and over B."""
    figure = Figure(figsize=(1.6 * WIDTH, 2.6), layout="tight")
    colours = {"step": (GREEN, "training step"), "inference": (BLUE, "inference")}
    for axes, (axis, others) in zip(
        figure.subplots(1, 2, sharey=True), {"H": "T = 20, B = 20", "B": "T = 20, H = 200"}.items(),
        strict=True,
    ):  # fmt: skip
        axes.set_xscale("log", base=2)
        for mode, (colour, says) in colours.items():
            picks = pick(read("growing"), {"mode": mode}, ["cudnn", OURS])
            found = sorted(
                (one[0]["shape"][axis], tables.factors([one])[0])
                for one in picks
                if one[0]["case"].startswith(f"{axis}=")
            )
            at = [value for value, _ in found]
            axes.set_xticks(at)
            axes.plot(at, [ratio.value for _, ratio in found], color=colour, marker="o",
                markersize=4, label=says)  # fmt: skip
        axes.axhline(1, color=INK, linewidth=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.set(xlabel=axis, title=f"two layers, {others}")
        axes.grid(linewidth=0.6)
    figure.axes[0].set_ylabel("times as fast as nn.LSTM")
    figure.axes[0].set_ylim(0, None)  # of both
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "ladders.svg": ladders, "post-card.svg": post_card, "answer.svg": words, "sizes.svg": sizes,
}  # fmt: skip
