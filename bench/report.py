"""`python -m bench.report RECORDS.jsonl ... -o DIR`: a page with figures.

The page is Markdown, report.md, its figures SVG files beside it. It opens with the answer, then the
ladder, the other systems, and the details of whatever suites the files hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from . import answer, doc_tables, figures
from .contenders import BASE
from .core import BUSY, speedup
from .doc_tables import FIRST, OURS, POST, systems, trained, training, training_parts
from .figures import Bar
from .tables import FORMATS, Row, digits, each, markdown, ms, name, read, rows

OWNERS = {"other systems, and loops": figures.GREY, "nn.LSTM": figures.BLUE,
    "fused_lstm": figures.GREEN}  # fmt: skip
COLOURS = {OURS: figures.GREEN, "streaming": figures.GREEN, "module": figures.SKY,
    BASE: figures.BLUE, "onnxruntime": "#AA4499", "openvino": "#882255",
    "triton-layers": figures.ORANGE}  # fmt: skip


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
        drawn = {folder / file: figures.to_svg(figure) for file, figure in self.figures.items()}
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
    panels = {}
    for records in answer.groups(frame).values():
        of = answer.rungs(records)
        if of[0].dtype == "float32" and answer.predicted(of[0]) > 0:
            panels[answer.where(of[0])] = of
    if panels:
        page.figure(
            "ladder", answer.ladder_figure(panels),
            "Forward and backward of only the LSTM. Under each measured bar is the model's estimate"
            " in parts. `hoisted` removes the sums of weights' gradients and reads W once instead of"
            " at every step.",
        )  # fmt: skip
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


def tails(page: Page, frame: pd.DataFrame, file: str, caption: str) -> None:
    """Add p50 and p99 of calls."""
    says = {"streaming": "Streaming", "module": "the module"}
    panels: dict[str, list] = {}
    for row in rows(frame):
        title = row.case + (f", {row.dtype}" if row.dtype != "float32" else "")
        if file == "busy":
            title = f"{row.case}: {row.neighbours:.0f} busy neighbour{'s' * (row.neighbours != 1)}"
        label = says.get(row.contender) or name(row.contender)
        panels.setdefault(title, []).append((label, 1e3 * row.p50, 1e3 * row.p99))
    colours = {says.get(n) or name(n): c for n, c in COLOURS.items()}
    unit = "milliseconds of a call, logarithmic: left is better"
    page.figure(file, figures.spans(panels, unit, colours), caption)


def busy(page: Page, frame: pd.DataFrame) -> None:
    """Add calls beside busy processes."""
    page.add(
        "## While other processes are busy",
        "Zero, one or two other processes each keep a core busy. If one of them takes a core that"
        " a call needs, the call waits until that time slice ends.",
    )
    caption = (
        "A call's median (dot) and its 99th percentile (end of the bar), by the number of busy"
        " processes; shorter is better."
    )
    tails(page, frame, "busy", caption)


def streaming(page: Page, frame: pd.DataFrame) -> None:
    """Add calls of one step."""
    text = "Each call takes one frame of a stream and keeps the state for the next call."
    page.add("## One step per call", text)
    caption = "A call's median (dot) and its 99th percentile (the bar's end)."
    tails(page, frame, "streaming", caption)


def modes(page: Page, frame: pd.DataFrame) -> None:
    """Add milliseconds of every contender in every mode, and on a GPU the memory."""
    page.add(
        "## Forward, backward and inference",
        "Inference saves nothing; forward saves what the backward reads; step is both. Memory is"
        " the peak of all modes, known only on a GPU.",
    )
    shown = ("inference", "forward", "backward", "step")
    for case in each(frame, "case"):
        body = []
        for label in each(frame, "contender", case=case):
            by_mode = {row.mode: row for row in rows(frame, case=case, contender=label)}
            memory = max((row.memory or 0 for row in by_mode.values()), default=0)
            rate = FORMATS["GF/s"](by_mode["step"]) if "step" in by_mode else "-"
            body.append([name(label), *(ms(by_mode[m]) if m in by_mode else "-" for m in shown),
                f"{memory / 1e6:,.1f}" if memory > 0 else "-", rate])  # fmt: skip
        page.add(f"{case}:", markdown(("ms", *shown, "memory, MB", "step, GF/s"), body))


def grid(page: Page, frame: pd.DataFrame) -> None:
    """Add the calls drawn at random: ours and the best of the others, a table and two maps."""
    drawn = doc_tables.points(frame)
    page.add("## Inference of calls drawn at random", doc_tables.grid(drawn))
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


def table(heading: str, name: str) -> Callable[[Page, pd.DataFrame], None]:
    """Return what adds one of the documents' tables, of these records."""
    made = doc_tables.TABLES[name]
    return lambda page, frame: page.add(heading, made.of(frame))


SECTIONS = {
    "post": post,
    "peers": peers,
    "inference": table("## Inference", "short"),
    "short": table("## Short calls, as in text generation", "short"),
    "grid": grid,
    "busy": busy,
    "streaming": streaming,
    "lstm": modes,
    "scaling": table("## As the shape grows", "growth_sizes"),
}


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
