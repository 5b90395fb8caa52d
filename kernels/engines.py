"""The table of engines: every way to run an LSTM, and the one place that picks among them.

An engine is a module with three functions:

    missing(device) -> str | None    why it cannot run on `device`, and what to do; None if it can
    describe(device) -> str          what runs there, for a log line
    lstm(x, h0, c0, weights, dropout, fuse) -> (y, h_n, c_n)
        x [T, B, I]; h0, c0 [L, B, H]; weights flat as nn.LSTM's `_flat_weights`, with or without
        biases; dropout is what is dropped between layers now (0.0 outside training);
        y [T, B, H]; h_n, c_n [L, B, H].
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch


class Engine(NamedTuple):
    module: str  # imported on first use: importing kernels imports neither triton nor C++
    fuses: tuple[str, ...]  # the levels it offers, lowest first; empty where it decides itself


FUSED = ("pointwise", "steps", "layers")

ENGINES = {
    "loop": Engine("kernels.loop", ("none",)),
    "compile": Engine("kernels.compiled", ()),
    "cudnn": Engine("kernels.cudnn", ()),
    "triton": Engine("kernels.triton", FUSED),
    "native": Engine("kernels.native", FUSED),
}
