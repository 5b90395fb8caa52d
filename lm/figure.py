"""The look of figures: colours, and an SVG that follows the reader's light or dark mode."""

from __future__ import annotations

import io
import re

import matplotlib
from matplotlib.figure import Figure

# Drawn in these, and replaced in the file by variables that follow the reader's light or dark mode.
INK, PAPER, GRID = "#1a1a1a", "#fefefe", "#dcdcdc"
MODES = f"""<style>
svg {{ --ink: {INK}; --paper: {PAPER}; --grid: {GRID}; }}
@media (prefers-color-scheme: dark) {{
  svg {{ --ink: #e8e8e8; --paper: #1e2227; --grid: #444b54; }}
}}
</style>"""
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.axisbelow": True, "svg.fonttype": "path",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "figure.facecolor": PAPER, "axes.facecolor": PAPER, "grid.color": GRID,
    "savefig.facecolor": PAPER, "legend.labelcolor": INK, "svg.hashsalt": "bench",
}  # fmt: skip


@matplotlib.rc_context(STYLE)
def to_svg(figure: Figure) -> str:
    """Return an <svg> that takes its container's width; the same figure gives the same bytes."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in ((INK, "ink"), (PAPER, "paper"), (GRID, "grid")):
        text = text.replace(colour, f"var(--{variable})")
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f"{opening}>{MODES}{rest}"
