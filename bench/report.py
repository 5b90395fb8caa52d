"""`python -m bench.report RECORDS.jsonl ... -o DIR [--before OLD.jsonl ...]`: a page with figures.

The page is Markdown, report.md, its figures SVG files beside it. It opens with the answer, then the
ladder, the other systems, and the details of whatever suites the files hold. With --before it ends
with what changed since.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from .contenders import BASE, LOOP
from .core import Record, load, quartiles, speedup
from .tables import (
    FIRST,
    Results,
    calls,
    digits,
    factor,
    lstm_seconds,
    markdown,
    ms,
    name,
    systems,
    training,
    training_parts,
    words_per_second,
)

LEVELS = {
    "pointwise": "makes all pointwise operations of a cell one launch",
    "hoisted": "takes the products that need no order in time out of the loop",
    "steps": "makes the launches of all time steps one and leaves the weights where they are",
    "layers": "makes the launches of all layers one",
}


class Page:
    """Collects a page's text and figures."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.figures: dict[str, str] = {}  # file name -> SVG

    def add(self, *texts: str) -> None:
        """Add paragraphs, headings or tables."""
        self.blocks += [text.strip("\n") for text in texts if text]

    def figure(self, file: str, figure: object, caption: str) -> None:
        """Add a figure; its caption says what to see."""
        from .figures import to_svg

        self.figures[f"{file}.svg"] = to_svg(figure, file)  # type: ignore
        self.add(f"![{caption}]({file}.svg)", f"*{caption}*")

    def write(self, folder: Path) -> None:
        """Write report.md and the figures."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, svg in self.figures.items():
            (folder / file).write_text(svg, encoding="utf-8")
        (folder / "report.md").write_text("\n\n".join(self.blocks) + "\n", encoding="utf-8")


def tell(records: Sequence[Record], before: Sequence[Record] = ()) -> Page:
    """Return the page."""
    page, timed = Page(), [r for r in records if r.seconds]
    if not timed:
        raise ValueError("records: got no measurement; expected at least one")
    every = Results(records)
    page.add("# Why is a fused LSTM faster, and by how much here?")
    answer(page, every)
    for section in (ladder, peers, inference, busy, streaming, modes, scaling, checked):
        section(page, every)
    if before:
        compare(page, before, records)
    surroundings(page, records)
    return page


# --- the answer ---


def answer(page: Page, every: Results) -> None:
    """Add one sentence, and the figure of words per second."""
    trained = every.where(suite="post", mode="train")
    cases = list(dict.fromkeys(r.case for r in trained))
    alone = steps_of(every)
    size = next((s for s in ("medium", "large", "small") if s in alone), "")
    of = alone.get(size, {})
    rungs = [of[label] for label in rungs_of(of)]
    if BASE in of and len(rungs) > 1:
        gains = {b.contender: speedup(a, b).value for a, b in pairwise(rungs)}
        most = max(gains, key=gains.__getitem__)
        level = most.rpartition("-")[2]
        page.add(
            "**On this machine the fused LSTM runs forward and backward"
            f" {factor(rungs[0], rungs[-1])} as fast as a step loop at {size}, most of it by"
            f" `{level}` ({gains[most]:.2f}x), which {LEVELS[level]}; nn.LSTM is"
            f" {factor(of[LOOP], of[BASE])} as fast as the loop.**"
        )
    if not cases:
        return
    from .figures import Bar, bars, colour

    panels = {}
    for case in cases:
        train = trained.where(case=case).by("contender")
        rest = every.where(suite="post", case=case, mode="rest").by("contender")
        rows = []
        for label, (_, says) in systems(next(iter(train.values())).device).items():
            if (r := train.get(label)) is None:
                continue
            seconds = lstm_seconds(r, rest.get(label))
            part = 1.0 if seconds is None else seconds / r.median
            value = words_per_second(r)
            q1, q3 = (r.extra["tokens"] / t for t in quartile_ends(r))
            rows.append(Bar(says, value, colour(label), f"{value:,.0f}", q3, q1, part))
        panels[case] = rows
    page.figure(
        "answer",
        bars(panels, "words per second of training: longer is better",
            ("the LSTM's share of the time", "softmax, loss, update")),
        "A whole training step of the post's language model. `+` adds to the row above. The rows"
        " of PyTorch have its own loss and update until `+ our loss`.",
    )  # fmt: skip
    page.add("## The post's table beside this machine's", training(every), training_parts(every))
    page.add(*(explained(trained, every, case) for case in cases))


def quartile_ends(record: Record) -> tuple[float, float]:
    """Return the first and the third quartile."""
    q1, _, q3 = quartiles(record.seconds)
    return q1, q3


def explained(trained: Results, every: Results, case: str) -> str:
    """Return what the factor between the post's two ends is made of here; "" without them."""
    train = trained.where(case=case).by("contender")
    rest = every.where(suite="post", case=case, mode="rest").by("contender")
    if FIRST not in train or "stock-cudnn" not in train:
        return ""
    slow, fast = train[FIRST], train["stock-cudnn"]
    a, b = lstm_seconds(slow, rest.get(FIRST)), lstm_seconds(fast, rest.get("stock-cudnn"))
    if a is None or b is None:
        return ""
    return (
        f"{case}: PyTorch with nn.LSTM trains {factor(slow, fast)} as fast as TensorFlow's step"
        " loop (the post, large, on a GTX 1080: 1.95x). Of TensorFlow's"
        f" {digits(1e3 * slow.median)} ms a step {digits(1e3 * a)} are its LSTM, where nn.LSTM"
        f" takes {digits(1e3 * b)}; the rest is {digits(1e3 * (slow.median - a))} ms there and"
        f" {digits(1e3 * (fast.median - b))} in PyTorch."
    )


# --- sections ---


def steps_of(every: Results) -> dict[str, dict[str, Record]]:
    """Return forward and backward of the presets alone: case -> label -> record."""
    found: dict[str, dict[str, Record]] = {}
    for r in every.where(mode="step", dtype="float32"):
        if r.suite in ("lstm", "native", "ladder") and r.case in ("small", "medium", "large"):
            found.setdefault(r.case, {}).setdefault(r.contender, r)
    return found


def rungs_of(of: dict[str, Record]) -> list[str]:
    """Return the loop and the levels of one engine of ours that took turns with it."""
    engine = "triton" if "triton-layers" in of else "native"
    labels = (LOOP, *(f"{engine}-{level}" for level in LEVELS))
    return [n for n in labels if n in of and LOOP in of and of[n].group == of[LOOP].group]


def ladder(page: Page, every: Results) -> None:
    """Add bench.ladder's section, or, where that is not there, the levels of the LSTM alone."""
    if importlib.util.find_spec("bench.ladder"):
        from . import ladder as rungs  # type: ignore

        rungs.section(page, every)
        return
    from .figures import Bar, bars, colour

    panels = {}
    for case, of in steps_of(every).items():
        if LOOP not in of:
            continue
        rows, above = [], None
        for label in (*rungs_of(of), *[BASE] * (BASE in of)):
            r = of[label]
            to = speedup(of[LOOP], r)
            note = f"{to.value:.2f}x"
            if above is not None and label != BASE:
                note += f" (+ {factor(above, r)})"
            rows.append(Bar(name(label), to.value, colour(label), note, to.low, to.high))
            above = r
        panels[case] = rows
    if panels:
        page.add("## The ladder: one fusion after another")
        page.figure(
            "ladder", bars(panels, "times the step loop's speed: longer is better", rule=1.0),
            "Forward and backward of the LSTM alone, each rung one fusion more than the one above;"
            " `+` is what that fusion adds, with a line for its 95% interval over rounds.",
        )  # fmt: skip


def peers(page: Page, every: Results) -> None:
    """Add other systems on the same LSTM."""
    from .figures import Bar, bars, colour

    panels = {}
    for case in dict.fromkeys(r.case for r in every.where(suite="peers", mode="step")):
        found = every.where(suite="peers", mode="step", case=case).by("contender")
        if not any(label not in (BASE, LOOP) and not label.startswith("native") for label in found):
            continue
        rows = [
            Bar(name(label), 1e3 * r.median, colour(label), f"{ms(r)} ms")
            for label, r in found.items()
        ]
        panels[case] = sorted(rows, key=lambda row: -row.value)
    if panels:
        page.add("## Other systems on the same LSTM")
        page.add(
            "Each library runs in a process of its own, on the same weights and input and with as"
            " many threads; outputs and gradients are checked against nn.LSTM's."
        )
        unit = "milliseconds of forward and backward: shorter is better"
        caption = "From the slowest to the fastest; the input products are in everybody's time."
        page.figure("peers", bars(panels, unit), caption)


def inference(page: Page, every: Results) -> None:
    """Add forwards that keep nothing, beside runtimes that only infer."""
    records = Results(r for r in every if r.suite in ("inference", "short"))
    if records.where(mode="inference").records:
        page.add("## Inference", calls(records))


def tails(page: Page, every: Results, suite: str, heading: str, text: str, caption: str) -> None:
    """Add p50 and p99 of calls."""
    from .figures import spans

    records = every.where(suite=suite)
    panels: dict[str, list] = {}
    for r in records:
        beside = r.extra.get("neighbours")
        title = (
            r.case
            if beside is None
            else f"{r.case}: {beside or 'no'} busy neighbour{'s' * (beside != 1)}"
        )
        dtype = "" if r.dtype == "float32" else f", {r.dtype}"
        label = {"streaming": "native", "module": "native"}.get(r.contender, r.contender)
        says = {"streaming": "Streaming", "module": "the module"}.get(
            r.contender, name(r.contender)
        )
        panels.setdefault(title + dtype, []).append(
            (says, label, 1e6 * r.extra["p50"], 1e6 * r.extra["p99"])
        )
    if panels:
        page.add(f"## {heading}", text)
        page.figure(
            suite, spans(panels, "microseconds of a call, logarithmic: left is better"), caption
        )


BUSY = (
    "One process, or two, keep a core busy each meanwhile. Threads that wait for each other lose"
    " the time for which the system runs somebody else.",
    "A call's median (dot) and its 99th percentile (the bar's end), without and with busy"
    " neighbours: a short bar that stays where it is shows who copes.",
)
STREAMING = (
    "A stream is served one frame at a time, the state kept between calls.",
    "A call's median (dot) and its 99th percentile (the bar's end).",
)


def busy(page: Page, every: Results) -> None:
    """Add calls on a machine that has other work."""
    tails(page, every, "busy", "On a machine that has other work", *BUSY)


def streaming(page: Page, every: Results) -> None:
    """Add calls of one step."""
    tails(page, every, "streaming", "One step a call", *STREAMING)


def modes(page: Page, every: Results) -> None:
    """Add milliseconds and memory of every contender in every mode."""
    shown = ("inference", "forward", "backward", "step")
    records = every.where(suite="lstm")
    tables = []
    for case in dict.fromkeys(r.case for r in records):
        rows = []
        for label in dict.fromkeys(r.contender for r in records.where(case=case)):
            found = records.where(case=case, contender=label).by("mode")
            memory = max((r.memory or 0 for r in found.values()), default=0)
            step = found.get("step")
            rows.append([name(label), *(ms(found[m]) if m in found else "-" for m in shown),
                f"{memory / 1e6:,.1f}" if memory else "-",
                f"{step.extra['flops'] / step.median / 1e9:.0f}" if step else "-",
                str(step.extra.get("launches", "-")) if step else "-"])  # fmt: skip
        tables.append(f"{case}:\n\n" + markdown(
            ("ms", *shown, "memory, MB", "step, GF/s", "launches"), rows))  # fmt: skip
    if tables:
        page.add("## Forward, backward and inference")
        page.add(
            "Inference keeps nothing; forward keeps what the backward reads; step is both. Memory"
            " is the most of any mode."
        )
        page.add(*tables)


def scaling(page: Page, every: Results) -> None:
    """Add how a step grows with one dimension at a time."""
    from .figures import lines

    panels: dict[str, dict[str, list]] = {}
    for r in every.where(suite="scaling", mode="step"):
        axis, _, value = r.case.partition("=")
        panels.setdefault(axis, {}).setdefault(r.contender, []).append((int(value), 1e3 * r.median))
    panels = {
        axis: series for axis, series in panels.items() if all(len(p) > 1 for p in series.values())
    }
    if panels:
        page.add("## As the shape grows")
        caption = "A step as one dimension grows from T=20, B=20, H=200, L=2, on logarithmic axes."
        page.figure("scaling", lines(panels, "ms of a step"), caption)


def checked(page: Page, every: Results) -> None:
    """Add the losses that all agreed on before a training step was timed."""
    rows = []
    for r in every.where(suite="post", mode="train"):
        if "losses" in r.extra:
            losses = (f"{loss:.5f}" for loss in r.extra["losses"])
            rows.append([f"{r.case}: {name(r.contender)}", *losses, f"{r.error:.0e}"])
    if rows:
        header = ("loss", "step 1", "step 2", "step 3", "largest error of an update")
        page.add("## What was checked before a training step was timed", markdown(header, rows))


# --- two runs ---


def compare(page: Page, before: Sequence[Record], after: Sequence[Record]) -> None:
    """Add what changed from one run to another, beside how much each of them wavered."""
    fields = ("suite", "case", "contender", "mode", "dtype", "threads")
    pairs = Results(before).by(*fields)
    rows = []
    for r in after:
        old = pairs.get(tuple(getattr(r, field) for field in fields))
        if old is None or not (old.seconds and r.seconds):
            continue
        (low, high), (low_now, high_now) = quartile_ends(old), quartile_ends(r)
        apart = high < low_now or high_now < low
        verdict = ("faster" if r.median < old.median else "slower") if apart else "within noise"
        change = f"{old.median / r.median:.2f}x" if apart else "-"
        says = f"{r.suite}, {r.case}, {r.mode}, {r.dtype}: {name(r.contender)}"
        noise = f"{old.noise:.0%}, {r.noise:.0%}"
        rows.append([says, ms(old), ms(r), change, noise, verdict])
    names = dict.fromkeys(r.machine for r in (*before, *after) if r.machine)
    page.add("## Before and after")
    page.add(f"Not one machine: {'; '.join(names)}." if len(names) > 1 else "")
    page.add("A change counts where quartile ranges part; noise is half their distance.")
    page.add(markdown(("", "before, ms", "after, ms", "x", "noise of each", "verdict"), rows)
        if rows else "The two runs have no case in common.")  # fmt: skip


def surroundings(page: Page, records: Sequence[Record]) -> None:
    """Add the machine, the versions, and what was not measured."""
    measured = [r for r in records if r.seconds]
    rows: dict[tuple[str, ...], None] = {}
    for r in measured:
        libraries = ", ".join(f"{n} {v}" for n, v in r.versions.items())
        rows[r.suite, r.machine, str(r.threads), r.date[:10], r.commit, libraries] = None
    page.add(
        "## Machine", markdown(("suite", "machine", "threads", "date", "commit", "libraries"), rows)
    )
    most = max(measured, key=lambda r: r.foreign)
    if most.busy:
        page.blocks.insert(
            1, f"**The machine was busy: other work took {most.foreign:.0%} of it.**"
        )
    if not any(r.device.startswith("cuda") for r in measured):
        page.add("No GPU: nothing here says how fast a GPU is.")
    absent = sorted({(r.suite, name(r.contender), r.why) for r in records if r.why})
    if absent:
        page.add("## Not measured", markdown(("suite", "contender", "why"), absent))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("bench.report", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS.jsonl")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--before", nargs="+", type=Path, default=[], metavar="OLD.jsonl")
    options = parser.parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("figures need matplotlib: pip install 'fused-lstm[plot]'")
    try:
        page = tell(load(*options.records), load(*options.before))
        page.write(options.output)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(options.output / "report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
