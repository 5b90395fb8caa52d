"""`python -m lm.plot RUN [RUN ...]`: perplexity against words and against wall time."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.command import main_imports, run_command
from lm.errors import UserError
from lm.saving import record

with main_imports(__name__):
    from lm.arguments import Parser
    from lm.config import PUBLISHED
    from lm.saving.files import check_output, write_atomically

# Okabe and Ito's colours, which colour-blind readers tell apart; black is left to the text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def draw(runs: dict[str, list[dict]], path: Path, published: str | None = None) -> None:
    """Draw `runs`, lines of log.csv by the run's name, into `path`; its suffix is the format.

    Dashed lines are what was published of the preset `published`.

    Raises UserError where the extra `plot` is not installed, or the format is none of its.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("lm.plot needs matplotlib: pip install 'fused-lstm[plot]'") from None
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise UserError(f"--output: '{path}' should end in one of .{', .'.join(sorted(formats))}")
    by_words, by_time = figure.subplots(1, 2, sharey=True)
    every = [row for rows in runs.values() for row in rows]
    unit, per_unit = _time_unit(max(row["seconds"] for row in every))
    many, words = _words_unit(max(row["words"] for row in every))
    for number, (name, rows) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        _draw_run(by_words, rows, "words", words, name, colour)
        _draw_run(by_time, rows, "seconds", per_unit, name, colour)
    by_words.set(xlabel=many, ylabel="perplexity", yscale="log")
    by_time.set(xlabel=f"{unit} of wall time, evaluation included")
    _, valid, test = PUBLISHED.get(published or "", (None, None, None))
    for axes in (by_words, by_time):
        for value, style in ((valid, "dashed"), (test, "dotted")):
            if value is not None:
                axes.axhline(value, color="#333333", linewidth=1, linestyle=style, zorder=0)
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    title = "thin: training, dots: validation, star: test"
    title += f"\npublished: valid {valid} dashed, test {test} dotted" if test is not None else ""
    by_words.legend(frameon=False, title=title)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=path.suffix[1:])
    write_atomically(path, content.getvalue())


def _draw_run(axes, rows: list[dict], x: str, scale: float, name: str | None, colour: str) -> None:
    """Training thin, validation bold with a mark an epoch, the test a star."""
    styles = {
        "train": {"linewidth": 1, "alpha": 0.55},
        "valid": {"linewidth": 2, "marker": "o", "markersize": 4},
        "test": {"linestyle": "none", "marker": "*", "markersize": 12},
    }
    for split, style in styles.items():
        points = [(row[x] / scale, row["perplexity"]) for row in rows if row["split"] == split]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=name, **style)
            name = None  # once in the legend


def _words_unit(words: float) -> tuple[str, float]:
    return ("thousand words", 1e3) if words < 1e6 else ("million words", 1e6)


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 180:
        return "seconds", 1
    return ("minutes", 60) if seconds < 3 * 3600 else ("hours", 3600)


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    parser = Parser("lm.plot", "Perplexity of one or several runs against words and wall time.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a directory of `lm.train --save`, or a "
        "log.csv")  # fmt: skip
    add("--output", type=Path, default=Path("curves.png"), metavar="FILE", help="*.png, *.svg or "
        "*.pdf [curves.png]")  # fmt: skip
    add("--published", choices=PUBLISHED, help="draw this preset's published perplexity")
    options = parser.parse_args(argv)
    return run_command("lm.plot", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    check_output(options.output, "--output")
    runs = {}
    for path in options.runs:
        file = path / record.FILE if _is_directory(path) else path
        name = file.parent.name if file.name == record.FILE else file.stem
        rows = record.read(file)
        if not rows:
            raise UserError(f"{file} holds no figures yet")
        runs[name if name not in runs else str(path)] = rows
    draw(runs, options.output, options.published)
    print(f"{options.output}: {', '.join(runs)}")


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # such as too long a name
        raise UserError(f"{path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
