"""`install`: nn.LSTM, nn.GRU, nn.RNN and their cells run this library's kernels.

A module of torch.nn checks its arguments, lays them out and calls a function of `torch._VF`, such
as `_VF.lstm`. `install` gives torch.nn.modules.rnn functions with the same names and arguments. No
class, attribute, parameter, file or forward changes. A function of this file runs this library's
kernels, or torch's own function where `choose.why_torchs` gives a reason.

T, B, I, H, P: time steps, batch, input size, hidden size, size of h. L, D: layers, directions.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame
from torch.jit._builtins import _register_builtin
from torch.nn.modules import rnn

from ..call import door
from ..call.choose import cell_pays, in_a_graph, step_pays, why_torchs
from ..call.layout import as_step, of_step, time_first
from ..call.record import Call
from ..call.rows import Rows
from ..call.run import run, run_at_the_door, without_autocast
from ..call.spec import CELLS, Spec
from ..operator.pullback import is_differentiated

TORCHS = torch._VF  # which has lstm, gru, rnn_tanh, rnn_relu and their cells
# Functions whose own code in torch is a step loop, in which autocast casts the products only.
STEP_LOOPS, STEP_LOOPS_OF_CELLS = {"gru"}, {"gru", "lstm"}


# --- the functions of torch._VF that torch.nn's modules call ---


@lru_cache
def spec_of(
    cell: str, layers: int, directions: int, bias: bool, projection: bool, dropout: float
) -> Spec:
    """Return the Spec of a module of torch.nn."""
    return Spec(
        cell, layers=layers, directions=directions, bias=bias, projection=projection,
        dropout=dropout,
    )  # fmt: skip


def _layers(cell: str, *arguments: Any) -> tuple[Tensor, ...]:
    """Run `_VF.lstm`, `gru`, `rnn_tanh` or `rnn_relu` of padded or of packed rows.

    Args:
        arguments: of padded rows x [T, B, I] ([B, T, I] with batch_first), hx, weights, bias,
            layers, dropout, training, bidirectional, batch_first; of packed ones x [N, I],
            batch_sizes [T], hx, weights, bias, layers, dropout, training, bidirectional. hx is
            h_0 [L * D, B, P], of an LSTM (h_0, c_0).

    Returns:
        y as x lies, then the last states.
    """
    torchs = getattr(TORCHS, cell)
    if in_a_graph() or calls == 0:  # a graph must run without fused_lstm
        return torchs(*arguments)
    if isinstance(arguments[3], bool):  # of packed rows a list, the weights
        x, hx, weights, bias, layers, dropout, training, bidirectional, batch_first = arguments
        rows, T = None, x.shape[1 if batch_first else 0]
    else:
        x, batch_sizes, hx, weights, bias, layers, dropout, training, bidirectional = arguments
        rows, batch_first, T = Rows(batch_sizes), False, len(batch_sizes)
    h0, c0 = hx if CELLS[cell].has_c else (hx, hx)
    H, P = c0.shape[-1], h0.shape[-1]
    spec = spec_of(cell, layers, 1 + bidirectional, bias, P != H, dropout)
    if rows is None and not torch.is_grad_enabled():
        layer = door.Layer(False, batch_first, spec.has_c, x.shape[-1], len(h0), P, H)
        results = run_at_the_door(spec, "auto", None, training, layer, x, hx, lambda: weights)
        if results is not None:
            y, last = results
            return (y, *last) if spec.has_c else results
    tensors = h0, c0, *weights
    slow = T == 1 and not step_pays(cell, h0.shape[1], H, is_differentiated(x, *tensors))
    if slow or why_torchs(spec, x, tensors) is not None:
        return torchs(*arguments)
    x = time_first(x, batch_first)
    try:
        with _as_torch_casts(x, cell in STEP_LOOPS):
            call = Call(spec, x, h0, c0, weights, rows=rows, hidden_size=H, output_size=P)
            y, *states = run(call, "auto", None, training, None)
    except ValueError:
        if rows is not None:  # torch 2.15 reads past the end of a state that is too small
            raise
        return torchs(*arguments)  # raises torch's own error
    return time_first(y, batch_first), *states[: 1 + spec.has_c]


def _cell(cell: str, x: Tensor, hx: Any, *weights: Tensor) -> Any:
    """Run `_VF.lstm_cell`, `gru_cell`, `rnn_tanh_cell` or `rnn_relu_cell`.

    Args:
        x: [B, I].
        hx: h [B, H], of an LSTM (h, c).
        weights: w_ih, w_hh, b_ih, b_hh; the last two may be None.

    Returns:
        h, of an LSTM (h, c).
    """
    torchs = getattr(TORCHS, f"{cell}_cell")
    if in_a_graph() or calls == 0:
        return torchs(x, hx, *weights)
    h0, c0 = hx if CELLS[cell].has_c else (hx, hx)
    bias = weights[2] is not None
    spec, used = spec_of(cell, 1, 1, bias, False, 0.0), weights if bias else weights[:2]
    tensors, H = (h0, c0, *used), h0.shape[-1]
    B, I = x.shape
    if not torch.is_grad_enabled():
        layer = door.Layer(True, False, spec.has_c, I, 1, H, H)
        results = run_at_the_door(spec, "auto", None, True, layer, x, hx, lambda: used)
        if results is not None:
            return results
    slow = not cell_pays(cell, B, I, H, is_differentiated(x, *tensors))
    if slow or why_torchs(spec, x, tensors) is not None:
        return torchs(x, hx, *weights)
    try:
        with _as_torch_casts(x, cell in STEP_LOOPS_OF_CELLS):
            x, h0, c0 = as_step(x), as_step(h0), as_step(c0)
            call = Call(spec, x, h0, c0, used, hidden_size=H, output_size=H)
            _, *last = run(call, "auto", None, True, None)
    except ValueError:
        return torchs(x, hx, *weights)
    h, c = map(of_step, last)
    return (h, c) if spec.has_c else h


def _as_torch_casts(x: Tensor, promotes: bool) -> AbstractContextManager:
    """Return a context in which the result has the dtype of torch's own under autocast.

    promotes: whether torch's own is a step loop, in which autocast casts the products only.
    """
    if not promotes or not torch._C._is_any_autocast_enabled():
        return nullcontext()
    cast = x.dtype == torch.get_autocast_dtype(x.device.type)
    return nullcontext() if cast else without_autocast(x.device)


# Dynamo breaks its graph at nn.LSTM and runs its forward, which is no code for it to compile. What
# that calls is: as a graph of its own it would be torch's LSTM, which no backend differentiates. So
# Dynamo leaves these functions and all that they call as they are, unless it traces them.
_LEFT = eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, eval_frame._FrameAction.SKIP)
for _function in (_layers, _cell):
    eval_frame.set_code_exec_strategy(_function.__code__, _LEFT)


class Functions(ModuleType):
    """A torch._VF with this library's functions, for torch.nn.modules.rnn."""

    def __init__(self) -> None:
        super().__init__("fused_lstm.adopt.install.Functions")
        for cell in [name for name, kind in CELLS.items() if kind.of_torch]:
            setattr(self, cell, partial(_layers, cell))
            setattr(self, f"{cell}_cell", partial(_cell, cell))

    def __getattr__(self, name: str) -> Any:
        return getattr(TORCHS, name)


FUNCTIONS = Functions()


# --- in and out ---

LOCK = threading.Lock()
calls = 0  # calls of `install` without an `uninstall`
before: Any = TORCHS  # what torch.nn.modules.rnn had as _VF when the first `install` was called


class Installation(AbstractContextManager):
    """The context manager that `install` returns: its exit calls `uninstall`."""

    def __exit__(self, *_: object) -> None:
        uninstall()


def install() -> Installation:
    """Let nn.LSTM, nn.GRU, nn.RNN and their cells run this library's kernels in this process.

    Modules stay torch.nn's, those that exist and those built later: class, attributes, parameters,
    state_dict, pickles and files. A subclass that calls nn.LSTM's forward runs the kernels too.
    torch's own code runs where a graph is made (torch.jit, torch.export, ONNX), so that the graph
    needs no fused_lstm, and where `explain` says so. torch.compile breaks its graph at a layer,
    which then runs the kernels; a cell in its graph is torch's own. Values are torch's to rounding.
    Under the same seed, dropout between layers draws other masks than torch's.

    All threads are affected, and children that are forked later. Calls nest: the kernels run until
    `uninstall` has been called as often as `install`.

    Returns:
        A context manager, for `with fused_lstm.install():`, whose exit calls `uninstall`.
    """
    global calls, before
    with LOCK:
        calls += 1
        if calls == 1:
            before = TORCHS if rnn._VF is FUNCTIONS else rnn._VF
            for name, function in vars(FUNCTIONS).items():
                if isinstance(function, partial):  # torch.jit.script compiles torch's operator
                    _register_builtin(function, f"aten::{name}")
            vars(rnn)["_VF"] = FUNCTIONS
    return Installation()


def uninstall() -> None:
    """Undo one `install`, if there was one; the last one restores what was there before.

    What another package has put over this library's functions since stays; torch's run under it.
    """
    global calls
    with LOCK:
        calls = max(calls - 1, 0)
        if calls == 0 and rnn._VF is FUNCTIONS:
            vars(rnn)["_VF"] = before


def is_installed() -> bool:
    """Return whether torch.nn's modules run this library's kernels now."""
    return rnn._VF is FUNCTIONS
