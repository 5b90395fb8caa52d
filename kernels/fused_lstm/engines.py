"""The table of engines: every way to run an LSTM, and the one place that picks among them.

An engine is a module with three functions:

    missing(device) -> str | None    why it cannot run on `device`, and what to do; None if it can
    describe(device) -> str          what runs there, for a log line
    lstm(x, h0, c0, weights, dropout, fuse, directions, batch_sizes, keep) -> (y, h_n, c_n)
        as the operator lstm of fused_lstm.ops; dropout is what is dropped between layers now (0.0
        outside training). An engine that has other cells than nn.LSTM's takes two arguments more
        for them: the fused_lstm.cell.Cell, and a seed [1] int64, None outside training.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from types import ModuleType
from typing import NamedTuple, TypeVar

import torch

from .cell import OPTIONS


class Engine(NamedTuple):
    module: str  # imported on first use: importing fused_lstm does not import triton
    fuses: tuple[str, ...]  # the levels it offers, lowest first; empty where it decides itself
    cell: tuple[str, ...] = ()  # the options of a cell that it has
    plain: tuple[str, ...] = ()  # levels that have nn.LSTM's cell alone, and coupled gates
    usual: str | None = None  # the level that None is; where it is None too, the highest
    spreads: bool = False  # whether it takes weights of three gates; else `Cell.four_gates`

    def has(self, option: str, fuse: str | None) -> bool:
        """Whether a cell's option is there at a level; None is `default`."""
        return option in self.cell and (option == "coupled" or fuse not in self.plain)

    @property
    def default(self) -> str | None:
        """The level that None is."""
        return self.usual or (self.fuses[-1] if self.fuses else None)


FUSED = ("pointwise", "hoisted", "steps", "layers")
STEP_BY_STEP = ("pointwise", "hoisted")  # a launch for each step of nn.LSTM's cell

ENGINES = {
    "loop": Engine("fused_lstm.loop", ("none", "hoisted"), OPTIONS, ("hoisted",), "none"),
    "compile": Engine("fused_lstm.compiled", (), OPTIONS),
    "cudnn": Engine("fused_lstm.cudnn", (), ("coupled", "gru"), spreads=True),
    "triton": Engine("fused_lstm.triton", FUSED, OPTIONS, STEP_BY_STEP),
    "native": Engine("fused_lstm.native", FUSED, OPTIONS, STEP_BY_STEP, spreads=True),
}


Function = TypeVar("Function", bound=Callable)


def constant_while_tracing(function: Function) -> Function:
    """torch.compiler.assume_constant_result, less its import of torch._dynamo (and of triton)."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


@constant_while_tracing
def can_run(name: str, device: torch.device) -> bool:
    """Whether an engine runs on a device."""
    return engine_module(name).missing(device) is None


LOADED: dict[str, ModuleType] = {}  # a plain dict, which torch.compile can look into


def engine_module(name: str) -> ModuleType:
    """The module behind an engine's name, imported on first use."""
    if name not in LOADED:
        LOADED[name] = importlib.import_module(ENGINES[name].module)
    return LOADED[name]


def available_engines(device: torch.device | str = "cpu") -> dict[str, str | None]:
    """What runs on a device: engine -> None, or why it cannot run there and what to do.

    Args:
        device: a torch.device, or its name such as "cpu" or "cuda:1".

    Raises:
        ValueError: `device` is no device's name.
    """
    device = as_device(device)
    return {name: engine_module(name).missing(device) for name in ENGINES}


def describe_engine(name: str, device: torch.device | str = "cpu") -> str:
    """What runs on `device` under an engine's name (or "auto"), in words for a log line."""
    device = as_device(device)
    name, _ = resolve(name, None, device)
    return engine_module(name).describe(device)


def as_device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: got {device!r}, should be such as 'cpu' or 'cuda'") from error


def check_engine(name: str, fuse: str | None, options: Iterable[str] = ()) -> None:
    """Raise ValueError where an engine, a level or a cell's option is not in the table.

    Args:
        options: names in `OPTIONS`.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"engine: got {name!r}, should be 'auto' or one of {', '.join(ENGINES)}")
    levels = FUSED if name == "auto" else ENGINES[name].fuses
    if fuse is not None and fuse not in levels:
        usual = "" if name == "auto" else f" for {ENGINES[name].default!r}"
        offer = f"one of {', '.join(levels)}, or None{usual}" if levels else "None"
        raise ValueError(f"fuse: got {fuse!r}, should be {offer}, for engine {name!r}")
    for option in options:
        having = [engine for engine in ENGINES if option in ENGINES[engine].cell]
        tried = [name]
        if name == "auto":
            tried = [engine for engine in having if fuse in (None, *ENGINES[engine].fuses)]
        if any(ENGINES[engine].has(option, fuse) for engine in tried):
            continue
        which = f"fuse={fuse!r}" if name in ("auto", *having) else f"engine={name!r}"
        offer = ", ".join(map(repr, having))
        raise ValueError(f"{option}: {which} does not have it, should be engine {offer} or 'auto'")


@constant_while_tracing
def resolve(
    name: str, fuse: str | None, device: torch.device, options: tuple[str, ...] = ()
) -> tuple[str, str | None]:
    """The engine and fuse level that run on `device`: "auto" and None replaced by names.

    Args:
        options: of the cell, names in `OPTIONS`.

    Raises:
        ValueError: unknown engine or level, or one without such a cell.
        RuntimeError: the engine cannot run on this device; says why and what to do.
    """
    return _resolve(name, fuse, device, options)


@lru_cache
def _resolve(
    name: str, fuse: str | None, device: torch.device, options: tuple[str, ...]
) -> tuple[str, str | None]:
    check_engine(name, fuse, options)
    if name == "auto":
        name = _automatic(fuse, device, options)
        check_engine(name, fuse, options)
    why = engine_module(name).missing(device)
    if why is not None:
        raise RuntimeError(f"engine {name!r} cannot run on {str(device)!r}: {why}")
    return name, fuse or ENGINES[name].default


def _automatic(fuse: str | None, device: torch.device, options: tuple[str, ...]) -> str:
    own = "native" if device.type == "cpu" else "triton"
    if (
        fuse is not None
    ):  # then only an engine that has the level will do, and its error if it cannot
        return own
    has_cell = set(options) <= set(ENGINES["cudnn"].cell)
    why = engine_module(own).missing(device)
    if own == "native":
        if why is None:
            return own
        instead = "cudnn" if has_cell else "loop"
        _warn_that_it_is_missing(instead, why)
        return instead
    return "cudnn" if has_cell else where_cudnn_cannot(device)[0]


@constant_while_tracing
def where_cudnn_cannot(device: torch.device) -> tuple[str, str | None]:
    """The engine and level that "auto" takes for what nn.LSTM does not have.

    On a GPU that is triton, whose kernels no GPU has run yet: until results of one are committed,
    "auto" takes cuDNN, which is known to work, wherever it can, and else says so once.
    """
    if device.type != "cpu" and engine_module("triton").missing(device) is None:
        _warn_that_no_gpu_has_run_it()
        return "triton", ENGINES["triton"].default
    return "loop", "none"


@cache
def _warn_that_no_gpu_has_run_it() -> None:
    warnings.warn(
        "engine='auto' takes triton for what nn.LSTM does not have; no GPU has run these kernels"
        " yet: engine='loop' is slower, and plain PyTorch",
        stacklevel=2,
    )


@cache
def _warn_that_it_is_missing(instead: str, why: str) -> None:
    """Once a process: that is right, but not what a user of this library came for."""
    what = {"cudnn": "nn.LSTM", "loop": "a step loop"}[instead]
    warnings.warn(f"engine='auto' takes {what} on the CPU; native cannot run: {why}", stacklevel=2)
