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
from typing import Any

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
