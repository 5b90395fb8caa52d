"""The table of engines, and the choice of one for a call.

An engine is a module with three functions:

    missing(device) -> str | None    why it cannot run on `device` and what to do, or None
    describe(device) -> str          what runs on `device`, for a log line
    run(spec, x, h0, c0, weights, seed, batch_sizes, not_reset, states) -> (y, h_n, c_n, ...)
        the operator `lstm` of fused_lstm.ops. spec: a complete fused_lstm.spec.Spec. seed: [1]
        int64, or None where no mask is drawn. batch_sizes, not_reset: as in fused_lstm.varlen.
        states: whether to return the state after every step too, as fused_lstm.reference.run does.
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
    module: str  # relative; imported on first use: `import fused_lstm` does not import triton
    fuses: tuple[str, ...]  # its levels, lowest first; empty where it has no choice
    cells: dict[str, tuple[str, ...]]  # its cells -> the options it has for each
    plain: tuple[str, ...] = ()  # levels with nn.LSTM's cell, coupled gates or not, and no other
    usual: str | None = None  # the level of fuse=None; None here means the highest

    @property
    def default(self) -> str | None:
        """The level that fuse=None selects."""
        return self.usual or (self.fuses[-1] if self.fuses else None)

    def has(self, cell: str, option: str | None, fuse: str | None = None) -> bool:
        """Return whether it has a cell, or one of a cell's options, at a level."""
        if fuse in self.plain:
            return cell == "lstm" and option in (None, "coupled")
        return cell in self.cells and (option is None or option in self.cells[cell])

    def runs(self, spec: Spec, fuse: str | None = None) -> bool:
        """Return whether it has a Spec's cell with all its options at a level."""
        return all(self.has(spec.cell, option, fuse) for option in (None, *spec.options))


FUSED = ("pointwise", "hoisted", "steps", "layers")
STEP_BY_STEP = ("pointwise", "hoisted")  # a launch for each step of nn.LSTM's cell
EVERY = {name: cell.options for name, cell in CELLS.items()}

ENGINES = {
    "loop": Engine(".loop", ("none", "hoisted"), EVERY, ("hoisted",), "none"),
    "compile": Engine(".compiled", (), EVERY),
    "cudnn": Engine(
        ".cudnn", (),
        {"lstm": ("coupled",), "gru": (), "rnn_tanh": (), "rnn_relu": ()},
    ),
    "triton": Engine(".triton", FUSED, EVERY, STEP_BY_STEP),
    "native": Engine(".native", FUSED, EVERY, STEP_BY_STEP),
}  # fmt: skip


# Custom cells: name -> what makes one ready for an engine and returns why it cannot be, or None.
PREPARE: dict[str, Callable[[str, Spec], str | None]] = {}


def add_cell(
    name: str,
    options: tuple[str, ...],
    prepare: Callable[[str, Spec], str | None],
) -> None:
    """Add a custom cell, with its options, to the engines that run it. prepare: see PREPARE."""
    EVERY[name], PREPARE[name] = options, prepare


def why_no_cell(engine: str, spec: Spec) -> str | None:
    """Return why an engine cannot have a Spec's cell here, or None; it has it from then on."""
    prepare = PREPARE.get(spec.cell)
    return None if prepare is None else prepare(engine, spec)


Function = TypeVar("Function", bound=Callable)


def constant_while_tracing(function: Function) -> Function:
    """Mark a function as torch.compiler.assume_constant_result does, without importing Dynamo."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def in_a_graph() -> bool:
    """Return whether torch.compile or torch.jit.trace is tracing."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@constant_while_tracing
def can_run(name: str, device: torch.device) -> bool:
    """Return whether an engine runs on a device."""
    return (LOADED.get(name) or engine_module(name)).missing(device) is None


LOADED: dict[str, ModuleType] = {}  # a plain dict, which torch.compile can trace


def engine_module(name: str) -> ModuleType:
    """Return the module behind an engine's name, imported on first use."""
    if name not in LOADED:
        LOADED[name] = importlib.import_module(ENGINES[name].module, __package__)
    return LOADED[name]


def available_engines(device: torch.device | str = "cpu") -> dict[str, str | None]:
    """Return each engine -> None if it runs on a device, else why not and what to do.

    Args:
        device: a torch.device, or the name of one such as "cpu" or "cuda:1".

    Raises:
        ValueError: `device` names no device.
    """
    device = as_device(device)
    return {name: engine_module(name).missing(device) for name in ENGINES}


def describe_engine(name: str, device: torch.device | str = "cpu") -> str:
    """Describe what an engine (or "auto") runs on `device`, for a log line."""
    device = as_device(device)
    name, _ = resolve(name, None, device)
    return engine_module(name).describe(device)


def as_device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device: got {device!r}; expected a name such as 'cpu' or 'cuda'"
        ) from error


def check_engine(name: str, fuse: str | None, spec: Spec = PLAIN) -> None:
    """Raise ValueError unless an engine has a level and, at it, a Spec's cell and options."""
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
    """Return the engine and the level that run on `device`, in place of "auto" and None.

    Raises:
        ValueError: the engine or the level is unknown, or does not have the cell.
        RuntimeError: the engine cannot run on this device; the message says why and what to do.
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
    why = engine_module(name).missing(device) or why_no_cell(name, spec)
    if why is not None:
        raise RuntimeError(f"engine {name!r} cannot run on {str(device)!r}: {why}")
    return name, fuse or ENGINES[name].default


def _automatic(fuse: str | None, device: torch.device, spec: Spec) -> str:
    fused = "native" if device.type == "cpu" else "triton"
    # Only the fused engine has every level; if it cannot run, its error says why.
    if fuse is not None:
        return fused
    has_cudnn = ENGINES["cudnn"].runs(spec)
    if fused == "triton":
        return "cudnn" if has_cudnn else where_cudnn_cannot(device, spec)[0]
    instead = "cudnn" if has_cudnn else "loop"
    why = engine_module(fused).missing(device) or why_no_cell(fused, spec)
    if why is not None:
        _warn_that_it_is_missing(TORCHS[spec.cell] if has_cudnn else "a step loop", why)
        return instead
    # On macOS native runs on one thread, and nobody has timed it on Arm.
    slow = has_cudnn and sys.platform == "darwin"
    return fused if ENGINES[fused].runs(spec) and not slow else instead


@constant_while_tracing
def where_cudnn_cannot(device: torch.device, spec: Spec = PLAIN) -> tuple[str, str | None]:
    """Return the engine and level that "auto" takes for a call that nn.LSTM does not have.

    On a GPU that is triton, with a warning: no GPU has run its kernels yet. Until GPU results are
    committed, "auto" takes cuDNN for every call that nn.LSTM has.
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
    """Warn once a process: the result is right, but slower than the C++ engine's."""
    warnings.warn(
        f"engine='auto' takes {instead} on the CPU; native cannot run: {why}", stacklevel=2
    )


# --- where one step does not pay: a call's own cost, and torch's gradients of large weights ---


def step_pays(cell: str, B: int, H: int, trains: bool) -> bool:
    """Return whether one step of a layer is as fast in native as torch.nn's (measured on a Zen 4).

    An RNN's step takes 1.1 to 2 times torch's time. A GRU's with its gradients takes 1.02 to 1.25
    times torch's for few rows, and 1.03 to 1.07 times on one thread for many rows of many units.
    """
    if cell == "gru":
        return not trains or (B >= 8 and (B < 32 or H <= 128))
    return cell == "lstm"


def cell_pays(cell: str, B: int, I: int, H: int, trains: bool) -> bool:
    """Return whether a cell module is as fast in native as torch.nn's (measured on a Zen 4).

    A call's own cost is paid back by large weights, or by many rows on smaller ones.
    """
    each = H * (I + H)
    work = B * CELLS[cell].gates * each
    large = (work >= 2**19 and each >= 2**17) or (work >= 2**22 and B >= 8)
    return large and not trains and cell in ("lstm", "gru")


TORCHS = {"lstm": "nn.LSTM", "gru": "nn.GRU", "rnn_tanh": "nn.RNN", "rnn_relu": "nn.RNN"}
