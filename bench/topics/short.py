"""Calls of a few rows on this CPU, one token or a short text: what a trained LSTM does most.

B=1, two layers, no gradients, T=1 and T=16, in float32 and bfloat16: the native engine beside
nn.LSTM and, where they are installed, ONNX Runtime and OpenVINO. Contenders take turns by bursts of
calls, of which the first, which finds another one's weights in the cache, does not count: a text is
generated call by call. GB/s: of the weights that a call cannot do without, those of the input once
and the recurrent ones at every step. The machine's own are those of a sum over as many bytes.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack, closing
from typing import Any

import torch

from .. import peers
from ..alone import SIZES as PRESETS
from ..alone import Local, Shape, make_problem
from ..contenders import BASE, Contender
from ..measure.timing import Timed, timed
from ..peers.remote import Remote
from ..rows import CPU, DEVICE, check, show, take_turns, why_not
from .scaling import RACERS

__all__ = ["DEVICE", "SECONDS", "SIZES", "run", "why_not"]

SIZES, SECONDS = ("medium", "large"), 5.0  # whose widths are taken
LAYERS, STEPS, CALLS = 2, (1, 16), 8  # CALLS of a burst
PEERS = ("onnxruntime", "openvino")
# dtype -> how many times as fast as nn.LSTM it should be at least, and what is aimed at.
GOALS = {torch.float32: (2.0, 2.0), torch.bfloat16: (2.0, 5.0)}


def bytes_of(shape: Shape, dtype: torch.dtype) -> int:
    """Of weights, as the module's text says."""
    inputs = shape.I + (shape.L - 1) * shape.H
    return 4 * shape.H * dtype.itemsize * (inputs + shape.T * shape.L * shape.H)


def burst(call: Timed) -> Timed:
    """The median of some calls in a row, less the first."""
    return lambda: statistics.median([call() for _ in range(1 + CALLS)][1:])


def racing(dtype: torch.dtype) -> list[Contender]:
    """The peers that can run here in a dtype."""
    name = str(dtype).removeprefix("torch.")
    able = (p for p in PEERS if peers.missing(p, CPU) is None and name in peers.PEERS[p].dtypes)
    return [Contender(peer, peer, peer=True) for peer in able]


def measure(shape: Shape, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """Everyone's time for a shape: seconds of the median call of each burst.

    Raises:
        WrongAnswer: an answer is not nn.LSTM's.
    """
    problem, name = make_problem(shape, dtype=dtype), str(dtype).removeprefix("torch.")
    runners: dict[str, Any] = {
        name: Local(contender, problem) for name, contender in RACERS.items()
    }
    with ExitStack() as stack:
        for peer in racing(dtype):
            runners[peer.label] = stack.enter_context(closing(Remote(peer, problem)))
        check(runners)
        cases = {name: burst(runner.timed("inference")) for name, runner in runners.items()}
        about = {"what": name, "shape": str(shape), "goals": {BASE: GOALS[dtype]}}
        return take_turns(cases, seconds, bytes=bytes_of(shape, dtype), **about)


def read_rate(size: int) -> float:
    """Bytes a second of a sum over `size` bytes, again and again."""
    numbers = torch.ones(size // 4)
    return size / statistics.median([timed(numbers.sum, CPU)() for _ in range(20)][1:])


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    widths = [PRESETS[size].H for size in given.sizes]
    shapes = [Shape(T, 1, H, H, LAYERS) for H in widths for T in STEPS]
    cases = [(shape, dtype) for shape in shapes for dtype in GOALS]
    measured = [show(measure(shape, dtype, given.seconds)) for shape, dtype in cases]
    sizes = [bytes_of(shape, dtype) for shape, dtype in cases if shape.T == 1]
    rates = {size: read_rate(size) for size in sizes}
    for size, rate in rates.items():
        print(f"a sum over {size / 1e6:.0f} MB: {rate / 1e9:.0f} GB/s")
    return {"measured": measured, "reads": rates}
