"""The figures of the answer: the ladder beside its prediction, and the post's card.

One unit each, from zero; colours of Okabe and Ito (2008), each part named in the legend; text of 10
points on 5.2 inches is read on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .core import Record, speedup
from .model import Span

INK, PAPER, GRID = "#1a1a1a", "#fefefe", "#dcdcdc"  # replaced by variables of light and dark
WIDTH = 5.2  # inches
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.axisbelow": True, "svg.fonttype": "path",
    "svg.hashsalt": "answer", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "figure.facecolor": PAPER, "axes.facecolor": PAPER,
    "grid.color": GRID, "savefig.facecolor": PAPER, "legend.labelcolor": INK,
}  # fmt: skip
MEASURED = INK  # light in dark mode
PARTS = {  # kind of the model -> what it is called, and its colour
    "products": ("products at the peak", "#0072B2"),
    "weights": ("weights", "#D55E00"),
    "gradients": ("gradients of weights", "#E69F00"),
    "intermediates": ("intermediate results", "#56B4E9"),
    "launches": ("launches", "#CC79A7"),
}
POST_COLOURS = {
    **dict(PARTS.values()),
    "softmax, clipping, update": "#999999",
}
MODES = f"""<style>
svg {{ --ink: {INK}; --paper: {PAPER}; --grid: {GRID}; }}
@media (prefers-color-scheme: dark) {{
  svg {{ --ink: #e8e8e8; --paper: #1e2227; --grid: #444b54; }}
}}
</style>"""


def ladder(groups: Mapping[str, Sequence[Record]], names: Mapping[str, str]) -> str:
    """Return an <svg>: each rung's milliseconds and, under them, the model's, in parts."""
    with matplotlib.rc_context(STYLE):
        heights = [len(rungs) for rungs in groups.values()]
        inches = 0.45 * sum(heights) + 0.45 * len(heights) + 0.3
        figure = Figure(figsize=(WIDTH, inches), layout="tight")
        drawn = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights).flatten()
        for axes, (title, rungs) in zip(drawn, groups.items(), strict=True):
            axes.set_title(title if len(groups) > 1 else "")
            longest = 0.0
            for place, rung in enumerate(rungs):
                axes.barh(place - 0.2, 1e3 * rung.median, 0.36, color=MEASURED)
                left = 0.0
                for kind, (_, colour) in PARTS.items():
                    part = 1e3 * rung.extra["predicted"][kind]
                    axes.barh(place + 0.2, part, 0.36, left=left, color=colour)
                    left += part
                note = f"{1e3 * rung.median:,.{1 if rung.median < 0.1 else 0}f} ms"
                if place:
                    gain = speedup(rungs[place - 1], rung)
                    note += f", {gain.value:.2f}x" if gain.clear else ", no difference seen"
                behind = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(note, (1e3 * rung.median, place - 0.2), fontsize=9, **behind)
                longest = max(longest, left, 1e3 * rung.median)
            axes.set_yticks(range(len(rungs)), [names[r.contender] for r in rungs])
            axes.tick_params(axis="y", length=0)
            axes.invert_yaxis()
            axes.set_xlim(0, 1.62 * longest)
            axes.grid(axis="x", linewidth=0.6)
        drawn[-1].set_xlabel("milliseconds of the LSTM a training step (shorter is better)")
        handles = [Patch(color=MEASURED), *(Patch(color=colour) for _, colour in PARTS.values())]
        labels = ["measured", *(f"model: {says}" for says, _ in PARTS.values())]
        _legend(figure, handles, labels)
        return to_svg(figure)


def post(steps: Mapping[str, Mapping[str, Span]], took: Mapping[str, float]) -> str:
    """Return an <svg>: where the post's milliseconds go, at each end of the assumptions."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="tight")
        axes = figure.subplots()
        places, labels = [], []
        for number, (who, kinds) in enumerate(steps.items()):
            for end, way in enumerate(("least", "most")):
                place, left = 2.6 * number + end, 0.0
                for kind, of in kinds.items():
                    part = 1e3 * of[end]
                    axes.barh(place, part, 0.8, left=left, color=POST_COLOURS[kind])
                    left += part
                rest = max(1e3 * took[who] - left, 0.0)
                axes.barh(place, rest, 0.8, left=left, color="none", edgecolor=INK, hatch="///",
                    linewidth=0.6)  # fmt: skip
                places.append(place)
                labels.append(f"{who}: {way}" if end == 0 else way)
            axes.annotate(f"{1e3 * took[who]:.1f} ms", (1e3 * took[who], 2.6 * number + 0.5),
                xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)  # fmt: skip
        axes.set_yticks(places, labels)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18e3 * max(took.values()))
        axes.set_xlabel("ms a training step of large, GTX 1080")
        axes.grid(axis="x", linewidth=0.6)
        kinds = list(next(iter(steps.values())))
        handles = [Patch(color=POST_COLOURS[kind]) for kind in kinds]
        handles.append(Patch(facecolor="none", edgecolor=INK, hatch="///"))
        _legend(figure, handles, [*kinds, "not found by the model"])
        return to_svg(figure)


def _legend(figure: Figure, handles: Sequence, labels: Sequence[str]) -> None:
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2,
        frameon=False, fontsize=9)  # fmt: skip


def to_svg(figure: Figure) -> str:
    """Return an <svg> that follows light and dark; the same figure gives the same bytes."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in ((INK, "ink"), (PAPER, "paper"), (GRID, "grid")):
        text = text.replace(colour, f"var(--{variable})")
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f"{opening}>{MODES}{rest}"
