"""The answer in words, tables and figures, from the ladder's results.

Sentences with a measured number are made here too, so that no number is written by hand.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import pandas as pd

from . import figures, ladder, model
from .core import Ratio, speedup
from .figures import Bar
from .model import KINDS, Counts, Span
from .tables import Row, by_contender, cpu, digits, markdown, results, rows, tool

FUSED = {
    "loop": ("step loop", "nothing: one launch per operation, three products per step and layer"),
    "pointwise": ("+ pointwise", "the launches between a cell's pointwise operations"),
    "hoisted": ("+ hoisted", "from the loop: products that do not depend on the previous step, and"
        " the sums of weight gradients"),
    "steps": ("+ steps", "all other launches of a layer, and packing R at each step"),
    "layers": ("+ layers", "the launches of every layer except one"),
}  # fmt: skip
NAMES = {fuse: name for fuse, (name, _) in FUSED.items()}


# --- the ladder's records ---


def groups(frame: pd.DataFrame) -> dict[tuple[str, str, int], dict[str, Row]]:
    """Return the ladders: case, dtype and threads -> contender -> record."""
    keys = dict.fromkeys((r.case, r.dtype, r.threads) for r in rows(frame, suite="ladder"))
    return {
        (case, dtype, n): by_contender(frame, suite="ladder", case=case, dtype=dtype, threads=n)
        for case, dtype, n in keys
    }


def rungs(records: dict[str, Row], suffix: str = "") -> list[Row]:
    """Return the five rungs of a group, from the loop upwards."""
    labels = (label + suffix for label in ("loop", *ladder.LEVELS))
    return [records[label] for label in labels if label in records]


@cache
def climbed(case: str = "medium", suffix: str = "") -> list[Row]:
    """Return the committed rungs of a case in float32, on one thread."""
    return rungs(groups(results("ladder"))[case, "float32", 1], suffix)


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
    """Return a rung's case, numbers and place in words: "medium, AVX2, 1 core"."""
    isa = "AVX2" if row.isa == "avx2" else "AVX-512" if row.isa.startswith("avx512") else row.isa
    numbers = numbers or (row.dtype if row.dtype != "float32" else isa)
    cores = f"{row.threads} core{'s' * (row.threads > 1)}"
    return ", ".join(
        filter(None, (row.case, numbers, cores if row.device == "cpu" else row.device))
    )


def machine(row: Row) -> str:
    """Return the machine's name in a sentence."""
    name = row.machine.partition(" (")[0].removesuffix(" Processor")
    zen = cpu(row.machine)
    return f"an {name}" + (f" ({zen})" if zen.startswith("Zen") else "")


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
    """Return what part of the gap between the post's systems a span of seconds is, in words."""
    low, high = (seconds / gap() for seconds in of)
    least = "half" if 0.45 <= low < 0.55 else f"{low:.0%}"
    return f"about {least}, perhaps all" if high >= 0.95 else f"about {least}, perhaps {high:.0%}"


# --- sentences: templates, and the figures in them ---

FUSIONS = """
The post names three fusions: pointwise operations, steps and layers. We measure them as four
levels, because fusing steps has two parts: `hoisted` takes the products that do not depend on the
previous step out of the loop, which any library can do, and `steps` runs the loop in one launch and
keeps the recurrent weights in place.
"""
SENTENCES = {
    "answer_fusions": FUSIONS,
    "answer": """
**Why is a fused LSTM faster?** It moves fewer bytes. A step loop reads all weights at every time
step, and its backward writes the gradient of all weights at every step and adds it to a sum. A
fused LSTM computes these products once for all steps (`hoisted`) and keeps the recurrent weights
packed in cache (`steps`). The operators of a training step at medium then read and write {fused_gb}
GB of weights and gradients instead of {loop_gb}. Within an operator the recurrent weights are still
read at each step, from a cache.

**How much faster on this CPU?** {whole} times ({low} to {high}) on one core of {machine}: {loop_ms}
ms become {fused_ms}. {accounts}; no gain of 5% or more was seen from {least}.

**Is that why cuDNN was twice as fast on the GTX 1080?** By arithmetic it explains {bytes_share}, of
the difference; nobody measured inside a step. The post's figures are {post_ratio} times apart,
{gap} ms per training step: {bytes_ms} ms of these are weights and their gradients, {launches_ms}
are launches. The arithmetic leaves {cudnn_rest} of cuDNN's own {cudnn_ms} ms unexplained.
""",
    "answer_race": """
A line shows the quartiles of the rounds. `+ layers` does not differ from `+ steps`: its speed is
{layers_small} times that of `+ steps` at small and {layers_medium} times at medium (95% intervals).
""",
    "answer_measured": """
Measured on {date} with torch {torch} on {machine}, one thread, commit {commit}; other work took at
most {foreign} of the machine. In that run the products of one core reached {gflops} GF/s, a copy
read and wrote {bandwidth} GB/s in all, and a launch cost {launch} us. The model gives {least_of} to
{most_of} of the measured time over the {rungs} rows of {sizes}.
""",
    "answer_post_said": """
The post says "more than 2x"; its two figures are {post_ratio} times apart. The model does not
explain {cudnn_rest} of cuDNN's {cudnn_ms} ms, nor {tensorflow_rest} of
TensorFlow's {tensorflow_ms}. Under the same assumptions for both it gives {all_ms} of the {gap} ms
between them: {all_share}. If nothing overlaps, {gradients_ms} ms of these are gradients of weights,
{weights_ms} are weights, {launches_ms} are launches and {rest_ms} are intermediate results.
""",
    "answer_card": """
**On a GPU (arithmetic; no GPU has run these kernels).** On the post's GTX 1080, reading weights and
summing their gradients explain {bytes_share} of the difference between the two systems: {bytes_ms}
of {gap} ms. Launches explain {launches_ms} ms. The arithmetic leaves a large part of cuDNN's own
time unexplained ([below](#the-posts-card-by-arithmetic)). An H100 has {h100_bandwidth} times the
memory bandwidth, so launches are {h100_launches} of a step loop's time there, and `pointwise` gains
more. cuDNN's usual algorithm has the level `hoisted`: it reads the recurrent weights at every step,
and `steps` does not.
""",
    "answer_isa": """
AVX-512 gains over AVX2 at medium, with the same code in the same rounds: {isa_gains}. PyTorch's own
loop takes {shipped_ms} ms, and our loop on AVX2 {old_ms}: {shipped}. Both launch the same
operators. PyTorch's has another product kernel, and allocates new memory for gradients.
""",
    "answer_floors": """
At H = 1500, where R stays in shared memory, a step takes {forward_us} us forward and {backward_us}
us backward: {large_ms} ms for {T} steps of {L} layers, without the products before and after. At
H = 650 a step takes {one_us} us for one layer and {wave_us} us for two at once: {one_all} us for
{one_steps} steps in turn, {wave_all} us for {wave_steps} common steps. At H = 1500 two layers do
not fit on the chip, so `layers` launches them in turn.
""",
}


def told(name: str) -> str:
    """Return a sentence's paragraphs with the figures in them."""
    paragraphs = SENTENCES[name].strip().split("\n\n")
    return "\n".join(wrapped(text.format(**figures_of_sentences())) for text in paragraphs)


@cache
def figures_of_sentences() -> dict[str, Any]:
    """Return the figures of all sentences, from the ladder, the post and compiled kernels."""
    return of_ladder() | of_post() | of_kernels() | of_race()


def of_race() -> dict[str, Any]:
    """Return what layers gain over steps in whole training steps, as intervals."""
    found = {}
    for case in ("small", "medium"):
        by = by_contender(results("post"), case=case, mode="train")
        gain = speedup(by["stock-native-steps"], by["stock-native-layers"])
        found[f"layers_{case}"] = f"{gain.low:.2f} to {gain.high:.2f}"
    return found


def of_ladder() -> dict[str, Any]:
    """Return the figures of medium on one core, and of its run."""
    of, old, frame = climbed(), climbed(suffix=", avx2"), results("ladder")
    first, last = of[0], of[-1]
    whole, (most, least), limits = speedup(first, last), worth(of), first.limits
    errors = [predicted(row) / row.median for case in sizes() for row in climbed(case)]
    pairs = zip(of, old, strict=True)
    shipped = groups(frame)["medium", "float32", 1][ladder.TORCH_LOOP]
    return {
        "fused_gb": f"{moved(last) / 1e9:.2f}", "loop_gb": f"{moved(first) / 1e9:.1f}",
        "whole": f"{whole.value:.2f}", "low": f"{whole.low:.2f}", "high": f"{whole.high:.2f}",
        "machine": machine(first), "loop_ms": ms(first.median), "fused_ms": ms(last.median),
        "accounts": accounts(most), "least": listed(least),
        "date": first.date[:10], "torch": first.versions["torch"],
        "commit": first.commit.rstrip("+"),
        "foreign": f"{max(row.foreign for row in rows(frame)):.0%}",
        "gflops": f"{limits['flops'] / 1e9:.0f}", "bandwidth": f"{limits['bandwidth'] / 1e9:.1f}",
        "launch": f"{1e6 * limits['launch']:.1f}", "least_of": f"{min(errors):.2f}",
        "most_of": f"{max(errors):.2f}", "rungs": len(errors), "sizes": listed(sizes()),
        "isa_gains": listed([f"{NAMES[fuse(row)]} {speedup(b, row).text}" for row, b in pairs]),
        "shipped_ms": ms(shipped.median), "old_ms": ms(old[0].median),
        "shipped": speedup(shipped, old[0]).text,
    }  # fmt: skip


def of_post() -> dict[str, Any]:
    """Return the figures of the post's card, by arithmetic."""
    took, (loop, cudnn) = model.POST_SECONDS, model.POST_WORDS
    moving = between("weights", "gradients of weights")
    return {
        "post_ratio": f"{model.POST_WORDS[cudnn] / model.POST_WORDS[loop]:.2f}",
        "gap": f"{1e3 * gap():.1f}", "bytes_ms": span(moving), "bytes_share": shares(moving),
        "all_ms": span(model.between(post())), "all_share": shares(model.between(post())),
        "gradients_ms": span(between("gradients of weights")),
        "weights_ms": span(between("weights")), "launches_ms": span(between("launches")),
        "rest_ms": span(between("intermediate results")),
        "cudnn_ms": f"{1e3 * took[cudnn]:.1f}", "cudnn_rest": span(unexplained(cudnn)),
        "h100_bandwidth": f"{model.H100.bandwidth / model.GTX_1080.bandwidth:.1f}",
        "h100_launches": f"{on_h100()['loop'][2] / sum(on_h100()['loop']):.0%}",
        "tensorflow_ms": f"{1e3 * took[loop]:.1f}", "tensorflow_rest": span(unexplained(loop)),
    }  # fmt: skip


def of_kernels() -> dict[str, Any]:
    """Return what a step inside a launch takes on an H100 at least, from the compiled kernels."""
    found = {
        (level, row["plan"]["hidden"], row["plan"]["direction"]): row["cost"]["floor_us"]
        for level in ("steps", "layers")
        for row in tool(f"inspect-{level}.json")
        if row["device"] == "H100" and row["plan"]["dtype"] == "bf16"
    }
    T, _, _, _, L = model.LARGE
    large = [found["steps", 1500, way] for way in ("forward", "backward")]
    one, wave = (found[level, 650, "forward"] for level in ("steps", "layers"))
    return {
        "T": T, "L": L, "forward_us": f"{large[0]:.2f}", "backward_us": f"{large[1]:.2f}",
        "large_ms": f"{T * L * sum(large) / 1e3:.2f}", "one_us": f"{one:.2f}",
        "wave_us": f"{wave:.2f}", "one_all": f"{T * L * one:.0f}", "one_steps": T * L,
        "wave_all": f"{(T + L - 1) * wave:.0f}", "wave_steps": T + L - 1,
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
    """Return the rungs of a group."""
    body, gained = [], ["", *(gain.text for gain in gains(of))]
    for row, gain in zip(of, gained, strict=True):
        times = f"{ms(predicted(row))} / {ms(row.median)}"
        body.append([NAMES[fuse(row)], launches(row), megabytes(moved(row)), times, gain])
    header = ("fused so far", "launches", "weights and their gradients, MB", "ms: model / measured",
        "times as fast as the row above (95%)")  # fmt: skip
    return markdown(header, body)


def ladders(frame: pd.DataFrame) -> str:
    """Return what every ladder comes to, and the answer's rung by rung."""
    of = headline(frame)
    texts = (
        markdown(("level", "what it removes"), FUSED.values()),
        f"{where(of[0])}:", ladder_table(of), "All ladders:", everywhere(frame),
        "PyTorch's own loop and nn.LSTM, in the same rounds:", beside(frame),
    )  # fmt: skip
    return "\n\n".join(text.strip() for text in texts)


def counts_table() -> str:
    """Return what each rung of medium moves, read and written."""
    body = []
    for row in climbed():
        of = counts(row)
        sizes = [f"{megabytes(of[f'{k}_read'])} / {megabytes(of[f'{k}_written'])}" for k in KINDS]
        body.append([NAMES[fuse(row)], launches(row), *sizes])
    header = ("MB per training step, read / written", "launches", "weights", "gradients of weights",
        "intermediate results")  # fmt: skip
    return markdown(header, body)


def everywhere(frame: pd.DataFrame) -> str:
    """Return every group's factors: what each fusion is worth there."""
    body = []
    for records in groups(frame).values():
        for of in filter(None, (rungs(records), rungs(records, ", avx2"))):
            gained = [str(gain) if gain.clear else "-" for gain in gains(of)]
            body.append([where(of[0]), f"{ms(of[0].median)} → {ms(of[-1].median)}",
                " · ".join(gained), speedup(of[0], of[-1]).text])  # fmt: skip
    header = (
        "case",
        "ms: loop → all fused",
        "pointwise · hoisted · steps · layers",
        "in all (95%)",
    )
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


def on_h100() -> dict[str, tuple[float, float, float]]:
    """Return level -> the model's ms of large's LSTM on an H100, bfloat16.

    Of products, of bytes and of launches.
    """
    found, limits = {}, model.H100
    for row in climbed("large"):
        seconds = limits.seconds(counts(row))
        # A layer's weights and a step's results stay in L2, where they are read from at its rate.
        for kind in KINDS:  # which were counted in float32
            seconds[kind] *= 0.5 if kind == "gradients" else 0.5 * limits.bandwidth / model.H100_L2
        moving = sum(seconds[kind] for kind in KINDS)
        parts = seconds["products"], moving, seconds["launches"]
        found[fuse(row)] = tuple(1e3 * part for part in parts)
    return found


def h100_table() -> str:
    """Return the model's milliseconds of large's LSTM on an H100, bfloat16."""
    body = [
        [NAMES[level], *(f"{ms:.2f}" for ms in (*parts, sum(parts)))]
        for level, parts in on_h100().items()
    ]
    header = ("products at the peak", "bytes", "launches", "sum")
    return markdown(("ms, large, bfloat16, by arithmetic", *header), body)


# --- figures ---

PARTS = {  # kind of the model -> what it is called, and its colour
    "products": ("products at the peak", figures.BLUE),
    "weights": ("weights", figures.ORANGE),
    "gradients": ("gradients of weights", figures.AMBER),
    "intermediates": ("intermediate results", figures.SKY),
    "launches": ("launches", figures.PINK),
}


UNIT = "milliseconds of the LSTM per training step (shorter is better)"
COLOURS = {"measured": figures.INK} | {f"model: {n}": colour for n, colour in PARTS.values()}


def cause_figure() -> figures.Figure:
    """Draw medium's levels, measured and by the model, and beside them what causes the gains."""
    of, bars = climbed(), []
    for row, gain in zip(of, [None, *gains(of)], strict=True):
        like = "\n(as cuDNN)" if fuse(row) == "hoisted" else ""
        note = f"{ms(row.median)} ms" + (f", {gain.text}" if gain else "")
        bars.append(Bar(NAMES[fuse(row)] + like, {"measured": 1e3 * row.median}, note))
        parts = {f"model: {PARTS[k][0]}": 1e3 * s for k, s in row.predicted.items()}
        moving = row.predicted["weights"] + row.predicted["gradients"]
        bars.append(Bar("", parts, f"weights and their gradients: {1e3 * moving:.0f} ms"))
    library = groups(results("ladder"))["medium", "float32", 1][ladder.NN]
    note = f"{ms(library.median)} ms"
    bars.append(Bar("nn.LSTM", {"measured": 1e3 * library.median}, note))
    title = "A step loop reads all weights and adds up their gradients\n"
    title += "at every step. A fused LSTM does this once."
    return figures.bars({title: bars}, UNIT, COLOURS)


def ladder_figure(by_title: Mapping[str, Sequence[Row]]) -> figures.Figure:
    """Draw each level's milliseconds and, under them, the model's, in parts."""
    panels = {}
    for title, climb in by_title.items():
        panels[title] = []
        for row, gain in zip(climb, [None, *gains(climb)], strict=True):
            gained = "" if gain is None else f", {gain}"
            note = f"{ms(row.median)} ms{gained}"
            model_of = {f"model: {PARTS[k][0]}": 1e3 * s for k, s in row.predicted.items()}
            panels[title] += [Bar(NAMES[fuse(row)], {"measured": 1e3 * row.median}, note),
                Bar("", model_of)]  # fmt: skip
    return figures.bars(panels, UNIT, COLOURS)


def post_figure() -> figures.Figure:
    """Draw how TensorFlow's step becomes cuDNN's, by arithmetic, and what is not explained."""
    took = model.POST_SECONDS
    steps = [
        (term.name, [1e3 * seconds for seconds in model.terms_between([term])])
        for term in post()
        if any(model.terms_between([term]))
    ]
    steps.sort(key=lambda step: -sum(step[1]))
    unit = "milliseconds per training step (GTX 1080, by arithmetic)"
    ends = [(f"{who}\n(the post)", 1e3 * seconds) for who, seconds in took.items()]
    return figures.waterfall(ends[0], steps, ends[1], "difference\nnot explained", unit)


BLOCKS: dict[str, Callable[[], str]] = {name: partial(told, name) for name in SENTENCES} | {
    "answer_ladder": lambda: ladder_table(climbed()),
    "answer_counts": counts_table,
    "answer_everywhere": lambda: everywhere(results("ladder")),
    "answer_beside": lambda: beside(results("ladder")),
    "answer_post": post_table,
    "answer_h100": h100_table,
}
FIGURES: dict[str, Callable[[], figures.Figure]] = {
    "ladder-medium.svg": cause_figure,
    "ladders.svg": lambda: ladder_figure({case: climbed(case) for case in sizes()}),
    "post-card.svg": post_figure,
}
