"""The answer in words, tables and figures, from the ladder's results.

Sentences with a measured number are made here too, so that no number is written by hand.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pandas as pd

from . import doc_tables, figures, ladder, model
from .core import Ratio, speedup
from .figures import Bar
from .model import KINDS, Counts, Span
from .tables import Row, by_contender, digits, each, machine, markdown, results, rows, tool

FUSED = {
    "loop": ("step loop", "nothing: one launch per operation, three products per step and layer"),
    "pointwise": ("+ pointwise", "the launches between a cell's pointwise operations"),
    "hoisted": ("+ hoisted", "from the loop: products that do not depend on the previous step, and"
        " the sums of weight gradients"),
    "steps": ("+ steps", "all other launches of a layer, and packing R at each step"),
    "layers": ("+ layers", "waiting of one layer's steps for the layer below"),
}  # fmt: skip
NAMES = {fuse: name for fuse, (name, _) in FUSED.items()}


KERNELS = "inspect-h100.json"  # large's launches at `steps`, compiled for an H100 in bfloat16


# --- the ladder's records ---


def groups(frame: pd.DataFrame) -> dict[tuple[str, str, int], dict[str, Row]]:
    """Return the ladders: case, dtype and threads -> contender -> record."""
    keys = dict.fromkeys((r.case, r.dtype, r.threads) for r in rows(frame, suite="ladder"))
    return {
        (case, dtype, n): by_contender(frame, suite="ladder", case=case, dtype=dtype, threads=n)
        for case, dtype, n in keys
    }


def rungs(records: dict[str, Row]) -> list[Row]:
    """Return the rungs of a group, from the loop upwards."""
    return [records[label] for label in ("loop", *ladder.LEVELS) if label in records]


@cache
def climbed(case: str = "medium", threads: int = 1) -> list[Row]:
    """Return the committed rungs of a case in float32."""
    return rungs(groups(results("ladder"))[case, "float32", threads])


def sizes() -> list[str]:
    """Return the cases that were measured in float32 on one thread."""
    keys = groups(results("ladder"))
    return [case for case, dtype, threads in keys if (dtype, threads) == ("float32", 1)]


def gains(of: Sequence[Row]) -> list[Ratio]:
    """Return how many times as fast each rung is as the one above it in the table."""
    return [speedup(below, rung) for below, rung in itertools.pairwise(of)]


def counts(row: Row) -> Counts:
    """Return what the record's step consists of."""
    return row._asdict()


def launches(row: Row) -> str:
    """Return how many there are."""
    return f"{row.launches:,.0f}"


def predicted(row: Row) -> float:
    """Return the model's seconds; NaN where the machine's limits are not known."""
    parts = getattr(row, "predicted", None)
    return sum(parts.values()) if isinstance(parts, dict) else math.nan


def fuse(row: Row) -> str:
    """Return the rung's level, without the instruction set."""
    return row.contender.partition(",")[0]


# --- text ---


def ms(seconds: float) -> str:
    """Return milliseconds to three digits, "-" for NaN."""
    return "-" if math.isnan(seconds) else digits(1e3 * seconds)


def megabytes(count: float) -> str:
    """Return bytes as MB."""
    return f"{count / 1e6:,.0f}" if count >= 9.95e6 or not count else f"{count / 1e6:.1f}"


def span(of: Span) -> str:
    """Return milliseconds, as a range where there is one."""
    low, high = (f"{1e3 * s:.0f}" if not 0 < 1e3 * s < 9.5 else f"{1e3 * s:.1f}" for s in of)
    return low if low == high else f"{low} to {high}"


def wrapped(text: str) -> str:
    """Return a paragraph in lines of 100 characters."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def where(row: Row, numbers: str = "") -> str:
    """Return a rung's case, numbers and place in words: "medium, bfloat16, 1 core"."""
    units = getattr(row, "H", math.nan)  # unknown where a record has no shape
    size = "" if math.isnan(units) else f"H={units:.0f}"
    numbers = numbers or (row.dtype if row.dtype != "float32" else size)
    cores = f"{row.threads} core{'s' * (row.threads > 1)}"
    return ", ".join(
        filter(None, (row.case, numbers, cores if row.device == "cpu" else row.device))
    )


def place(row: Row) -> str:
    """Return the machine and the cores of it: "two cores of an AMD EPYC (Zen 4)"."""
    cores = {1: "one core of ", 2: "two cores of "}.get(row.threads, f"{row.threads} cores of ")
    return (cores if row.device == "cpu" else "") + machine(row)


# --- the post's card ---


@cache
def post() -> list[model.Term]:
    """Return what a step of the post's two systems does."""
    loop, _, hoisted, *_ = climbed("large")
    return model.post_terms(counts(loop), counts(hoisted))


def gap() -> float:
    """Return the seconds between the post's two systems, a step."""
    loop, cudnn = model.POST_SECONDS.values()
    return loop - cudnn


def unexplained(who: str) -> Span:
    """Return the seconds of a system's step that the model leaves over."""
    low, high = model.post_span(post(), who)
    return Span(model.POST_SECONDS[who] - high, model.POST_SECONDS[who] - low)


def between(*names: str) -> Span:
    """Return how many seconds more of these terms the loop takes, where nothing overlaps."""
    return model.terms_between([term for term in post() if term.name in names])


def shares(of: Span) -> str:
    """Return what part of the gap between the post's systems a span of seconds is."""
    low, high = (seconds / gap() for seconds in of)
    return f"{low:.0%} to {high:.0%}"


# --- sentences: templates, and the figures in them ---

FUSIONS = """
The post names three fusions: pointwise operations, steps and layers. We measure four levels,
because a loop over steps becomes faster in two ways: `hoisted` takes the products that do not
depend on the previous step out of the loop, which is no fusion and which any library can do;
`steps` runs the remaining loop in one launch.
"""
SENTENCES = {
    "answer_fusions": FUSIONS,
    "answer": """
1. A step loop reads all weights at every time step, and its backward also writes the gradient of
every weight at every step and adds it to a sum. All levels together take {off_measured} ms off a
medium LSTM, {off} by our model, and {gradients_off} of the model's are these gradients.

2. Only one product of a step needs the step before. The input products and the weights' gradients
of all steps can each be one large product: that is not fusion, any library can do it, and it alone
makes the medium LSTM {hoisted} times as fast on one core of {machine}, of {whole} times in all.

3. Fusion pays where the weights fit in a core's cache, because launches and steps are the cost
there, as on a GPU. At H = 64 on two cores each of the post's three fusions gains: `pointwise`
{tiny_pointwise}, `steps` {tiny_steps}, `layers` {tiny_layers}. At H = 650 bytes are the cost:
`steps` gains {steps}, and `pointwise` {pointwise}.

4. For the post's GTX 1080 we have arithmetic only. Weights and their gradients are {bytes_share} of
the {gap} ms between its two programs, and the same arithmetic accounts for {cudnn_model} of cuDNN's
own {cudnn_ms} ms. Nobody profiled either program.
""",
    "answer_layers": """
`layers` has a row only where it runs other code than `steps`: on several threads, where a layer's
weights take at most 384 KiB (H = 110 in float32). Elsewhere `layers` is `steps`.
""",
    "answer_steps": """
Of the {calls_ms} ms that the recurrent products of one layer's forward take at medium where each
step is a call, {call_ms} are the calls themselves and {packing_ms} are packing R at each step.
Packed once, in one call, they take {once_ms} ms. That `steps` fetches R from a nearer cache was not
tested apart: at 6.8 MB R is larger than a core's L2 cache under both levels.
""",
    "answer_measured": """
Measured on {date} with torch {torch} on {machine}. {runs} The model gives {least_of} to {most_of}
of the measured time over the {rungs} rows of one core.
""",
    "answer_post_said": """
The post says "more than 2x"; its two figures are {post_ratio} times apart: {tensorflow_ms} ms and
{cudnn_ms} ms per training step, a gap of {gap} ms. If nothing overlaps, gradients of weights are
{gradients_ms} ms of the gap and weights {weights_ms} ms, together {bytes_ms} ms or {bytes_share}.
Launches are {launches_ms} ms, intermediate results {rest_ms} ms. The same arithmetic accounts for
{cudnn_model} of cuDNN's own {cudnn_ms} ms and for {tensorflow_model} of TensorFlow's
{tensorflow_ms}: a model that leaves so much of both totals open can be wrong about their
difference too.
""",
    "answer_floors": """
The row `steps` contains what the compiled kernels need at least inside their launches, barriers
included: {forward_us} us per step forward and {backward_us} us backward, {large_ms} ms for {T}
steps of {L} layers. R stays in shared memory. Two layers do not fit on the chip, so `layers`
launches them in turn, as `steps` does.
""",
}


def told(name: str) -> str:
    """Return a sentence's paragraphs with the figures in them."""
    text = SENTENCES[name].strip()
    figures = figures_of_sentences() if "{" in text else {}
    return "\n".join(wrapped(part.format(**figures)) for part in text.split("\n\n"))


@cache
def figures_of_sentences() -> dict[str, Any]:
    """Return the figures of all sentences, from the ladder, the post and compiled kernels."""
    return of_ladder() | of_parts() | of_post() | of_kernels()


def of_ladder() -> dict[str, Any]:
    """Return the figures of medium on one core and of tiny on two, and of their runs."""
    medium, tiny = climbed(), climbed("tiny", 2)
    first, last = medium[0], medium[-1]
    gain = {fuse(row): factor for row, factor in zip(medium[1:], gains(medium), strict=True)}
    small = {fuse(row): factor for row, factor in zip(tiny[1:], gains(tiny), strict=True)}
    every = [row for case in sizes() for row in climbed(case)]
    errors = [predicted(row) / row.median for row in every]
    return {
        "off_measured": ms(first.median - last.median),
        "off": digits(1e3 * (predicted(first) - predicted(last))),
        "gradients_off": digits(1e3 * gradients_off(medium)),
        "whole": f"{speedup(first, last).value:.2f}", "hoisted": f"{gain['hoisted'].value:.2f}",
        "steps": str(gain["steps"]), "machine": machine(first),
        "pointwise": str(gain["pointwise"]).replace("no difference seen", "nothing that we saw"),
        **{f"tiny_{level}": str(factor) for level, factor in small.items()},
        "date": first.date[:10], "torch": first.versions["torch"], "runs": runs(every),
        "least_of": f"{min(errors):.2f}", "most_of": f"{max(errors):.2f}", "rungs": len(errors),
    }  # fmt: skip


def of_parts() -> dict[str, Any]:
    """Return the parts of the recurrent products at medium."""
    by = by_contender(results("parts"), case="medium")
    calls, packing, once = (by[how].median for how in ("calls", "packing", "once"))
    return {"calls_ms": ms(calls), "call_ms": ms(calls - packing), "once_ms": ms(once),
        "packing_ms": ms(packing - once)}  # fmt: skip


def gradients_off(of: Sequence[Row]) -> float:
    """Return the model's seconds of gradients that the last rung of a ladder does not take."""
    return of[0].predicted["gradients"] - of[-1].predicted["gradients"]


def runs(of: Sequence[Row]) -> str:
    """Return each run's cases, its commit and what the machine could do in it, in sentences."""
    by_run: dict[tuple, list[Row]] = {}
    for row in of:
        by_run.setdefault((row.commit, *row.limits.values()), []).append(row)
    sentences = []
    for (commit, *_), rungs_of_run in by_run.items():
        limits = rungs_of_run[0].limits
        cases = listed(list(dict.fromkeys(row.case for row in rungs_of_run)))
        sentences.append(
            f"In the run of {cases} (commit {commit}) the products of one core reached"
            f" {limits['flops'] / 1e9:.0f} GF/s, a copy read and wrote"
            f" {limits['bandwidth'] / 1e9:.1f} GB/s in all, and a launch cost"
            f" {1e6 * limits['launch']:.1f} us."
        )
    return " ".join(sentences)


def of_post() -> dict[str, Any]:
    """Return the figures of the post's card, by arithmetic."""
    took, (loop, cudnn) = model.POST_SECONDS, model.POST_WORDS
    moving = between("weights", "gradients of weights")
    return {
        "post_ratio": f"{model.POST_WORDS[cudnn] / model.POST_WORDS[loop]:.2f}",
        "gap": f"{1e3 * gap():.1f}", "bytes_ms": span(moving), "bytes_share": shares(moving),
        "gradients_ms": span(between("gradients of weights")),
        "weights_ms": span(between("weights")), "launches_ms": span(between("launches")),
        "rest_ms": span(between("intermediate results")),
        "cudnn_ms": f"{1e3 * took[cudnn]:.1f}",
        "cudnn_model": span(model.post_span(post(), cudnn)),
        "tensorflow_ms": f"{1e3 * took[loop]:.1f}",
        "tensorflow_model": span(model.post_span(post(), loop)),
    }  # fmt: skip


def floors() -> tuple[float, float]:
    """Return the least microseconds of a step inside large's launches on an H100, both passes."""
    found = {row["plan"]["direction"]: row["cost"]["floor_us"] for row in tool(KERNELS)["rows"]}
    return found["forward"], found["backward"]


def of_kernels() -> dict[str, Any]:
    """Return what a step inside a launch takes on an H100 at least, from the compiled kernels."""
    T, _, _, _, L = model.LARGE
    forward, backward = floors()
    return {
        "T": T, "L": L, "forward_us": f"{forward:.2f}", "backward_us": f"{backward:.2f}",
        "large_ms": f"{T * L * (forward + backward) / 1e3:.2f}",
    }  # fmt: skip


def moved(row: Row) -> float:
    """Return the bytes of weights and their gradients, read and written, of a training step."""
    return model.moved(counts(row), "weights", "gradients")


def worth(of: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return the factors of levels that gained 5% at least, and the levels of no such gain."""
    most, least = [], []
    for row, gain in zip(of[1:], gains(of), strict=True):
        seen = gain.clear and gain.value >= 1.05
        (most if seen else least).append(f"`{fuse(row)}`")
        if seen:
            most[-1] += f" for {gain.value:.2f}x"
    return most, least


def accounts(most: Sequence[str]) -> str:
    """Return what each level gained, as `worth` has it: "`hoisted` accounts for 1.78x"."""
    first, *others = most
    return listed([first.replace(" for ", " accounts for "), *others])


def headline(frame: pd.DataFrame) -> list[Row]:
    """Return the ladder that the answer is of: medium in float32 on one core, or what there is."""
    found = groups(frame)
    key = ("medium", "float32", 1)
    return rungs(found[key if key in found else next(iter(found))])


def sentence(frame: pd.DataFrame) -> str:
    """Return the answer in one sentence."""
    of = headline(frame)
    (most, _), first, last = worth(of), of[0], of[-1]
    gained = f" ({accounts(most)})" if most else ""
    return (
        f"**On {place(first)} a fused LSTM takes {ms(last.median)} ms forward and backward at"
        f" {first.case}, {first.dtype}, where a step loop takes {ms(first.median)}:"
        f" {speedup(first, last).text} as fast{gained}. Its {launches(last)} operators read and"
        f" write {megabytes(moved(last))} MB of weights and their gradients, where those of the"
        f" loop, {launches(first)}, move {megabytes(moved(first))} MB; what an operator reads again"
        " inside is not counted.**"
    )


# --- tables ---


def ladder_table(of: Sequence[Row]) -> str:
    """Return the rungs of a group: what each moves, its time by the model and measured."""
    body, gained = [], ["", *(gain.text for gain in gains(of))]
    for row, gain in zip(of, gained, strict=True):
        moves = [megabytes(model.moved(counts(row), kind)) for kind in KINDS]
        times = f"{ms(predicted(row))} / {ms(row.median)}"
        body.append([NAMES[fuse(row)], launches(row), *moves, times, gain])
    header = (where(of[0]), "launches", "MB: weights", "their gradients", "the rest",
        "ms: model / measured", "times as fast as the row above")  # fmt: skip
    return markdown(header, body)


def ladders(frame: pd.DataFrame) -> str:
    """Return what every ladder comes to, and the answer's rung by rung."""
    texts = (
        markdown(("level", "what it removes"), FUSED.values()),
        ladder_table(headline(frame)), told("answer_layers"), "All ladders:", everywhere(frame),
        "PyTorch's own loop and nn.LSTM, in the same rounds:", beside(frame),
    )  # fmt: skip
    return "\n\n".join(text.strip() for text in texts)


def everywhere(frame: pd.DataFrame) -> str:
    """Return every group's factors: what each level gains there."""
    body = []
    for records in groups(frame).values():
        of = rungs(records)
        gained = [str(gain) if gain.clear else "-" for gain in gains(of)]
        body.append([where(of[0]), f"{ms(of[0].median)} → {ms(of[-1].median)}",
            " · ".join(gained), speedup(of[0], of[-1]).text])  # fmt: skip
    header = ("case", "ms: loop → all", "pointwise · hoisted · steps · layers", "in all")
    return markdown(header, body)


def beside(frame: pd.DataFrame) -> str:
    """Return the loop as PyTorch ships it and nn.LSTM beside the ladder's two ends."""
    body = []
    for records in groups(frame).values():
        of, shipped = rungs(records), records.get(ladder.TORCH_LOOP)
        cells = [
            ms(r.median) if r else "the same" for r in (of[0], shipped, of[-1], records[ladder.NN])
        ]
        body.append([where(of[0], of[0].dtype), *cells])
    return markdown(("ms", "loop, ours", "loop, torch.mm", "all fused", "nn.LSTM"), body)


def amount(term: model.Term, who: str) -> str:
    """Return how much a system does of a term."""
    unit, scale = {"flop": (" GFLOP", 1e9), "bytes": (" GB", 1e9), "launches": ("", 1)}[term.kind]
    low, high = (f"{n / scale:,.0f}" if n >= 9.5 * scale else f"{n / scale:.2g}" for n in
        term.amounts[who])  # fmt: skip
    return (low if low == high else f"{low} to {high}") + unit


def parts_table() -> str:
    """Return the seconds of the recurrent products: a call a step, inside of it, packed once."""
    body = []
    for case in each(results("parts"), "case"):
        by = by_contender(results("parts"), case=case)
        times = [ms(by[how].median) for how in ("calls", "packing", "once")]
        body.append([f"{case}, H={by['once'].H}", *times, ms(by["once"].peak)])
    header = ("ms of all steps", "a call a step, which packs R", "the same, inside the calls",
        "packed once, one call", "at the CPU's peak")  # fmt: skip
    return markdown(header, body)


def post_table() -> str:
    """Return the chain of arithmetic for the post's two steps, term by term."""
    systems, body = list(model.POST_WORDS), []
    for term in post():
        cells = [(amount(term, who), span(model.term_seconds(term, who))) for who in systems]
        body.append([term.name, *cells[0], *cells[1], term.source])
    sums = [span(model.post_span(post(), who)) for who in systems]
    took = [f"{1e3 * model.POST_SECONDS[who]:.1f}" for who in systems]
    left = [span(unexplained(who)) for who in systems]
    by = "all overlapped at the least, nothing at the most"
    body.append(["the model's step", "", sums[0], "", sums[1], by])
    body.append(
        ["the post's step", "", took[0], "", took[1], "words per second, T B words per step"]
    )
    body.append(["**not explained**", "", f"**{left[0]}**", "", f"**{left[1]}**", ""])
    header = "training step of large, float32", "TensorFlow's loop", "ms", "cuDNN", "ms", "from"
    return markdown(header, body)


def on_h100() -> dict[str, tuple[float, float, float, float]]:
    """Return level -> the model's ms of large's LSTM on an H100, bfloat16.

    Of products at the peak, of bytes, of launches, and inside the launches of `steps`.
    """
    found, limits = {}, model.H100
    T, _, _, _, L = model.LARGE
    for row in climbed("large"):
        seconds = limits.seconds(counts(row))
        # A layer's weights and a step's results stay in L2, where they are read from at its rate.
        for kind in KINDS:  # which were counted in float32
            seconds[kind] *= 0.5 if kind == "gradients" else 0.5 * limits.bandwidth / model.H100_L2
        inside = 0.0
        if fuse(row) == "steps":  # a third of the products is R's, inside the launches
            inside = 1e-6 * T * L * sum(floors())
            seconds["products"] *= 2 / 3
        moving = sum(seconds[kind] for kind in KINDS)
        parts = seconds["products"], moving, seconds["launches"], inside
        found[fuse(row)] = tuple(1e3 * part for part in parts)
    return found


def h100_table() -> str:
    """Return the model's milliseconds of large's LSTM on an H100, bfloat16."""
    body = [
        [NAMES[level], *(f"{ms:.2f}" for ms in (*parts, sum(parts)))]
        for level, parts in on_h100().items()
    ]
    header = ("products at the peak", "bytes", "launches", "inside the launches", "sum")
    return markdown(("ms, large, bfloat16, by arithmetic", *header), body)


# --- figures ---

OWNERS = {"a loop": figures.GREY, "ours": figures.GREEN, "nn.LSTM": figures.BLUE}


def owner(label: str) -> str:
    """Return the key of OWNERS for a contender's label."""
    if label in ("loop", ladder.TORCH_LOOP):
        return "a loop"
    return "nn.LSTM" if label == ladder.NN else "ours"


def climb(case: str, threads: int) -> list[Bar]:
    """Return the bars of a ladder, and nn.LSTM's."""
    of = climbed(case, threads)
    bars = []
    for row, gain in zip(of, [None, *gains(of)], strict=True):
        note = f"{ms(row.median)} ms" + (f", {gain}" if gain and gain.clear else "")
        bars.append(Bar(NAMES[fuse(row)], {owner(row.contender): 1e3 * row.median}, note))
    library = groups(results("ladder"))[case, "float32", threads][ladder.NN]
    bars.append(Bar("nn.LSTM", {"nn.LSTM": 1e3 * library.median}, f"{ms(library.median)} ms"))
    return bars


def ladders_figure() -> figures.Figure:
    """Draw two ladders side by side: where launches and steps cost, and where bytes do."""
    medium = climb("medium", 1)
    hoisted = next(n for n, bar in enumerate(medium) if bar.name == NAMES["hoisted"])
    off = 1e3 * gradients_off(climbed())
    note = f"{medium[hoisted].note}\nhatched, by the model: {off:.0f} ms,\ngradients no longer"
    note += " added up 35 times"
    medium[hoisted] = medium[hoisted]._replace(saved=off, note=note)
    panels = {
        "H = 64, T = 100, B = 4, two cores": climb("tiny", 2),
        "H = 650, T = 35, B = 20, one core": medium,
    }
    title = "Where the weights fit in a cache each fusion pays; where they do not, hoisting does"
    return figures.beside(panels, title, "ms of forward and backward (shorter is better)", OWNERS)


def post_figure() -> figures.Figure:
    """Draw how TensorFlow's step becomes cuDNN's, by arithmetic, and what is not explained."""
    took, (_, cudnn) = model.POST_SECONDS, model.POST_WORDS
    steps = [
        (term.name, [1e3 * seconds for seconds in model.terms_between([term])])
        for term in post()
        if any(model.terms_between([term]))
    ]
    steps.sort(key=lambda step: -sum(step[1]))
    unit = "milliseconds per training step (GTX 1080, by arithmetic)"
    ends = [(f"{who}\n(the post)", 1e3 * seconds) for who, seconds in took.items()]
    title = "By arithmetic, gradients and weights are half to four fifths of the gap\n"
    title += "(bars: middle of the range; lines: the range)"
    least = 1e3 * model.post_span(post(), cudnn).low
    return figures.waterfall(ends[0], steps, ends[1], "not explained", unit, title, least)


def words_figure() -> figures.Figure:
    """Draw medium's training speed in five programs, each with its factor over TensorFlow's."""
    of = doc_tables.trained(results("post"), "medium")
    first, stock = of[doc_tables.FIRST][0], of[doc_tables.STOCK][0]
    bars = []
    for label, says in WORDS.items():
        row = of[label][0]
        kind = "nn.LSTM" if "cudnn" in label else "ours" if "native" in label else "a loop"
        speed = row.tokens / row.median
        factor = "" if row is first else f", {speedup(first, row)}"
        bars.append(Bar(says, {kind: speed}, f"{speed:,.0f}{factor}"))
    ratio = model.POST_WORDS[model.CUDNN] / model.POST_WORDS[model.LOOP]
    title = f"nn.LSTM trains {speedup(first, stock)} as fast as TensorFlow's loop here"
    title += f"\n(the post, on a GTX 1080: {ratio:.2f}x)"
    unit = "words per second of training, medium (longer is better)"
    return figures.bars({title: bars}, unit, OWNERS)


WORDS = {  # of the post's table: label -> what stands at its bar
    "tensorflow": "TensorFlow, loop",
    "stock-loop-none": "PyTorch, loop",
    "stock-cudnn": "PyTorch, nn.LSTM",
    "stock-native-steps": "PyTorch, our layer",
    "native-layers": "our layer,\nloss and update",
}


BLOCKS: dict[str, Callable[[], str]] = {name: partial(told, name) for name in SENTENCES} | {
    "answer_medium": lambda: ladder_table(climbed()),
    "answer_tiny": lambda: ladder_table(climbed("tiny", 2)),
    "answer_everywhere": lambda: everywhere(results("ladder")),
    "answer_beside": lambda: beside(results("ladder")),
    "answer_parts": parts_table,
    "answer_post": post_table,
    "answer_h100": h100_table,
}
FIGURES: dict[str, Callable[[], figures.Figure]] = {
    "ladders.svg": ladders_figure, "post-card.svg": post_figure, "answer.svg": words_figure,
}  # fmt: skip
