"""The look of figures: colours, and an SVG that follows the reader's light or dark mode.

Each colour is an attribute of its element, so a viewer that knows no CSS shows the light mode. In
dark mode a browser replaces three of them by rules on these attributes.
"""

from __future__ import annotations

import io
import re

import matplotlib
from matplotlib.figure import Figure

INK, PAPER, GRID = "#1a1a1a", "#fefefe", "#dcdcdc"
DARK = {INK: "#e8e8e8", PAPER: "#1e2227", GRID: "#444b54"}
RULES = "".join(
    f'[{name}="{light}"] {{ {name}: {dark}; }}\n'
    for light, dark in DARK.items()
    for name in ("fill", "stroke")
)
MODES = f"<style>\n@media (prefers-color-scheme: dark) {{\n{RULES}}}\n</style>"
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
    text = re.sub(r' style="([^"]*)"', lambda style: _attributes(style[1]), text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f"{opening}>{MODES}{rest}"


def _attributes(style: str) -> str:
    """Return an element's style as attributes: rules of a style sheet are then stronger."""
    pairs = (part.split(":", 1) for part in style.split(";") if part.strip())
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs)
