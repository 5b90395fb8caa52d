"""The post's card and an H100, by arithmetic alone: what a training step does there, and its time.

It takes the counts of large at each level from bench/results/ladder.jsonl. The two cards have not
been measured here: the rates are those of data sheets, and assumptions stand beside them.

T, B, I, H, L, V: time steps, batch, input size, hidden size, layers, words. W [4H, I], R [4H, H].
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from .cases import Shape
from .model import KINDS, Counts, Limits, moved
from .tables import RESULTS, markdown, pick, read

# A launch as measured by many on such machines, and not by this project.
GTX_1080 = Limits(8.87e12, 320e9, 5e-6)  # float32: 2560 cores x 2 x 1.733 GHz
H100 = Limits(989e12, 3.35e12, 2e-6)  # bfloat16, dense; a launch that depends on one before it
H100_L2 = 5.5e12  # bytes a second: weights of one layer, 36 MB, stay in its 50 MB of L2
KERNELS = "inspect-h100.json"  # large's launches at `steps`, compiled for an H100 in bfloat16

V = 10_000
LARGE = Shape(35, 20, 1500, 1500, 2)
LOOP, CUDNN = "TensorFlow's loop", "PyTorch with cuDNN"
POST_WORDS = {LOOP: 3800, CUDNN: 7400}  # a second, GTX 1080
POST_SECONDS = {who: LARGE.tokens / words for who, words in POST_WORDS.items()}  # of a step
BANDWIDTHS = 0.7, 1.0  # the part of the data sheet's that a kernel reaches
LAUNCHES = 0.0, 10e-6  # seconds of one; 0 where all are hidden behind work on the GPU


class Span(NamedTuple):
    """Two ends of a range, of seconds or of an amount."""

    low: float
    high: float


class Term(NamedTuple):
    """Something that a training step does: how much of it at the least and at the most.

    kind: "flop", "bytes" or "launches".
    """

    name: str
    kind: str
    amounts: dict[str, Span]  # by system
    source: str


def added_up(T: int) -> int:
    """Return how often TensorFlow moves a weight's size to make and sum its gradients of T steps.

    A step writes its gradient. AddN then reads each once, eight at a time: the first sum is of what
    T leaves over eight, and each later one reads and writes the sum so far as well.
    """
    first = T % 8 or 8
    first = 9 if first == 1 else first
    return T + T + 1 + 2 * ((T - first) // 8)


def post_terms(loop: Counts, hoisted: Counts) -> list[Term]:
    """Return what a step of the post's two systems does, large, in float32.

    Args:
        loop, hoisted: counts of large at "none", for TensorFlow, and at "hoisted", for cuDNN, whose
            STANDARD algorithm reads R at every step and fuses a cell's pointwise work.

    cuDNN makes the input product of all steps at once (least), or of two at a time (most), as
    NVIDIA's published LSTM does. Clipping and update read and write each parameter six times;
    logits are read or written six to ten times.
    """
    T, B, I, H, L = LARGE
    softmax, each = H * V, 4 * H * H * L * 4  # numbers; bytes of W, and of R, of all layers
    parameters = I * V + softmax + 2 * each // 4
    logits = [4 * passes * T * B * V for passes in (6, 10)]
    rest = Span(*(4 * (3 * softmax + 6 * parameters) + passes for passes in logits))
    hoisted_weights = moved(hoisted, "weights")
    in_twos = hoisted_weights - 2 * each + 2 * -(-T // 2) * each

    def both(amount: float) -> dict[str, Span]:
        return dict.fromkeys(POST_WORDS, Span(amount, amount))

    def two(of_loop: float, of_cudnn: float, most: float | None = None) -> dict[str, Span]:
        high = of_cudnn if most is None else most
        return {LOOP: Span(of_loop, of_loop), CUDNN: Span(of_cudnn, high)}

    return [
        Term("products of the LSTM", "flop", both(LARGE.flops("step")), "6 T B 4H (I + H) L"),
        Term("products of the softmax layer", "flop", both(6 * T * B * softmax), "6 T B H V"),
        Term(
            "weights", "bytes", two(moved(loop, "weights"), hoisted_weights, in_twos),
            "[W, R] at each step, twice; cuDNN: R at each step, twice, W once or every two steps",
        ),
        Term(
            "gradients of weights", "bytes",
            two(2 * each * added_up(T), moved(hoisted, "gradients")),
            "one per step, summed by AddN eight at a time; cuDNN: written once",
        ),
        Term(
            "intermediate results", "bytes",
            two(moved(loop, "intermediates"), moved(hoisted, "intermediates")), "counted",
        ),
        Term(
            "softmax, clipping, update", "bytes", dict.fromkeys(POST_WORDS, rest),
            "logits 6 to 10 times, parameters 6 times",
        ),
        Term(
            "launches", "launches", two(loop["launches"], 4 * T * L + 5 * L),
            "PyTorch's count of this project's loop, assumed of TensorFlow's; cuDNN: a product and"
            " a kernel per step, forward and backward",
        ),
    ]  # fmt: skip


def seconds_of(kind: str) -> Span:
    """Return the seconds of one FLOP, byte or launch, at the least and the most."""
    if kind == "flop":
        return Span(1 / GTX_1080.flops, 1 / GTX_1080.flops)
    if kind == "launches":
        return Span(*LAUNCHES)
    return Span(*(1 / (part * GTX_1080.bandwidth) for part in reversed(BANDWIDTHS)))


def term_seconds(term: Term, who: str) -> Span:
    """Return a term's seconds at the least and the most."""
    amounts, each = term.amounts[who], seconds_of(term.kind)
    return Span(amounts.low * each.low, amounts.high * each.high)


def post_span(terms: Sequence[Term], who: str) -> Span:
    """Return a step's seconds: memory read entirely behind arithmetic, and not at all."""
    spans = {}
    for kind in ("flop", "bytes", "launches"):
        of_kind = [term_seconds(term, who) for term in terms if term.kind == kind]
        spans[kind] = Span(sum(of.low for of in of_kind), sum(of.high for of in of_kind))
    least = max(spans["flop"].low, spans["bytes"].low) + spans["launches"].low
    return Span(least, sum(span.high for span in spans.values()))


def terms_between(terms: Sequence[Term]) -> Span:
    """Return how many seconds more of these terms the loop takes, where nothing overlaps.

    What is assumed of a byte, of a launch and of an amount holds for both systems.
    """
    more = []
    for ends in itertools.product((0, 1), repeat=3):  # of bytes, of launches, of amounts
        of = dict(zip(("bytes", "launches", "amounts"), ends, strict=True))
        more.append(
            sum(
                (t.amounts[LOOP][of["amounts"]] - t.amounts[CUDNN][of["amounts"]])
                * seconds_of(t.kind)[of.get(t.kind, 0)]
                for t in terms
            )
        )
    return Span(min(more), max(more))


# --- of the committed counts ---


@cache
def large() -> dict[str, Counts]:
    """Return the counts of large at each level."""
    where = {"case": "large", "dtype": "float32", "threads": 1}
    found = {r["contender"]: r for (r,) in pick(read("ladder"), where, [])}
    return {name: found[name] for name in ("loop", "pointwise", "hoisted", "steps")}


def post() -> list[Term]:
    """Return what a step of the post's two systems does."""
    return post_terms(large()["loop"], large()["hoisted"])


def floors() -> tuple[float, float]:
    """Return the least microseconds of a step inside large's launches on an H100, both passes."""
    rows = json.loads((RESULTS / KERNELS).read_text(encoding="utf-8"))["rows"]
    found = {row["plan"]["direction"]: row["cost"]["floor_us"] for row in rows}
    return found["forward"], found["backward"]


def span(of: Span) -> str:
    """Return milliseconds, as a range where there is one."""
    low, high = (f"{1e3 * s:.0f}" if not 0 < 1e3 * s < 9.5 else f"{1e3 * s:.1f}" for s in of)
    return low if low == high else f"{low} to {high}"


def amount(term: Term, who: str) -> str:
    """Return how much a system does of a term."""
    unit, scale = {"flop": (" GFLOP", 1e9), "bytes": (" GB", 1e9), "launches": ("", 1)}[term.kind]
    low, high = (
        f"{n / scale:,.0f}" if n >= 9.5 * scale else f"{n / scale:.2g}" for n in term.amounts[who]
    )
    return (low if low == high else f"{low} to {high}") + unit


def post_table() -> str:
    """Return the chain of arithmetic for the post's two steps, term by term."""
    systems, terms = list(POST_WORDS), post()
    body = []
    for term in terms:
        cells = [(amount(term, who), span(term_seconds(term, who))) for who in systems]
        body.append([term.name, *cells[0], *cells[1], term.source])
    spans = [post_span(terms, who) for who in systems]
    took = [POST_SECONDS[who] for who in systems]
    left = [f"**{span(Span(t - of.high, t - of.low))}**" for t, of in zip(took, spans, strict=True)]
    by = "all overlapped at the least, nothing at the most"
    body.append(["the model's step", "", span(spans[0]), "", span(spans[1]), by])
    body.append(["the post's step", "", f"{1e3 * took[0]:.1f}", "", f"{1e3 * took[1]:.1f}",
        "words per second, T B words per step"])  # fmt: skip
    body.append(["**not explained**", "", left[0], "", left[1], ""])
    header = "training step of large, float32", "TensorFlow's loop", "ms", "cuDNN", "ms", "from"
    return markdown(header, body)


def h100_table() -> str:
    """Return the model's milliseconds of large's LSTM on an H100, bfloat16.

    A layer's weights and a step's results stay in L2, where they are read from at its rate. Under
    `steps` a third of the products is R's, inside the launches.
    """
    T, _, _, _, L = LARGE
    body = []
    for level, counts in large().items():
        seconds, inside = H100.seconds(counts), 0.0
        for kind in KINDS:  # which were counted in float32
            seconds[kind] *= 0.5 if kind == "gradients" else 0.5 * H100.bandwidth / H100_L2
        if level == "steps":
            inside = 1e-6 * T * L * sum(floors())
            seconds["products"] *= 2 / 3
        moving = sum(seconds[kind] for kind in KINDS)
        parts = [1e3 * s for s in (seconds["products"], moving, seconds["launches"], inside)]
        name = "step loop" if level == "loop" else f"+ {level}"
        body.append([name, *(f"{ms:.2f}" for ms in (*parts, sum(parts)))])
    header = ("products at the peak", "bytes", "launches", "inside the launches", "sum")
    return markdown(("ms, large, bfloat16, by arithmetic", *header), body)


def facts() -> dict[str, Any]:
    """Return the arithmetic's facts, by name."""
    terms, (loop, cudnn) = post(), POST_SECONDS.values()

    def between(*names: str) -> Span:
        return terms_between([term for term in terms if term.name in names])

    moving = between("weights", "gradients of weights")
    low, high = (seconds / (loop - cudnn) for seconds in moving)
    T, _, _, _, L = LARGE
    forward, backward = floors()
    return {
        "post_ratio": f"{loop / cudnn:.2f}", "post_gap": f"{1e3 * (loop - cudnn):.1f}",
        "post_bytes": span(moving), "post_bytes_share": f"{low:.0%} to {high:.0%}",
        "post_gradients": span(between("gradients of weights")),
        "post_weights": span(between("weights")), "post_launches": span(between("launches")),
        "post_rest": span(between("intermediate results")),
        "post_cudnn": f"{1e3 * cudnn:.1f}", "post_cudnn_model": span(post_span(terms, CUDNN)),
        "post_loop": f"{1e3 * loop:.1f}", "post_loop_model": span(post_span(terms, LOOP)),
        "h100_forward": f"{forward:.2f}", "h100_backward": f"{backward:.2f}",
        "h100_inside": f"{T * L * (forward + backward) / 1e3:.2f}",
    }  # fmt: skip
