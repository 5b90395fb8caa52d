"""The operators that an engine implements: schemas, fakes and derivatives, of all, in one place.

`torch.ops.fused_lstm_triton.*` and `torch.ops.fused_lstm_native.*` are there as soon as fused_lstm
is imported; their kernels come with the first call, from whomever it comes: the module, a graph of
torch.compile, a saved trace. What differs between the engines, the kernels, is what `implement`
is given or what the C++ library registers itself.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected. N, V: rows, vocabulary. Gate order i, f, g, o.
Half-precision inputs keep their cell state in float32: "state dtype" below.

    cell           gates [B, 4H] before activation, c [B, H] -> h [B, H], c_next [B, H]
                   gates and h have one dtype; c and c_next the state dtype.
    cell_backward  dh, dc_next [B, H] -> dgates [B, 4H], dc [B, H]

    lstm           x [T, B, I], or rows of unequal length packed, [N, I]; h0 [L*D, B, P], c0
                   [L*D, B, H]; weights flat, as nn.LSTM's `_flat_weights`: a layer has for each
                   direction w_ih [4H, I or D*P], w_hh [4H, P], with bias b_ih [4H], b_hh [4H], and
                   where h is projected w_hr [P, H]; then what its cell adds (`Cell.weights`).
                   dropout is the probability of dropping an element of h between two layers;
                   the mask is `fused_lstm.reference.dropout_mask(seed, ...)`, seed [1] int64 on x's
                   device (None where dropout is 0). fuse: "steps" takes one layer after another,
                   "layers" all at once, or as "steps" where that is faster; results are the same.
                   batch_sizes [T] int64 on the CPU (None for x [T, B, I]) and keep [D, T, B] or
                   [D, N] bool (None where all is kept): fused_lstm.rows says what they are.
                   cell, rates: `Cell.arguments`; "" and [] are nn.LSTM's. cell names, with commas,
                   what changes the weights: layer_norm, peephole, coupled, gru; rates are zoneout's
                   of h and of c, recurrent_dropout and candidate_dropout, or none. The masks are
                   drawn from seed, [1] or [2] as `Cell.draw` takes it; None is outside training.
                   precision of float32 products, in PyTorch's words, and `native`'s alone: None is
                   "ieee". Who calls asks torch.backends.mkldnn.rnn.fp32_precision.
                   -> y [T, B, D*P], or [N, D*P] with zeros past the last row, h_n as h0, c_n as c0,
                   all of x's dtype, and, where `save` is true, what the backward needs (else three
                   tensors of no elements), a row of them as a row of x:
                   h [L-1, ..., D*P] outputs of the layers below the last, before dropout,
                   c [L*D, ..., H] cell states in the state dtype; with layer_norm 8 * L*D more
                   behind them, W x and R h before they were normalized, as an engine likes,
                   gates [L*D, ..., 4H] activated gates.
    lstm_backward  dy, dh_n, dc_n (None where no gradient comes) -> dx (no elements unless
                   `needs_dx`), dh0, dc0, and one gradient for each of `weights`. samples: n, the
                   rows of a step are those of n samples, as many each, one sample's after
                   another's (of packed rows, one each), and the gradients of the weights are
                   [n, ...]; 0: they are of all rows together. A cell that has weights of its own
                   has no samples.

    dropout        x of any shape -> x times reference.dropout_mask(seed, x.shape, p, first): x's
                   elements are number `first` and on of a longer mask, such as a stack's.
    linear_cross_entropy
                   hidden [N, H], weight [V, H], bias [V] or None, target [N] int64 -> loss [N] in
                   the state dtype and in it, given row_grad [N], the gradients by the first three
                   (else three tensors of no elements). A row of target `ignore_index` has no loss.
                   precision: as above, of mkldnn.matmul's switch. `native` alone has it.
    packing        lengths [B] int64, each in 1 to `steps` -> what fused_lstm.packing.Packing has
                   outside a graph. `native` alone has it.
    gather         x [M, ...], index [N] int64 -> rows `index` of x [N, ...]. `native` alone has it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from . import hoisted, loop, reference, stack, twins
from .cell import PLAIN, Cell
from .derivatives import Fused, Linear, call_of, dispatched
from .engines import constant_while_tracing

# --- what an engine's lstm() runs ---


def run(
    ops, x, h0, c0, weights, dropout, fuse,
    directions=1, batch_sizes=None, keep=None, cell=PLAIN, seed=None,
):  # fmt: skip
    """An engine's lstm(), as in fused_lstm.engines, on its operators.

    pointwise: the step loop with a fused cell, nn.LSTM's. hoisted: the same with all that needs no
    order in time taken out of the loop. steps, layers: one operator.
    """
    traced = in_a_graph()
    if seed is None and dropout > 0:
        seed = draw_seed(x.device)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (*weights, x, h0, c0))
    save = save or torch.jit.is_tracing()  # what is traced once may be trained and not
    lanes = directions, batch_sizes, keep
    if fuse in ("pointwise", "hoisted"):
        _, weights = cell.four_gates(weights, c0.shape[-1])
        if fuse == "hoisted":
            sweep, states = hoisted.steps(x, h0, c0, weights, hoisted.fused(ops), *lanes)
        else:
            step = ops.cell if traced else partial(call_of(Fused, save), twins.Cell(ops))
            sweep, states = loop.steps(x, h0, c0, weights, step, *lanes)
        drop = None if seed is None else partial(_drop, ops, dropout, seed)
        y = stack.run(x, len(h0) // directions, sweep, drop, directions)
        return y, *loop.last(states)
    precision = precision_now(x.dtype, "rnn") if ops is NATIVE else None
    if traced:
        options = twins.named_lanes(*lanes, cell, precision)
        return ops.lstm(x, h0, c0, weights, dropout, seed, fuse, save, **options)[:3]
    call = twins.LSTM(ops, dropout, fuse, save, directions, 3 + len(weights), cell, precision)
    return call_of(Fused, save)(call, x, h0, c0, *weights, seed, batch_sizes, keep)[:3]


def in_a_graph() -> bool:
    """Whether a graph is being made: its operators are then called through torch's dispatcher."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@constant_while_tracing  # Dynamo cannot trace the switch: a graph has what it says when it is made
def precision_now(dtype: torch.dtype, op: str) -> str | None:
    """What torch.backends.mkldnn says of `op`, "rnn" or "matmul"; None for float32 as it is.

    An operator is told, so that a backward is as exact as its forward.
    """
    if dtype != torch.float32:
        return None
    # torch.backends.mkldnn's own `fp32_precision`, less its modules: a microsecond of a short call.
    word = torch._C._get_fp32_precision_getter("mkldnn", op)
    return word if word in ("tf32", "bf16") else None


def dropout(ops: SimpleNamespace, x: Tensor, p: float, seed: Tensor) -> Tensor:
    """x with each element dropped with probability p, by the operator `dropout`."""
    return _drop(ops, p, seed, x, 0)


def draw_seed(device: torch.device) -> Tensor:
    """A seed [1] int64 of a dropout mask, from PyTorch's generator.

    On the device, so that it costs no sync and a CUDA graph can replay it.
    """
    return torch.randint(2**63 - 1, (1,), device=device)


# --- the operators with their derivatives ---


def _cell(ops, gates, c):
    wanted = torch.is_grad_enabled() and (gates.requires_grad or c.requires_grad)
    return call_of(Fused, wanted)(twins.Cell(ops), gates, c)


def _lstm(
    ops, x, h0, c0, weights, dropout, seed, fuse, save,
    directions=1, batch_sizes=None, keep=None, cell="", rates=(), precision=None,
):  # fmt: skip
    own = Cell.of_arguments(cell, rates)
    call = twins.LSTM(ops, dropout, fuse, save, directions, 3 + len(weights), own, precision)
    return call_of(Fused, save)(call, x, h0, c0, *weights, seed, batch_sizes, keep)


def _plain_lstm(
    x, h0, c0, weights, dropout, seed, fuse, save, cell="", rates=(), precision=None, **lanes
):
    lanes["cell"] = Cell.of_arguments(cell, rates)
    return *reference.lstm(x, h0, c0, weights, dropout, seed, **lanes), *[x.new_empty(0)] * 3


def _drop(ops, p, seed, y, layer):
    """What stack.run drops with: one mask for all layers, at every level of every engine."""
    return (ops.dropout if in_a_graph() else partial(_dropout, ops))(y, p, seed, layer * y.numel())


def _dropout(ops, x, p, seed, first=0):
    wanted = torch.is_grad_enabled() and x.requires_grad
    return call_of(Linear, wanted)(twins.Dropout(ops, p, first), x, seed)


def _plain_dropout(x, p, seed, first=0):
    return (x * reference.dropout_mask(seed, x.shape, p, first)).to(x.dtype)


# --- fakes: shapes and dtypes alone. What a kernel makes is contiguous. ---


def _fake_cell(gates, c):
    return gates.new_empty(c.shape), c.new_empty(c.shape)


def _fake_cell_backward(gates, c, c_next, dh, dc_next):
    return gates.new_empty(gates.shape), c.new_empty(c.shape)


def _fake_lstm(x, h0, c0, weights, dropout, seed, fuse, save, directions=1, cell="", **_others):
    rows, width, lanes, H = x.shape[:-1], directions * h0.shape[2], len(h0), c0.shape[2]
    h, c, gates = [(0,)] * 3
    if save:
        h, c, gates = (
            (lanes // directions - 1, *rows, width),
            (lanes * (9 if "layer_norm" in cell else 1), *rows, H),
            (lanes, *rows, 4 * H),
        )
    return (
        x.new_empty(*rows, width),
        h0.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        x.new_empty(h),
        x.new_empty(c, dtype=reference.state_dtype(x.dtype)),
        x.new_empty(gates),
    )


def _fake_lstm_backward(
    dy, dh_n, dc_n, x, h0, c0, weights, dropout, seed, fuse, y, h, c, gates, needs_dx, samples=0,
    **lanes,
):  # fmt: skip
    dx, each = x.new_empty(x.shape if needs_dx else 0), (samples,) * (samples > 0)
    dweights = [w.new_empty(*each, *w.shape) for w in weights]
    return dx, *(t.new_empty(t.shape) for t in (h0, c0)), dweights


def _fake_dropout(x, p, seed, first=0):
    return x.new_empty(x.shape)


def _fake_linear_cross_entropy(
    hidden, weight, bias, target, row_grad, ignore_index, precision=None
):
    shapes = [(0,) if row_grad is None or t is None else t.shape for t in (hidden, weight, bias)]
    dtype = reference.state_dtype(hidden.dtype)
    return tuple(hidden.new_empty(shape, dtype=dtype) for shape in ((len(hidden),), *shapes))


def _fake_packing(lengths, steps, batch_first):
    raise NotImplementedError("packing: how many rows there are depends on the lengths")


def _fake_gather(x, index):
    return x.new_empty(len(index), *x.shape[1:])


# --- the table, and its registration ---


class Operator(NamedTuple):
    schema: str
    fake: Callable
    own: Callable | None = None  # with its derivatives; the first argument is an engine's operators
    plain: Callable | None = None  # the same in plain PyTorch
    engines: tuple[str, ...] = ("triton", "native")


_INPUTS = "Tensor x, Tensor h0, Tensor c0, Tensor[] weights, float dropout, Tensor? seed, str fuse"
_LANES = "*, int directions=1, Tensor? batch_sizes=None, Tensor? keep=None"
_CELL = "str cell='', float[] rates=[]"
_PRECISION = "str? precision=None"

OPERATORS = {
    "cell": Operator(
        "(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)",
        _fake_cell, _cell, reference.cell,
    ),
    "cell_backward": Operator(
        "(Tensor gates, Tensor c, Tensor c_next, Tensor dh, Tensor dc_next)"
        " -> (Tensor dgates, Tensor dc)",
        _fake_cell_backward,
    ),
    "lstm": Operator(
        f"({_INPUTS}, bool save, {_LANES}, {_CELL}, {_PRECISION})"
        " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor h, Tensor c, Tensor gates)",
        _fake_lstm, _lstm, _plain_lstm,
    ),
    "lstm_backward": Operator(
        f"(Tensor? dy, Tensor? dh_n, Tensor? dc_n, {_INPUTS}, Tensor y, Tensor h, Tensor c,"
        f" Tensor gates, bool needs_dx, {_LANES}, {_CELL}, {_PRECISION}, int samples=0)"
        " -> (Tensor dx, Tensor dh0, Tensor dc0, Tensor[] dweights)",
        _fake_lstm_backward,
    ),
    "dropout": Operator(
        "(Tensor x, float p, Tensor seed, int first=0) -> Tensor",
        _fake_dropout, _dropout, _plain_dropout,
    ),
    "linear_cross_entropy": Operator(
        "(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor? row_grad,"
        f" int ignore_index, {_PRECISION})"
        " -> (Tensor loss, Tensor dhidden, Tensor dweight, Tensor dbias)",
        _fake_linear_cross_entropy, engines=("native",),
    ),
    "packing": Operator(
        "(Tensor lengths, int steps, bool batch_first)"
        " -> (Tensor batch_sizes, Tensor order, Tensor back, Tensor places, Tensor back_places)",
        _fake_packing, engines=("native",),
    ),
    "gather": Operator(
        "(Tensor x, Tensor index) -> Tensor", _fake_gather, engines=("native",),
    ),
}  # fmt: skip

LIBRARIES = {}  # kept, since what a Library has registered goes with it


def _define(engine: str):
    """torch.ops.fused_lstm_<engine>, whole but for kernels."""
    namespace = f"fused_lstm_{engine}"
    LIBRARIES[engine] = library = torch.library.Library(namespace, "FRAGMENT")
    ops = getattr(torch.ops, namespace)
    for name, operator in OPERATORS.items():
        if engine not in operator.engines:
            continue
        library.define(name + operator.schema)
        # A kernel of a device comes before this one.
        library.impl(name, _first_use(engine, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", operator.fake, lib=library)
        # Not torch.library.register_autograd, which torch.func cannot transform.
        if operator.own is None or operator.plain is None:
            continue
        for key in ("Autograd", "FuncTorchBatched"):
            own = dispatched(partial(operator.own, ops), operator.plain)
            library.impl(name, own, key)
    return ops


def _first_use(engine: str, name: str) -> Callable:
    """The kernel until there is one: loads the engine's, and calls it."""

    def load_and_run(*args, **options):
        device = next(a for a in args if isinstance(a, Tensor)).device
        module = importlib.import_module(f".{engine}", __package__)
        why = module.missing(device) or module.load()
        if why is not None:
            raise RuntimeError(f"fused_lstm_{engine}::{name} cannot run on '{device}': {why}")
        return getattr(getattr(torch.ops, f"fused_lstm_{engine}"), name)(*args, **options)

    return load_and_run


def implement(engine: str, kernels: dict[str, Callable]) -> None:
    """Register kernels in Python: operator name -> a function with the schema's arguments."""
    for name, kernel in kernels.items():
        for key in ("CPU", "CUDA"):
            LIBRARIES[engine].impl(name, kernel, key)


TRITON, NATIVE = _define("triton"), _define("native")
