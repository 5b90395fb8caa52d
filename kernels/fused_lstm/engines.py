"""The table of engines: every way to run a recurrent layer, and the one place that picks one.

An engine is a module with three functions:

    missing(device) -> str | None    why it cannot run on `device`, and what to do; None if it can
    describe(device) -> str          what runs there, for a log line
    run(spec, x, h0, c0, weights, seed, batch_sizes, not_reset, states) -> (y, h_n, c_n, ...)
        as the operator lstm of fused_lstm.ops. spec: a fused_lstm.spec.Spec, complete. seed [1]
        int64, None where it draws nothing. batch_sizes, not_reset: as in fused_lstm.varlen. states:
        whether the state after every step is wanted too, as fused_lstm.reference.run gives it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from types import ModuleType
from typing import NamedTuple, TypeVar

import torch

from .spec import CELLS, PLAIN, Spec


class Engine(NamedTuple):
    module: str  # imported on first use: importing fused_lstm does not import triton
    fuses: tuple[str, ...]  # the levels it offers, lowest first; empty where it decides itself
    cells: dict[str, tuple[str, ...]]  # cell -> the options of it that it has
    plain: tuple[str, ...] = ()  # levels that have nn.LSTM's cell alone, and coupled gates
    usual: str | None = None  # the level that None is; where it is None too, the highest

    @property
    def default(self) -> str | None:
        """Return the level that None is."""
        return self.usual or (self.fuses[-1] if self.fuses else None)

    def has(self, cell: str, option: str | None, fuse: str | None = None) -> bool:
        """Return whether it has a cell, or an option of one, at a level; None is `default`."""
        if fuse in self.plain:
            return cell == "lstm" and option in (None, "coupled")
        return cell in self.cells and (option is None or option in self.cells[cell])

    def runs(self, spec: Spec, fuse: str | None = None) -> bool:
        """Return whether it has a cell with all its options at a level."""
        return all(self.has(spec.cell, option, fuse) for option in (None, *spec.options))


FUSED = ("pointwise", "hoisted", "steps", "layers")
STEP_BY_STEP = ("pointwise", "hoisted")  # a launch for each step of nn.LSTM's cell
EVERY = {name: cell.options for name, cell in CELLS.items()}

ENGINES = {
    "loop": Engine("fused_lstm.loop", ("none", "hoisted"), EVERY, ("hoisted",), "none"),
    "compile": Engine("fused_lstm.compiled", (), EVERY),
    "cudnn": Engine(
        "fused_lstm.cudnn", (),
        {"lstm": ("coupled",), "gru": (), "rnn_tanh": (), "rnn_relu": ()},
    ),
    "triton": Engine(
        "fused_lstm.triton", FUSED,
        {
            "lstm": EVERY["lstm"], "gru": ("num_heads",), "rnn_tanh": EVERY["rnn_tanh"],
            "rnn_relu": EVERY["rnn_relu"], "slstm": EVERY["slstm"],
        },
        STEP_BY_STEP,
    ),
    "native": Engine(
        "fused_lstm.native", FUSED, EVERY, STEP_BY_STEP
    ),
}  # fmt: skip


Function = TypeVar("Function", bound=Callable)


def constant_while_tracing(function: Function) -> Function:
    """torch.compiler.assume_constant_result, less its import of torch._dynamo (and of triton)."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def in_a_graph() -> bool:
    """Return whether a graph is being made: its operators go through torch's dispatcher."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@constant_while_tracing
def can_run(name: str, device: torch.device) -> bool:
    """Return whether an engine runs on a device."""
    return (LOADED.get(name) or engine_module(name)).missing(device) is None


LOADED: dict[str, ModuleType] = {}  # a plain dict, which torch.compile can look into


def engine_module(name: str) -> ModuleType:
    """Return the module behind an engine's name, imported on first use."""
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
        raise ValueError(f"device: got {device!r}; expected such as 'cpu' or 'cuda'") from error


def check_engine(name: str, fuse: str | None, spec: Spec = PLAIN) -> None:
    """Raise ValueError where an engine, a level, a cell or an option of it is not in the table."""
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"engine: got {name!r}; expected 'auto' or one of {', '.join(ENGINES)}")
    levels = FUSED if name == "auto" else ENGINES[name].fuses
    if fuse is not None and fuse not in levels:
        usual = "" if name == "auto" else f" for {ENGINES[name].default!r}"
        offer = f"one of {', '.join(levels)}, or None{usual}" if levels else "None"
        raise ValueError(f"fuse: got {fuse!r}; expected {offer}, for engine {name!r}")
    for option in (None, *spec.options):
        having = [e for e, engine in ENGINES.items() if engine.has(spec.cell, option)]
        tried = [name]
        if name == "auto":
            tried = [engine for engine in having if fuse in (None, *ENGINES[engine].fuses)]
        if any(ENGINES[engine].has(spec.cell, option, fuse) for engine in tried):
            continue
        which = f"fuse={fuse!r}" if name in ("auto", *having) else f"engine={name!r}"
        offer = ", ".join(map(repr, having))
        what = option or "cell"
        value = spec.cell if option is None else getattr(spec, option)
        raise ValueError(
            f"{what}: got {value!r} with {which}, which does not have it; expected engine {offer}"
            " or 'auto'"
        )


@constant_while_tracing
def resolve(
    name: str, fuse: str | None, device: torch.device, spec: Spec = PLAIN
) -> tuple[str, str | None]:
    """Return the engine and level that run on `device`: "auto" and None replaced by names.

    Raises:
        ValueError: unknown engine or level, or one without such a cell.
        RuntimeError: the engine cannot run on this device; says why and what to do.
    """
    return _resolve(name, fuse, device, spec)


@lru_cache
def _resolve(
    name: str, fuse: str | None, device: torch.device, spec: Spec
) -> tuple[str, str | None]:
    check_engine(name, fuse, spec)
    if name == "auto":
        name = _automatic(fuse, device, spec)
        check_engine(name, fuse, spec)
    why = engine_module(name).missing(device)
    if why is not None:
        raise RuntimeError(f"engine {name!r} cannot run on {str(device)!r}: {why}")
    return name, fuse or ENGINES[name].default


def _automatic(fuse: str | None, device: torch.device, spec: Spec) -> str:
    fused = "native" if device.type == "cpu" else "triton"
    # A level was asked for: then only an engine that has it will do, and its error if it cannot.
    if fuse is not None:
        return fused
    has_cudnn = ENGINES["cudnn"].runs(spec)
    if fused == "triton":
        return "cudnn" if has_cudnn else where_cudnn_cannot(device, spec)[0]
    instead, why = "cudnn" if has_cudnn else "loop", engine_module(fused).missing(device)
    if why is not None:
        _warn_that_it_is_missing(TORCHS[spec.cell] if has_cudnn else "a step loop", why)
        return instead
    # On macOS a team of native is one thread, and nobody has timed Arm.
    slow = has_cudnn and sys.platform == "darwin"
    return fused if ENGINES[fused].runs(spec) and not slow else instead


@constant_while_tracing
def where_cudnn_cannot(device: torch.device, spec: Spec = PLAIN) -> tuple[str, str | None]:
    """Return the engine and level that "auto" takes for what nn.LSTM does not have.

    On a GPU that is triton, whose kernels no GPU has run yet: until results of one are committed,
    "auto" takes cuDNN, which is known to work, wherever it can, and else says so once.
    """
    triton = ENGINES["triton"]
    has_triton = device.type != "cpu" and engine_module("triton").missing(device) is None
    if has_triton and triton.runs(spec):
        _warn_that_no_gpu_has_run_it()
        return "triton", triton.default
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
    warnings.warn(
        f"engine='auto' takes {instead} on the CPU; native cannot run: {why}", stacklevel=2
    )


TORCHS = {"lstm": "nn.LSTM", "gru": "nn.GRU", "rnn_tanh": "nn.RNN", "rnn_relu": "nn.RNN"}
