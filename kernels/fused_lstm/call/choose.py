"""The table of engines, and the only decision which of them runs a call.

`choose` gives the engine, its level and the reason, which `explain` prints. Where torch's own code
is as fast, `step_pays` and `cell_pays` say so; where only it can run, `why_torchs` does.

An engine is a module with three functions:

    missing(device) -> str | None    why it cannot run on `device` and what to do, or None
    describe(device) -> str          what runs on `device`, for a log line
    run(call) -> (y, h_n, c_n, ...)  the operator `lstm` of fused_lstm.operator.ops; call: a
                                     fused_lstm.call.record.Call. Where it asks for the state after
                                     every step, that follows, as fused_lstm.reference.run has it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..operator.pullback import is_transformed
from . import door
from .spec import CELLS, PLAIN, Spec

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # of this library's kernels

# --- the table ---


class Engine(NamedTuple):
    module: str  # relative; imported on first use: `import fused_lstm` does not import triton
    fuses: tuple[str, ...]  # its levels, lowest first; empty where it has no choice
    plain: tuple[str, ...] = ()  # levels with nn.LSTM's cell, coupled gates or not, and no other
    usual: str | None = None  # the level of fuse=None; None here means the highest, see `Facts`
    torchs: bool = False  # it has torch.nn's cells alone, and coupled gates

    @property
    def default(self) -> str | None:
        """The level that fuse=None selects."""
        return self.usual or (self.fuses[-1] if self.fuses else None)

    def has(self, cell: str, option: str | None, fuse: str | None = None) -> bool:
        """Return whether it has a cell, or one of a cell's options, at a level."""
        if fuse in self.plain:
            return CELLS[cell].is_lstm and option in (None, "coupled")
        if self.torchs:
            return CELLS[cell].of_torch and option in (None, "coupled")
        return option is None or CELLS[cell].takes(option)

    def runs(self, spec: Spec, fuse: str | None = None) -> bool:
        """Return whether it has a Spec's cell with all its options at a level."""
        return all(self.has(spec.cell, option, fuse) for option in (None, *spec.options))


FUSED = ("pointwise", "hoisted", "steps", "layers")
STEP_BY_STEP = ("pointwise", "hoisted")  # a launch for each step of nn.LSTM's cell
PACKAGE = __name__.rpartition(".call.")[0]  # which may be renamed: see examples/hub
ENGINES = {
    "loop": Engine("reference.ladder", ("none", "hoisted"), ("hoisted",), "none"),
    "compile": Engine("engines.compiled", ()),
    "cudnn": Engine("engines.cudnn", (), torchs=True),
    "triton": Engine("triton", FUSED, STEP_BY_STEP),
    "native": Engine("native", FUSED, STEP_BY_STEP),
}


def why_no_cell(engine: str, spec: Spec) -> str | None:
    """Return why an engine cannot have a Spec's cell here, or None; it has it from then on."""
    kind = CELLS[spec.cell]
    return kind.cell.prepare(engine, spec) if kind.custom else None


Function = TypeVar("Function", bound=Callable)


def constant_while_tracing(function: Function) -> Function:
    """Mark a function as torch.compiler.assume_constant_result does, without importing Dynamo."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def in_a_graph() -> bool:
    """Return whether torch.compile or torch.jit.trace is tracing."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@constant_while_tracing  # torch 2.11's torch.compile takes the function itself to return True
def is_exporting() -> bool:
    """Return whether torch.export is tracing."""
    return torch.compiler.is_exporting()


@constant_while_tracing
def can_run(name: str, device: torch.device) -> bool:
    """Return whether an engine runs on a device."""
    return (LOADED.get(name) or engine_module(name)).missing(device) is None


LOADED: dict[str, ModuleType] = {}  # a plain dict, which torch.compile can trace


def engine_module(name: str) -> ModuleType:
    """Return the module behind an engine's name, imported on first use."""
    if name not in LOADED:
        LOADED[name] = importlib.import_module(f"{PACKAGE}.{ENGINES[name].module}")
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
    return engine_module(choose(name, None, device).engine).describe(device)


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
        offer = f"one of {', '.join(levels)}, or None{usual}, for" if levels else "None with"
        raise ValueError(f"fuse: got {fuse!r}; expected {offer} engine {name!r}")
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


# --- the decision ---


class Choice(NamedTuple):
    """The engine that runs a call."""

    engine: str
    level: str | None  # of the engine's `fuses`
    reason: str


class Facts(NamedTuple):
    """The facts of a call, besides its Spec and device, that the decision depends on."""

    resets: bool = False
    states: bool = False  # whether it returns the state after every step
    packed_in_a_graph: bool = False  # rows of unequal length, traced
    trained_in_a_graph: bool = False  # torch.compile is tracing a call that needs a backward
    slow_step: bool = False  # one step, for which torch's own code is as fast: see `step_pays`
    cell_module: bool = False  # an LSTMCell's, GRUCell's or RNNCell's
    too_wide: bool = False  # to be normalized at once on this GPU: see `is_too_wide`
    hoisted: str | None = None  # why triton's usual level is "hoisted": see fused_lstm.call.run

    @property
    def beyond_torch(self) -> bool:
        """Return whether torch's own layers lack something of the call."""
        return self.resets or self.states or self.packed_in_a_graph


USUAL = Facts()
EMPTY = Choice("loop", "none", "an empty batch needs shapes and zero gradients only")
TORCHS = {"lstm": "nn.LSTM", "gru": "nn.GRU", "rnn_tanh": "nn.RNN", "rnn_relu": "nn.RNN"}


@lru_cache
def choose(
    engine: str,
    fuse: str | None,
    device: torch.device,
    spec: Spec = PLAIN,
    facts: Facts = USUAL,
) -> Choice:
    """Return the engine and the level that run a call, in place of "auto" and None, and why.

    Raises:
        ValueError: the engine or the level is unknown, or does not have the cell, the resets or the
            states of every step.
        RuntimeError: the engine cannot run on this device; the message says why and what to do.
    """
    check_engine(engine, fuse, spec)
    if engine == "auto":
        choice = _automatic(fuse, device, spec, facts)
        check_engine(choice.engine, fuse, spec)
    elif facts.hoisted is not None:
        choice = Choice(engine, "hoisted", facts.hoisted)
    else:
        choice = Choice(engine, fuse or ENGINES[engine].default, "asked for by name")
    name = choice.engine
    why = engine_module(name).missing(device) or why_no_cell(name, spec)
    if why is not None:
        raise RuntimeError(f"engine {name!r} cannot run on {str(device)!r}: {why}")
    if name == "cudnn":
        _check_torch_has(facts)
        if facts.trained_in_a_graph and not facts.packed_in_a_graph:
            # PyTorch would take nn.LSTM apart into a loop over steps, which is no faster and in two
            # cases wrong (torch 2.15): on a CPU, where x needs no gradient, it takes oneDNN's
            # inference, which has no gradients for the weights; and after an ONNX export with
            # dynamic shapes it takes a while_loop whose gradients are wrong.
            return Choice("loop", "none", "torch.compile differentiates nn.LSTM wrongly")
    return choice


def _check_torch_has(facts: Facts) -> None:
    """Check that torch's own layers have what a call asks for."""
    for option, has, got in (
        ("resets", facts.resets, "a tensor"),
        ("return_states", facts.states, "True"),
    ):
        if has:
            raise ValueError(
                f"{option}: got {got} with engine='cudnn', which does not have it; expected engine"
                " 'loop', 'compile', 'triton' or 'native'"
            )


def _automatic(fuse: str | None, device: torch.device, spec: Spec, facts: Facts) -> Choice:
    """Return the choice of engine="auto"."""
    on_cpu = device.type == "cpu"
    if fuse is not None:  # if it cannot run, its error says why
        return Choice("native" if on_cpu else "triton", fuse, "auto's choice for a level")
    torch_has = ENGINES["cudnn"].runs(spec) and not facts.beyond_torch
    if on_cpu:
        return _on_a_cpu(device, spec, facts, torch_has)
    return _on_a_gpu(device, spec, facts, torch_has)


def _on_a_cpu(device: torch.device, spec: Spec, facts: Facts, torch_has: bool) -> Choice:
    instead = ("cudnn", None) if torch_has else ("loop", "none")
    why = engine_module("native").missing(device) or why_no_cell("native", spec)
    if why is not None:
        _warn_that_it_is_missing(TORCHS[spec.cell] if torch_has else "a step loop", why)
        return Choice(*instead, f"native cannot run: {why}")
    if not ENGINES["native"].runs(spec):
        return Choice(*instead, "native does not have the cell")
    if torch_has and sys.platform == "darwin":  # and nobody has timed it on Arm
        return Choice(*instead, "on macOS native runs on one thread")
    slow = (SLOW_CELLS if facts.cell_module else SLOW_STEPS).get(spec.cell)
    if torch_has and facts.slow_step:
        return Choice(*instead, f"torch's own is as fast {slow}")
    but = f"; torch's own {slow}" if slow is not None and spec.is_torchs else ""
    return Choice("native", ENGINES["native"].default, f"auto's choice on a CPU{but}")


def _on_a_gpu(device: torch.device, spec: Spec, facts: Facts, torch_has: bool) -> Choice:
    """Return cudnn for every call that torch has, until GPU results are committed."""
    if torch_has:
        return Choice("cudnn", None, "auto's choice: no GPU has run triton's kernels")
    if facts.too_wide:
        return Choice("loop", "none", "too few programs run at once to normalize so wide a layer")
    triton = ENGINES["triton"]
    if engine_module("triton").missing(device) is None and triton.runs(spec):
        why = why_no_cell("triton", spec)
        if why is not None:
            return Choice("loop", "none", why)
        _warn_that_no_gpu_has_run_it()
        return Choice("triton", triton.default, "auto's choice for what nn.LSTM does not have")
    return Choice("loop", "none", "neither cudnn nor triton can run it")


def is_too_wide(engine: str, fuse: str | None, device: torch.device, spec: Spec, wide: int) -> bool:
    """Return whether engine="auto" has a layer normalization for which a GPU is too small.

    wide: the larger of H and P.
    """
    if not spec.layer_norm or engine != "auto" or fuse is not None or device.type != "cuda":
        return False
    triton = engine_module("triton")
    return triton.missing(device) is None and triton.is_too_wide(spec, device, wide)


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

# Cell of torch.nn -> for which calls torch's own is as fast as native on a CPU, in words; the
# functions decide. In inference none is, where there is a door (call/door.py).
SLOW_STEPS = {
    "gru": "for some training steps of one step",
    "rnn_tanh": "for training steps of one step",
    "rnn_relu": "for training steps of one step",
}
SLOW_CELLS = dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "in training")
# Cells of which one step, and cell modules of which some calls, pay without a door too.
STEPS_THAT_MAY_PAY, CELLS_THAT_MAY_PAY = {"gru"}, {"lstm", "gru"}


def may_be_slow(engine: str, fuse: str | None, device: torch.device) -> bool:
    """Return whether torch's own may run a call of one step, where that is as fast."""
    automatic = engine == "auto" and fuse is None and device.type == "cpu"
    return automatic and not in_a_graph() and not is_transformed()


def step_pays(cell: str, B: int, H: int, trains: bool) -> bool:
    """Return whether one step of a layer is as fast in native as torch.nn's.

    With a door, each is in inference. Trained, an RNN's takes up to 1.24 times torch's time on a
    Zen 4, and 1.35 on an Emerald Rapids; a GRU's above H = 128 up to 1.25 times. Without a door an
    RNN's takes 1.1 to 2 times in inference too, and a GRU's trained one 1.02 to 1.25 times for
    fewer than 8 rows (a Zen 4).
    """
    if cell not in SLOW_STEPS or (door.exists() and not trains):
        return True
    some = not trains or (door.exists() and H <= 128) or (B >= 8 and (B < 32 or H <= 128))
    return some and cell in STEPS_THAT_MAY_PAY


def cell_pays(cell: str, B: int, I: int, H: int, trains: bool) -> bool:
    """Return whether a cell module is as fast in native as torch.nn's.

    With a door, each is in inference: 0.4 to 1.0 times torch's time (an Emerald Rapids). Without
    one, a call's own cost is paid back by large weights, or by many rows on smaller ones (a Zen 4).
    """
    if trains or door.exists():
        return not trains
    each = H * (I + H)
    work = B * CELLS[cell].gates * each
    large = (work >= 2**19 and each >= 2**17) or (work >= 2**22 and B >= 8)
    return large and cell in CELLS_THAT_MAY_PAY


# --- where only torch's own can run: calls of torch.nn's modules, under `install` ---


def why_torchs(spec: Spec, x: Tensor, tensors: Sequence[Tensor]) -> str | None:
    """Return why a call runs torch's own code; None where it runs this library's.

    Args:
        x: the call's input, time first.
        tensors: the states and weights.
    """
    if is_transformed():
        return "torch.func or forward mode differentiates it"
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a TorchDispatchMode is on, which must see torch's operators"
    for tensor in (x, *tensors):
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return f"a tensor of it is a {type(tensor).__name__}"
    if x.layout is not torch.strided or x.is_nested or x.numel() == 0:
        return "its input is not dense, or is empty"
    return why_never(spec, x.device, x.dtype)


@lru_cache
def why_never(spec: Spec, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why a module on a device, in a dtype, always runs torch's own code, or None."""
    if dtype not in DTYPES:
        return f"it is in {dtype}"
    choice = choose("auto", None, device, spec)
    if choice.engine == "cudnn":
        return f"engine 'auto' is torch's own on {device}: {choice.reason}"
    return None
