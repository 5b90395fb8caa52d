"""`python -m bench.report RECORDS.jsonl ... -o DIR`: a page with figures.

The page is Markdown, report.md, its figures SVG files beside it. It opens with the answer, then the
ladder, the other systems, and the details of whatever suites the files hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lm.figure import to_svg

from . import answer, doc_tables, figures
from .contenders import BASE
from .core import BUSY, speedup
from .doc_tables import FIRST, POST, systems, trained, training, training_parts
from .figures import Bar
from .tables import By, Row, Table, column, digits, each, markdown, ms, name, read, rows

OWNERS = {"other systems, and loops": figures.GREY, "nn.LSTM": figures.BLUE,
    "fused_lstm": figures.GREEN}  # fmt: skip


class Page:
    """Collects a page's text and figures."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.figures: dict[str, Figure] = {}  # file name -> figure

    def add(self, *texts: str) -> None:
        """Add paragraphs, headings or tables."""
        self.blocks += [text.strip("\n") for text in texts if text]

    def figure(self, file: str, figure: Figure, caption: str) -> None:
        """Add a figure; its caption says what to see."""
        self.figures[f"{file}.svg"] = figure
        self.add(f"![{caption}]({file}.svg)", f"*{caption}*")

    def files(self, folder: Path) -> dict[Path, str]:
        """Return report.md and the figures, by where they go."""
        drawn = {folder / file: to_svg(figure) for file, figure in self.figures.items()}
        return {folder / "report.md": "\n\n".join(self.blocks) + "\n"} | drawn


def tell(frame: pd.DataFrame) -> Page:
    """Return the page."""
    if not (timed := [row for row in rows(frame) if row.seconds]):
        raise ValueError("records: got no measurement; expected at least one")
    page = Page()
    page.add("# Why is a fused LSTM faster, and by how much here?")
    busiest = max(timed, key=lambda row: row.foreign)
    if busiest.foreign > BUSY:
        page.add(f"**The machine was busy: other work took {busiest.foreign:.0%} of it.**")
    suites = each(frame, "suite")
    if "ladder" in suites:
        page.add(answer.sentence(frame))
    if "post" in suites:
        words_per_second(page, frame)
    if "ladder" in suites:
        climb(page, frame)
    for suite, section in SECTIONS.items():
        if suite in suites:
            start, own = len(page.blocks), frame[frame["suite"] == suite]
            section(page, own)
            places = list(dict.fromkeys(answer.place(row) for row in rows(own)))
            page.blocks.insert(start + 1, f"Measured on {answer.listed(places)}.")
    surroundings(page, timed, frame)
    return page


def bar(
    text: str, label: str, value: float, note: str, ends: tuple[float, float] | None = None
) -> Bar:
    """Return a contender's bar, in the colour of whose it is: one of OWNERS."""
    others, theirs, ours = OWNERS
    engine = label.removeprefix("stock-").partition("-")[0]
    owner = {"native": ours, "triton": ours, BASE: theirs}.get(engine, others)
    return Bar(text, {owner: value}, note, ends)


def words_per_second(page: Page, frame: pd.DataFrame) -> None:
    """Add the first figure: whole training steps."""
    panels: dict[str, list[Bar]] = {}
    for case in each(frame, "case", suite="post", mode="train"):
        for label, (step, _) in trained(frame, case).items():
            speed, says = step.tokens / step.median, systems(step.device)[label][1]
            ends = step.tokens / step.q3, step.tokens / step.q1
            panels.setdefault(case, []).append(bar(says, label, speed, f"{speed:,.0f}", ends))
    where = answer.place(rows(frame, suite="post")[0])
    caption = (
        f"Training words per second of the post's language model on {where}; longer is"
        " better; a line shows the quartiles of the rounds. `+` adds a fusion to the row above."
        " PyTorch's rows have its own loss and update until `+ our loss`, which is fused_lstm's"
        " `linear_cross_entropy` and `lm`'s update."
    )
    unit = "words per second of training: longer is better"
    page.figure("answer", figures.bars(panels, unit, OWNERS), caption)


def climb(page: Page, frame: pd.DataFrame) -> None:
    """Add what each fusion removes and gains."""
    page.add(
        "## The ladder: one fusion after another",
        answer.told("answer_fusions"),
        "Each row keeps the fusions of the row above. All rows use the same product kernels on the"
        " same instruction set. A launch is one PyTorch operator call. The model estimates the time"
        " from FLOP, bytes and launches.",
    )
    page.add(answer.ladders(frame))


def post(page: Page, frame: pd.DataFrame) -> None:
    """Add the post's table, and what its factor is made of here."""
    page.add("## The post's table, and this machine's", training(frame), training_parts(frame))
    worst = max(row.error for row in rows(frame) if row.seconds)
    page.add(
        "Before anything was timed, losses and updates of every weight were compared with"
        f" float64's over three steps: the largest error is {worst:.0e} of the largest value."
    )
    for case in each(frame, "case", mode="train"):
        by_label = trained(frame, case)
        if {FIRST, "stock-cudnn"} <= by_label.keys():
            (slow, a), (fast, b) = by_label[FIRST], by_label["stock-cudnn"]
            a, b = a or 0.0, b or 0.0
            rest = digits(1e3 * (slow.median - a)), digits(1e3 * (fast.median - b))
            page.add(
                f"{case}: PyTorch with nn.LSTM trains {speedup(slow, fast)} as fast as"
                f" TensorFlow's step loop (the post, large, on a GTX 1080:"
                f" {POST['stock-cudnn'] / POST[FIRST]:.2f}x). TensorFlow's LSTM takes"
                f" {digits(1e3 * a)} of its {ms(slow)} ms per step, nn.LSTM {digits(1e3 * b)} ms."
                f" The rest of a step takes {rest[0]} ms in TensorFlow and {rest[1]} in PyTorch."
            )


def peers(page: Page, frame: pd.DataFrame) -> None:
    """Add other systems on the same LSTM."""
    panels = {}
    for case in each(frame, "case", mode="step"):
        slowest = sorted(rows(frame, case=case, mode="step"), key=lambda row: -row.median)
        panels[case] = [
            bar(
                name(r.contender),
                r.contender,
                1e3 * r.median,
                f"{ms(r)} ms",
                (1e3 * r.q1, 1e3 * r.q3),
            )
            for r in slowest
        ]
    page.add(
        "## Other systems on the same LSTM",
        "Each library runs in its own process, with the same weights, input and number of threads;"
        " its outputs and gradients are checked against nn.LSTM's.",
    )
    unit = "milliseconds of forward and backward: shorter is better"
    caption = "From the slowest to the fastest; the input products are included in every time."
    page.figure("peers", figures.bars(panels, unit, OWNERS), caption)


def grid(page: Page, frame: pd.DataFrame) -> None:
    """Add the calls drawn at random: ours and the best of the others, a table and two maps."""
    drawn = doc_tables.points(frame)
    page.add("## Inference of calls drawn at random", doc_tables.GRID.of(doc_tables.kinds(drawn)))
    speeds = [point.prepared for point in drawn]
    limits = min(speeds) / 1.7, max(speeds) * 1.7  # with room for what stands on both sides
    for dtype in dict.fromkeys(point.dtype for point in drawn):
        kinds: dict[str, list[tuple[float, float]]] = {}
        for point in sorted(drawn, key=lambda point: point.cell):
            if point.dtype == dtype:
                place = point.flops / 1e6, point.prepared
                kinds.setdefault(point.cell.upper(), []).append(place)
        axes_of = "operations of a call, millions", "times the best other's speed"
        sides = "prepared weights are faster", "the best other is faster"
        page.figure(
            f"grid-{dtype}", figures.scatter(kinds, axes_of, limits, sides),
            f"Inference in {dtype}: the speed of prepared weights over that of the fastest of"
            " PyTorch, ONNX Runtime and OpenVINO. A mark is one call.",
        )  # fmt: skip


def section(heading: str, table: Any, *texts: str) -> Callable[[Page, pd.DataFrame], None]:
    """Return what adds a table of these records under a heading and texts."""
    return lambda page, frame: page.add(heading, *texts, table.of(frame))


# Every contender in every mode; on a GPU the most memory of a call.
MODES = Table(
    "lstm",
    [By("ms", "case"), By("", "contender", name)],
    [column(mode, "ms", mode=mode) for mode in ("inference", "forward", "backward", "step")]
    + [
        column("memory, MB", lambda row: f"{row.memory / 1e6:,.1f}" if row.memory else "-",
            mode="step"),
        column("step, GF/s", "GF/s", mode="step"),
    ],
)  # fmt: skip
STREAMING = Table(
    "streaming",
    [By("p50 / p99, ms", "case")],
    [
        column(says, "p50 / p99", label)
        for label, says in (
            (BASE, "nn.LSTM"), ("module", "the module"), ("streaming", "Streaming"),
            ("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO"),
        )
    ],
)  # fmt: skip
SECTIONS = {
    "post": post,
    "peers": peers,
    "inference": section("## Inference", doc_tables.SHORT),
    "short": section("## Short calls, as in text generation", doc_tables.SHORT),
    "grid": grid,
    "busy": section(
        "## While other processes are busy", doc_tables.BUSY,
        "Zero, one or two other processes each keep a core busy. If one of them takes a core that"
        " a call needs, the call waits until that time slice ends.",
    ),
    "streaming": section(
        "## One step per call", STREAMING,
        "Each call takes one frame of a stream and keeps the state for the next call.",
    ),
    "lstm": section(
        "## Forward, backward and inference", MODES,
        "Inference saves nothing; forward saves what the backward reads; step is both. Memory is"
        " the peak of a step, known only on a GPU.",
    ),
    "scaling": section("## As the shape grows", doc_tables.GROWTH),
}  # fmt: skip


def surroundings(page: Page, timed: Sequence[Row], frame: pd.DataFrame) -> None:
    """Add the machine, the versions, and what was not measured."""
    body: dict[tuple[str, ...], None] = {}
    for r in timed:
        libraries = ", ".join(f"{n} {v}" for n, v in r.versions.items())
        body[r.suite, r.machine, str(r.threads), r.date[:10], r.commit, libraries] = None
    header = ("suite", "machine", "threads", "date", "commit", "libraries")
    page.add("## Machine", markdown(header, body))
    if not any(row.device.startswith("cuda") for row in timed):
        page.add("No GPU was measured.")
    missing: list[Row] = list(frame[frame["why"] != ""].itertuples())
    absent = {(row.suite, name(row.contender), row.why) for row in missing}
    if absent:
        page.add("## Not measured", markdown(("suite", "contender", "why"), sorted(absent)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("bench.report", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS.jsonl")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        page = tell(read(*options.records))
        options.output.mkdir(parents=True, exist_ok=True)
        for path, text in page.files(options.output).items():
            path.write_text(text, encoding="utf-8")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(options.output / "report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
