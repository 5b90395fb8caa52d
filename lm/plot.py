"""`python -m lm.plot RUN [RUN ...]`: perplexity by the number of words that a run has read."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.command import Parser, UserError, command
from lm.files import check_file, write_atomically
from lm.log import FILE, read_log
from lm.settings import PUBLISHED

# Okabe and Ito's colours, which colour-blind readers tell apart; black is left to the text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def draw(
    runs: dict[str, list[dict]],
    path: Path,
    published: str | None = None,
    title: str | None = None,
) -> None:
    """Draw `runs`, lines of log.csv by the run's name, into `path`; its suffix is the format.

    Dashed lines are what was published of the preset `published`.

    Raises UserError where the format is none of matplotlib's.
    """
    from matplotlib import rc_context

    from lm.figure import STYLE, to_svg

    with rc_context(STYLE):
        figure = curves(runs, published, title)
        content = io.BytesIO()
        try:
            if path.suffix == ".svg":
                content.write(to_svg(figure).encode())
            else:
                figure.savefig(content, dpi=150, format=path.suffix[1:])
        except ValueError as error:  # which names the formats
            raise UserError(f"--output: {error}") from None
    write_atomically(path, content.getvalue())


def curves(runs: dict[str, list[dict]], published: str | None, above: str | None = None) -> Any:
    """Return the figure that `draw` writes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from lm.figure import INK

    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, run) in enumerate(runs.items()):
        draw_run(axes, run, name, COLOURS[number % len(COLOURS)])
    axes.set(xlabel="million words read", ylabel="perplexity", yscale="log")
    _, valid, test = PUBLISHED.get(published or "", (None, None, None))
    for value, style in ((valid, "dashed"), (test, "dotted")):
        if value is not None:
            axes.axhline(value, color=INK, linewidth=1, linestyle=style, zorder=0)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    if above is not None:
        axes.set_title(above)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    title = "thin: training, dots: validation, star: test"
    title += f"\npublished: valid {valid} dashed, test {test} dotted" if test is not None else ""
    axes.legend(frameon=False, title=title, fontsize=9, title_fontsize=9)
    return figure


def draw_run(axes: Any, rows: list[dict], name: str, colour: str) -> None:
    """Draw training thin, validation bold with a mark an epoch, the test a star."""
    styles = {
        "train": {"linewidth": 1, "alpha": 0.55},
        "valid": {"linewidth": 2, "marker": "o", "markersize": 4},
        "test": {"linestyle": "none", "marker": "*", "markersize": 12},
    }
    label: str | None = name
    for split, style in styles.items():
        points = [(row["words"] / 1e6, row["perplexity"]) for row in rows if row["split"] == split]
        if len(points) == 1:
            style = {"marker": ".", **style}  # a line of one point shows nothing
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)
            label = None  # once in the legend


# --- the command ---


@command("lm.plot")
def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line `argv` says, or this process's; return the exit status."""
    parser = Parser("lm.plot", "Perplexity of one or several runs by the words they have read.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a directory of `lm.train --save`, or a "
        "log.csv")  # fmt: skip
    add("--output", type=Path, default=Path("curves.png"), metavar="FILE", help="*.png, *.svg or "
        "*.pdf [curves.png]")  # fmt: skip
    add("--names", nargs="+", metavar="NAME", help="of the runs, in the legend [the directories']")
    add("--title", metavar="TEXT", help="above the figure")
    add("--published", choices=PUBLISHED, help="draw this preset's published perplexity")
    args = parser.parse_args(argv)
    check_file(args.output, "--output")
    if args.names is not None and len(args.names) != len(args.runs):
        raise UserError(f"--names: got {len(args.names)}; expected {len(args.runs)}, one of a run")
    runs = {}
    for number, path in enumerate(args.runs):
        file = path / FILE if path.is_dir() else path
        name = file.parent.name if file.name == FILE else file.stem
        rows = read_log(file)
        if not rows:
            raise UserError(f"{file} holds no figures yet")
        if args.names is not None:
            name = args.names[number]
        runs[name if name not in runs else str(path)] = rows
    draw(runs, args.output, args.published, args.title)
    print(f"{args.output}: {', '.join(runs)}")


if __name__ == "__main__":
    sys.exit(main())
