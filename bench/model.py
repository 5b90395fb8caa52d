"""A model of a training step's LSTM: what it moves, computes and launches, and the time of that.

    seconds = FLOP / peak + bytes / bandwidth + launches * cost of one

Nothing overlaps and nothing that a launch keeps on chip costs anything: the two errors have
opposite signs. Bytes are counted where a launch reads or writes them, in three kinds: weights,
gradients of weights, and all else, intermediate results. `traffic` counts a run; the formulas for
weights and their gradients are in `weight_bytes`, and tests/bench/test_model.py compares the two.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. W [4H, I], R [4H, H].
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fused_lstm import native

from . import kernels
from .cases import Shape
from .core import Run

# --- what a call launches and moves ---

NO_WORK = ("empty", "new_empty", "resize_", "set_", "detach", "lift_fresh", "is_same_size",
    "_local_scalar_dense")  # fmt: skip


class Traffic(TorchDispatchMode):
    """Counts launches and the bytes that they read and write.

    A launch is an operator that is neither a view nor an allocation. What stays on chip within a
    launch does not count, which is what fusion is about.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.read, self.written = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if works(function):
            self.launches += 1
            self.read += sum(t.nbytes for t in tensors((args, kwargs)))
            self.written += sum(t.nbytes for t in tensors(result))
        return result


def works(function: Any) -> bool:
    """Return whether an operator does work: it is neither a view nor an allocation."""
    if function._schema.name.partition("::")[2].startswith(NO_WORK):
        return False
    aliases = [r.alias_info for r in function._schema.returns if r.alias_info is not None]
    return not aliases or any(alias.is_write for alias in aliases)


def tensors(values: object) -> list[Tensor]:
    """Return each tensor of a call's arguments or results once."""
    leaves = torch.utils._pytree.tree_leaves(values)
    return list({id(t): t for t in leaves if isinstance(t, Tensor)}.values())


def traffic(work: Run) -> Traffic:
    """Run `work` and return what it launched."""
    with Traffic() as seen:
        work()
    return seen


# --- what a step consists of ---

LOOPS = ("none", "pointwise")  # levels whose weights' gradients are made and summed at every step
KINDS = ("weights", "gradients", "intermediates")  # of bytes; "gradients": of weights
# A forward and a backward of the LSTM: "launches", "flop" of the products, and of each kind bytes
# "KIND_read" and "KIND_written". A record has them under the same names.
Counts = Mapping[str, int]


def moved(counts: Counts, *kinds: str) -> int:
    """Return the bytes of these kinds, read and written."""
    return sum(int(counts[f"{kind}_{way}"]) for kind in kinds for way in ("read", "written"))


def weight_bytes(shape: Shape, fuse: str, size: int) -> dict[str, int]:
    """Return what a step at a level moves of weights, and of their gradients.

    `size` is a number's bytes. A loop joins W and R once a layer and reads them at each step,
    twice; it writes their gradient at each step and adds it to the sum so far, in place. Hoisted, W
    is read twice in all and R at each step, twice. A launch of all steps reads R twice in all.
    """
    T, _, I, H, L = shape
    w = 4 * H * (I + (L - 1) * H) * size  # of all layers
    r = 4 * H * H * L * size
    if fuse in LOOPS:
        return {
            "weights_read": (w + r) * (2 * T + 1), "weights_written": w + r,
            "gradients_read": 2 * (T - 1) * (w + r), "gradients_written": (2 * T - 1) * (w + r),
        }  # fmt: skip
    times = T if fuse == "hoisted" else 1
    return {
        "weights_read": 2 * w + 2 * times * r, "weights_written": 0,
        "gradients_read": 0, "gradients_written": w + r,
    }  # fmt: skip


def counts(work: Run, shape: Shape, fuse: str, size: int) -> dict[str, int]:
    """Return the counts of a step at a level: launches and all bytes seen, weights by formula."""
    seen, weights = traffic(work), weight_bytes(shape, fuse, size)
    read = seen.read - weights["weights_read"] - weights["gradients_read"]
    written = seen.written - weights["weights_written"] - weights["gradients_written"]
    rest = {"intermediates_read": read, "intermediates_written": written}
    return {"launches": seen.launches, "flop": shape.flops("step")} | weights | rest


# --- what a machine can do ---


@dataclass(frozen=True)
class Limits:
    """A machine: its peak, its bandwidth, and what a launch costs."""

    flops: float  # FLOP a second
    bandwidth: float  # bytes a second, read and written
    launch: float  # seconds

    def seconds(self, counts: Counts) -> dict[str, float]:
        """Return where a step's time goes by the model, and so in sum its time."""
        return {
            "products": counts["flop"] / self.flops,
            **{kind: moved(counts, kind) / self.bandwidth for kind in KINDS},
            "launches": counts["launches"] * self.launch,
        }


def measure_limits(dtype: torch.dtype, isa: str = "") -> Limits:
    """Measure this CPU, on the threads that PyTorch is set to.

    The peak is that of the C++ engine's products on registers, the bandwidth that of a copy that
    no cache holds, and a launch is an operator on one number, with its part of autograd's way back.
    """
    if isa:
        native.OPS.use_isa(isa)
    peak = max(2 * kernels.ops().best_product(dtype) for _ in range(100))
    source = torch.zeros(2**27, dtype=torch.int8)
    target = torch.zeros_like(source)
    copy = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return Limits(peak, 2 * len(source) / copy, launch_seconds())


def launch_seconds(length: int = 500) -> float:
    """Return the seconds of a launch: of a chain of operators on one number, there and back."""
    x = torch.zeros(1, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(length):
            y = y.sigmoid()
        y.backward()

    chain()
    return min(_seconds(chain) for _ in range(5)) / (2 * length)


def _seconds(work: Run) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


# Data sheets; a launch as measured by many on such machines, and not by this project.
GTX_1080 = Limits(8.87e12, 320e9, 5e-6)  # float32: 2560 cores x 2 x 1.733 GHz
H100 = Limits(989e12, 3.35e12, 2e-6)  # bfloat16, dense; a launch that depends on one before it
H100_L2 = 5.5e12  # bytes a second: weights of one layer, 36 MB, stay in its 50 MB of L2


# --- the post's card ---

V = 10_000  # words
LARGE = Shape(35, 20, 1500, 1500, 2)
LOOP, CUDNN = "TensorFlow's loop", "PyTorch with cuDNN"
POST_WORDS = {LOOP: 3800, CUDNN: 7400}  # a second, GTX 1080
POST_SECONDS = {who: LARGE.tokens / words for who, words in POST_WORDS.items()}  # of a step
BANDWIDTHS = 0.7, 0.8, 1.0  # the part of the data sheet's that a kernel reaches
LAUNCHES = 0.0, 3e-6, 10e-6  # seconds of one; 0 where all are hidden behind work on the GPU


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


class Assumption(NamedTuple):
    """An assumption of the arithmetic, the same for both systems."""

    bandwidth: float  # one of BANDWIDTHS
    launch: float  # one of LAUNCHES
    overlaps: bool  # whether memory is read and written behind arithmetic
    most: bool  # whether each term is at its most


ASSUMPTIONS = [
    Assumption(*each)
    for each in itertools.product(BANDWIDTHS, LAUNCHES, (False, True), (False, True))
]


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


def term_seconds(term: Term, who: str, limits: Limits = GTX_1080) -> Span:
    """Return a term's seconds at the least and the most of all assumptions."""
    low, high = term.amounts[who]
    if term.kind == "flop":
        return Span(low / limits.flops, high / limits.flops)
    if term.kind == "launches":
        return Span(low * min(LAUNCHES), high * max(LAUNCHES))
    return Span(low / limits.bandwidth, high / (min(BANDWIDTHS) * limits.bandwidth))


def post_seconds(
    terms: Sequence[Term], who: str, assumed: Assumption, limits: Limits = GTX_1080
) -> float:
    """Return a step's seconds by the model."""
    of = dict.fromkeys(("flop", "bytes", "launches"), 0.0)
    for term in terms:
        of[term.kind] += term.amounts[who][assumed.most]
    arithmetic = of["flop"] / limits.flops
    memory = of["bytes"] / (assumed.bandwidth * limits.bandwidth)
    working = max(arithmetic, memory) if assumed.overlaps else arithmetic + memory
    return working + of["launches"] * assumed.launch


def post_span(terms: Sequence[Term], who: str) -> Span:
    """Return a step's seconds at the least and the most of all assumptions."""
    seconds = [post_seconds(terms, who, assumed) for assumed in ASSUMPTIONS]
    return Span(min(seconds), max(seconds))


def between(terms: Sequence[Term]) -> Span:
    """Return how many seconds more the loop takes: the same assumption for both systems."""
    more = [
        post_seconds(terms, LOOP, assumed) - post_seconds(terms, CUDNN, assumed)
        for assumed in ASSUMPTIONS
    ]
    return Span(min(more), max(more))


def terms_between(terms: Sequence[Term], limits: Limits = GTX_1080) -> Span:
    """Return how many seconds more of these terms the loop takes, where nothing overlaps."""
    more = []
    for assumed in ASSUMPTIONS:
        each = {
            "flop": 1 / limits.flops, "launches": assumed.launch,
            "bytes": 1 / (assumed.bandwidth * limits.bandwidth),
        }  # fmt: skip
        amounts = [(t.amounts[LOOP][assumed.most], t.amounts[CUDNN][assumed.most]) for t in terms]
        parts = zip(terms, amounts, strict=True)
        more.append(sum((loop - cudnn) * each[term.kind] for term, (loop, cudnn) in parts))
    return Span(min(more), max(more))
