"""A model of a training step's LSTM: what it moves, computes and launches, and the time of that.

    seconds = FLOP / peak + bytes / bandwidth + launches * cost of one

Nothing overlaps and nothing that a launch keeps on chip costs anything: the two errors have
opposite signs. Bytes are counted where a launch reads or writes them, in three kinds: weights,
gradients of weights, and all else, intermediate results. `traffic` counts a run; the formulas for
weights and their gradients are in `weight_bytes`, and tests/bench/test_model.py compares the two.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. W [4H, I], R [4H, H].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fused_lstm import native
from fused_lstm.loops.ladder import launch_seconds, seconds_of, traffic

from . import kernels
from .cases import Shape
from .core import Run

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
    copy = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return Limits(peak, 2 * len(source) / copy, launch_seconds())
