"""A model of a training step's LSTM: what it moves, computes and launches, and the time of that.

    seconds = FLOP / peak + bytes / bandwidth + launches * cost of one

Nothing overlaps and nothing that a launch keeps on chip costs anything: the two errors have
opposite signs. Bytes are counted where a launch reads or writes them, in three kinds: weights,
gradients of weights, and all else, intermediate results. `traffic` counts a run; the formulas for
weights and their gradients are in `weight_bytes`, and tests/bench/test_model.py compares the two.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. W [4H, I], R [4H, H].
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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
POST_WORDS = {"TensorFlow's loop": 3800, "PyTorch with cuDNN": 7400}  # a second, large, GTX 1080
LARGE = Shape(35, 20, 1500, 1500, 2)


class Span(NamedTuple):
    """Seconds, from the smallest that an assumption allows to the largest."""

    low: float
    high: float


def rest_of_the_step(shape: Shape, limits: Limits, size: int = 4) -> Span:
    """Return the seconds of what is not the LSTM: softmax layer, embedding, clipping, update.

    Products at the peak; the softmax layer's weights read twice and their gradient written; logits
    passed over 6 to 10 times; each parameter read and written 6 times by clipping and update.
    """
    T, B, I, H, L = shape
    softmax = H * V
    parameters = I * V + softmax + sum(4 * H * ((I if n == 0 else H) + H) for n in range(L))
    flop = 3 * 2 * T * B * softmax / limits.flops
    moved = [3 * softmax + passes * T * B * V + 6 * parameters for passes in (6, 10)]
    return Span(*(flop + size * numbers / limits.bandwidth for numbers in moved))


def post_step(
    loop: Counts, hoisted: Counts, limits: Limits = GTX_1080
) -> dict[str, dict[str, Span]]:
    """Return where the post's two systems spent a step, by the model: who -> kind -> seconds.

    `loop` and `hoisted` are counts of large in float32: the loop's at "none" for TensorFlow, which
    sums a weight's gradients in one sum of all (low) or as each is made (high), as its graph likes;
    for cuDNN, which is hoisted, reads R at every step (its STANDARD algorithm) and fuses a cell's
    pointwise work, those at "hoisted", with two launches a step each way. A launch costs 2 to 10 us
    and overlaps with nothing.
    """
    rest = rest_of_the_step(LARGE, limits)
    T, _, _, _, L = LARGE
    cudnn = {**hoisted, "launches": 4 * T * L + 5 * L}
    steps = {}
    for who, of in (("TensorFlow's loop", loop), ("PyTorch with cuDNN", cudnn)):
        seconds = limits.seconds(of)
        gradients = Span(seconds["gradients"], seconds["gradients"])
        if of is loop:
            w = of["gradients_written"] / (2 * LARGE.T - 1)  # of all layers, once
            one_sum = w * (LARGE.T + LARGE.T + 1)  # written step by step, read once, written once
            gradients = Span(one_sum / limits.bandwidth, seconds["gradients"])
        steps[who] = {
            "products at the peak": Span(seconds["products"], seconds["products"]),
            "softmax, clipping, update": rest,
            "weights": Span(seconds["weights"], seconds["weights"]),
            "gradients of weights": gradients,
            "intermediate results": Span(seconds["intermediates"], seconds["intermediates"]),
            "launches": Span(of["launches"] * 2e-6, of["launches"] * 10e-6),
        }
    return steps


POST_SECONDS = {who: LARGE.tokens / words for who, words in POST_WORDS.items()}  # of a step


def explained(steps: dict[str, dict[str, Span]]) -> dict[str, Span]:
    """Return, kind by kind, how many seconds more the loop takes: the same assumption in both."""
    loop, cudnn = steps.values()
    return {
        kind: Span(*(a - b for a, b in zip(loop[kind], cudnn[kind], strict=True))) for kind in loop
    }
