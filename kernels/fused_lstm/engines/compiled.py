"""Engine `compile`: the step loop under torch.compile, as the post tried TensorFlow's under XLA."""

from __future__ import annotations

import shutil
from functools import cache

import torch
from torch import Tensor

from ..call.record import Call
from ..reference import ladder


def missing(device: torch.device) -> str | None:
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return "torch.compile needs a C++ compiler on a CPU; install g++ or clang++"
    return None


def describe(device: torch.device) -> str:
    return "the step loop under torch.compile; the first call of each shape compiles"


@cache
def _compiled():
    # fullgraph: code that it cannot compile is an error, not a silent return to the loop.
    return torch.compile(ladder.run, dynamic=False, fullgraph=True)


def run(call: Call) -> tuple[Tensor, ...]:
    """Run a call, as in fused_lstm.call.choose."""
    if torch.compiler.is_compiling():  # the loop becomes part of that graph
        return ladder.run(call)
    # Every shape is compiled anew; torch.compile would give up after 8 of them.
    with torch._dynamo.config.patch(recompile_limit=256):
        return _compiled()(call)
