"""The operators that an engine implements: their meaning, fakes and derivatives, in one place.

`torch.ops.fused_lstm_triton.*` and `torch.ops.fused_lstm_native.*` are there as soon as fused_lstm
is imported. Triton's kernels come with the first call, from whomever it comes: the module, a graph
of torch.compile, a saved trace. The C++ library defines the operators of `native` itself, kernels
and all (native/module.cpp); where there is none they are defined here, and a call says why. Both
read the schemas from schemas.txt.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2; an
operator's `directions` is -1 where the one is reversed, from the last step to the first. P: the
size of h, which is H unless h is projected. N, V: rows, vocabulary. Gate order i, f, g, o. The
state dtype is float64 for float64 inputs, else float32.

    cell           gates [B, 4H] before activation, c [B, H] -> h [B, H], c_next [B, H]
                   gates and h have one dtype, c and c_next the state dtype.
    cell_backward  dh, dc_next [B, H] -> dgates [B, 4H], dc [B, H]

    lstm           x [T, B, I], or packed rows of unequal length [N, I]; h0 [L*D, B, P], c0
                   [L*D, B, H]; weights as nn.LSTM's `_flat_weights`: for each layer and direction
                   w_ih [4H, I or D*P], w_hh [4H, P], with biases b_ih [4H] and b_hh [4H], where h
                   is projected w_hr [P, H]; then the cell's own (`Spec.weights`).
                   dropout is the probability of dropping an element of h between two layers;
                   the mask is `fused_lstm.reference.dropout_mask(seed, ...)`, seed [1] int64 on x's
                   device (None where dropout is 0). fuse: "steps" takes one layer after another,
                   "layers" all at once, or as "steps" where that is faster; results are the same.
                   batch_sizes [T] int64 on the CPU (None for x [T, B, I]) and not_reset [D, T, B],
                   or [D, N], bool (None without resets): see fused_lstm.call.rows.
                   cell, rates: see `Spec.schema`; "" and [] are nn.LSTM's cell. cell is a list
                   with commas of layer_norm, peephole, coupled, gru, rnn_tanh, rnn_relu. rates are
                   zoneout's of h and of c and recurrent_dropout, or empty. A
                   cell has G gates: weights of G*H rows. Where a cell has no c, c0 is h0 and c_n
                   is h_n. The masks are drawn from seed, [1] or [2] as `reference.draw` takes it;
                   None is outside training.
                   precision: of float32 products, `native` only, in the words of
                   torch.backends.mkldnn.rnn.fp32_precision, which the caller reads; None is "ieee".
                   -> y [T, B, D*P], or [N, D*P] with zeros past the last row, h_n as h0, c_n as c0,
                   all of x's dtype; and, where `save` is true, what the backward needs (else three
                   tensors of no elements), with rows in the order of x's:
                   h [L-1, ..., D*P] outputs of the layers below the last, before dropout,
                   c [L*D, ..., H] cell states in the state dtype; with layer_norm 2G * L*D more
                   after them, W x and R h before normalization, in an order of the engine's,
                   gates [L*D, ..., G*H] activated gates; a GRU's [..., 4H] are m, r, z, n, where m
                   is R_n h + b_hn. `native` saves neither c nor gates of an RNN; `triton` saves
                   more than a custom cell's sigmoids and tanhs in the state dtype.
    lstm_backward  dy, dh_n, dc_n, and dh and dc by the forward's h and c (each None where no
                   gradient comes; of dc only the states count) -> dx (no elements unless
                   `needs_dx`), dh0, dc0, and the gradient of each of `weights`. samples: 0, or n
                   for gradients of the weights by sample [n, ...]: the rows of a step are then
                   those of n samples, the same number each, one sample after another (of packed
                   rows, one each). A cell with weights of its own has no samples.

    recurrence     a lane of N heads whose input product has been made, which is how heads and an
                   sLSTM run: x_part [T, B, G*H], or packed [n, G*H], W x with all biases except
                   bias_m [H], a GRU's of m, or of a custom cell's parts by h that stay alone; h0
                   [B, H], c0 [B, S*H], where S states lie side by side: c, or c, n and m of an
                   sLSTM, or h0 again; weight_hh [N, G*K, K], K units a head. cell: lstm, gru,
                   gru_dreamer, rnn_tanh, rnn_relu, slstm or slstm_exponential. reverse: from the
                   last step to the first. batch_sizes as above; not_reset [T, B] or [n]. clip, the
                   backward's: what comes through weight_hh is cut to [-clip, clip]; 0 cuts nothing.
                   -> y [.., H], h_n [B, H], c_n [B, S*H] (no elements where the state is h alone)
                   and, where `save` is true, what the backward needs: c [N, .., S*K] in the state
                   dtype, and gates [N, .., gates * K], an sLSTM's in the state dtype too, a custom
                   cell's as above. Of an RNN `triton` saves c, which is h before it is rounded, and
                   `native` neither.
    recurrence_backward
                   dy, dh_n, dc_n, and dc by the forward's c (each None where no gradient comes) ->
                   dx_part, dh0, dc0, dweight_hh, dbias_m (no elements without one).
    dropout        x of any shape -> x times reference.dropout_mask(seed, x.shape, p, first), where
                   `first` is the number of x's first element in a longer mask, such as a stack's.
    linear_cross_entropy
                   hidden [N, H], weight [V, H], bias [V] or None, target [N] int64 -> loss [N] in
                   the state dtype and, given row_grad [N], the gradients by the first three in the
                   state dtype (else three tensors of no elements). A row whose target is
                   `ignore_index` has no loss. precision: as above, of mkldnn.matmul's switch.
                   Only `native` has it.
    prepared_lstm  x, h0, c0, batch_sizes, not_reset and cell as `lstm`'s, without gradients and
                   without dropout; weights as fused_lstm.prepare packs them: matrices flat, of
                   float32, bfloat16 or int8, biases float32. weight_only: with int8, x and h are
                   not rounded to bytes. -> y, h_n, c_n. Only `native` has it.
    packing        lengths [B] int64, each in 1 to `steps` -> the fields of call.rows.Rows
                   outside a graph. Only `native` has it.
    gather         x [M, ...], index [N] int64 -> rows `index` of x [N, ...]. Only `native` has it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import reference
from ..call.layout import check_dense
from ..call.record import Call
from ..call.spec import CELLS, Spec, Units, of_schema
from ..reference import ladder
from . import autograd, library, recurrence
from .pullback import Forward, is_differentiated, is_transformed, kernel

# --- the operators with their derivatives, as torch's dispatcher calls them ---


def _spec_of(h0, weights, dropout, seed, fuse, directions, cell, rates, precision) -> Spec:
    return of_schema(
        len(h0), len(weights), dropout, fuse, seed is not None, directions, cell, rates, precision
    )


def _lstm(
    ops, x, h0, c0, weights, dropout, seed, fuse, save,
    directions=1, batch_sizes=None, not_reset=None, cell="", rates=(), precision=None,
):  # fmt: skip
    if save:
        spec = _spec_of(h0, weights, dropout, seed, fuse, directions, cell, rates, precision)
        constants = seed, batch_sizes, not_reset
        return Forward.apply(autograd.LSTM, ops, spec, constants, x, h0, c0, *weights)
    return kernel(
        ops.lstm.default, x, h0, c0, weights, dropout, seed, fuse, save, directions=directions,
        batch_sizes=batch_sizes, not_reset=not_reset, cell=cell, rates=rates, precision=precision,
    )  # fmt: skip


def _plain_lstm(
    x, h0, c0, weights, dropout, seed, fuse, save,
    directions=1, batch_sizes=None, not_reset=None, cell="", rates=(), precision=None,
):  # fmt: skip
    spec = _spec_of(h0, weights, dropout, seed, fuse, directions, cell, rates, precision)
    call = Call(spec, x, h0, c0, weights, seed=seed, batch_sizes=batch_sizes, not_reset=not_reset)
    states = reference.run(call)
    return *states, x.new_empty(0)


def _recurrence(
    ops, x_part, h0, c0, weight_hh, bias_m, cell, save,
    reverse=False, batch_sizes=None, not_reset=None, clip=0.0, precision=None,
):  # fmt: skip
    told = recurrence.LaneCell(cell, reverse, clip, precision)
    constants, inputs = (batch_sizes, not_reset), (x_part, h0, c0, weight_hh, bias_m)
    if save:
        return Forward.apply(recurrence.RECURRENCE, ops, told, constants, *inputs)
    return recurrence.forward(ops, told, save, *constants, *inputs)


def _plain_recurrence(
    x_part, h0, c0, weight_hh, bias_m, cell, save,
    reverse=False, batch_sizes=None, not_reset=None, clip=0.0, precision=None,
):  # fmt: skip
    told = recurrence.LaneCell(cell, reverse, clip)
    outputs = recurrence.plain(told, batch_sizes, not_reset, x_part, h0, c0, weight_hh, bias_m)
    return *outputs, x_part.new_empty(0)


def _dropout(ops, x, p, seed, first=0):
    if is_differentiated(x):
        return autograd.DropoutFunction.apply(ops, x, p, seed, first)
    return kernel(ops.dropout.default, x, p, seed, first)


def _cell(ops, gates, c):
    if is_differentiated(gates, c):
        return ladder.CellFunction.apply(ops, gates, c)
    return kernel(ops.cell.default, gates, c)


def _dispatched(function: Callable, plain: Callable) -> Callable:
    """Return what torch's dispatcher calls for an operator, for example in a graph.

    Under torch.func that is plain PyTorch: transforms may be nested, and the dispatcher resolves
    one at a time.
    """

    def run(*args, **kwargs):
        return (plain if is_transformed() else function)(*args, **kwargs)

    return run


# --- fakes: shapes and dtypes. A kernel's results are contiguous. ---


def _check_devices(**tensors: Tensor | Sequence[Tensor] | None) -> None:
    """Check that all tensors are on the first one's device.

    A fake runs for a call of which any tensor is on `meta`: its results would be memory on the
    others' device into which nobody wrote.
    """
    device = None
    for name, group in tensors.items():
        for tensor in group if isinstance(group, Sequence) else (group,):
            if tensor is None:
                continue
            device = tensor.device if device is None else device
            if tensor.device != device:
                first = next(iter(tensors))
                raise ValueError(
                    f"{name}: got device {tensor.device}; expected {device}, {first}'s"
                )


def _fake_cell(gates, c):
    _check_devices(gates=gates, c=c)
    return gates.new_empty(c.shape), c.new_empty(c.shape)


def _fake_cell_backward(gates, c, c_next, dh, dc_next):
    _check_devices(gates=gates, c=c, c_next=c_next, dh=dh, dc_next=dc_next)
    return gates.new_empty(gates.shape), c.new_empty(c.shape)


def saved_dtype(engine: str, spec: Spec, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of what a step saves beside c: the call's, or the state dtype."""
    is_wide = CELLS[spec.cell].is_wide(engine, spec)
    return reference.state_dtype(dtype) if is_wide else dtype


def _widest(spec: Spec, weights: Sequence[Tensor], H: int) -> int:
    """Return how far columns that a step saves lie apart: H, unless values differ in width."""
    if not (inner := CELLS[spec.cell].inner):
        return H
    lane = weights[: len(spec.weight_names)]
    made = [len(w) // n for w, n in zip(lane[-len(inner) :], inner, strict=True)]
    factors = [w.shape[1] for w in lane[-len(inner) :]]
    kind = CELLS[spec.cell]
    of_x = spec.gates - kind.inputs
    rows, count = (lane[0], of_x) if of_x else (lane[1], kind.of_h)
    gates = len(rows) // count if count else H
    return Units(gates, tuple(made), tuple(factors)).widest(H)


def _fake_lstm(
    engine, x, h0, c0, weights, dropout, seed, fuse, save, directions=1, batch_sizes=None,
    not_reset=None, cell="", rates=(), precision=None,
):  # fmt: skip
    _check_devices(x=x, h0=h0, c0=c0, weights=weights)
    D, rows, lanes, H = abs(directions), x.shape[:-1], len(h0), c0.shape[2]
    width = D * h0.shape[2]
    spec = _spec_of(h0, weights, dropout, seed, fuse, directions, cell, rates, precision)
    columns, raw = CELLS[spec.cell].columns(engine, spec), 0
    if spec.layer_norm:  # W x and R h too, in planes of c's size
        raw = -(-(len(weights[0]) + len(weights[1])) // H)
    elif CELLS[spec.cell].custom and H:  # numbers of rows
        raw = -(-CELLS[spec.cell].cell.numbers(spec) // H)
    h, c, gates = [(0,)] * 3
    dtype = x.dtype
    if save:
        dtype = saved_dtype(engine, spec, dtype)
        h = lanes // D - 1, *rows, width
    if save and (columns or raw):  # else the backward needs y alone
        c = lanes * (1 + raw), *rows, H
    if save and columns:
        gates = lanes, *rows, columns * _widest(spec, weights, H // spec.c_parts)
    return (
        x.new_empty(*rows, width),
        h0.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        x.new_empty(h),
        x.new_empty(c, dtype=reference.state_dtype(x.dtype)),
        x.new_empty(gates, dtype=dtype),
    )


def _fake_lstm_backward(
    dy, dh_n, dc_n, x, h0, c0, weights, dropout, seed, fuse, y, h, c, gates, needs_dx, samples=0,
    dh=None, dc=None, **lanes,
):  # fmt: skip
    _check_devices(
        x=x, h0=h0, c0=c0, weights=weights, y=y, dy=dy, dh_n=dh_n, dc_n=dc_n, dh=dh, dc=dc
    )
    dx, each = x.new_empty(x.shape if needs_dx else 0), (samples,) * (samples > 0)
    dweights = [w.new_empty(*each, *w.shape) for w in weights]
    return dx, *(t.new_empty(t.shape) for t in (h0, c0)), dweights


def _fake_recurrence(engine, x_part, h0, c0, weight_hh, bias_m, cell, save, **_others):
    _check_devices(x_part=x_part, h0=h0, c0=c0, weight_hh=weight_hh, bias_m=bias_m)
    N, _, K = weight_hh.shape
    rows, width, dtype = x_part.shape[:-1], c0.shape[1] // N, reference.state_dtype(x_part.dtype)
    c = gates = (0,)
    spec = recurrence.LaneCell(cell).spec
    kind = CELLS[spec.cell]
    columns = kind.columns(engine, spec) if kind.custom else kind.kept
    # native computes a cell of several states in the state dtype, and saves as it computes.
    in_wide = engine == "native" and width > K
    saved = dtype if in_wide else saved_dtype(engine, spec, x_part.dtype)
    if save and (columns or engine == "triton"):
        c = (N, *rows, width)
    if save and columns:
        gates = (N, *rows, columns * K)
    return (
        x_part.new_empty(*rows, h0.shape[1]),
        h0.new_empty(h0.shape),
        c0.new_empty(c0.shape if spec.has_c else 0),
        x_part.new_empty(c, dtype=dtype),
        x_part.new_empty(gates, dtype=saved),
    )


def _fake_recurrence_backward(
    dy, dh_n, dc_n, h0, c0, weight_hh, bias_m, y, c, gates, cell, **_others
):
    _check_devices(y=y, h0=h0, c0=c0, weight_hh=weight_hh, bias_m=bias_m, dy=dy)
    N, _, K = weight_hh.shape
    dx_part = y.new_empty(*y.shape[:-1], recurrence.LaneCell(cell).spec.gates * N * K)
    dbias_m = y.new_empty(0 if bias_m is None else bias_m.shape)
    return dx_part, *(t.new_empty(t.shape) for t in (h0, c0, weight_hh)), dbias_m


def _fake_dropout(x, p, seed, first=0):
    return x.new_empty(x.shape)


def _fake_linear_cross_entropy(
    hidden, weight, bias, target, row_grad, ignore_index, precision=None
):
    _check_devices(hidden=hidden, weight=weight, bias=bias, target=target, row_grad=row_grad)
    shapes = [(0,) if row_grad is None or t is None else t.shape for t in (hidden, weight, bias)]
    dtype = reference.state_dtype(hidden.dtype)
    return tuple(hidden.new_empty(shape, dtype=dtype) for shape in ((len(hidden),), *shapes))


def _fake_prepared_lstm(
    x, h0, c0, weights, directions, batch_sizes, not_reset, cell, weight_only=False
):
    _check_devices(x=x, h0=h0, c0=c0, weights=weights)
    shapes = (*x.shape[:-1], abs(directions) * h0.shape[2]), h0.shape, c0.shape
    return tuple(x.new_empty(shape) for shape in shapes)


def _fake_packing(lengths, steps, batch_first):
    raise NotImplementedError("packing: its results' shapes depend on the values of lengths")


def _fake_gather(x, index):
    _check_devices(x=x, index=index)
    return x.new_empty(len(index), *x.shape[1:])


# --- the table, and its registration ---


class Operator(NamedTuple):
    fake: Callable
    differentiable: Callable | None = None  # its first argument is an engine's operators
    plain: Callable | None = None  # the operator in plain PyTorch
    engines: tuple[str, ...] = ("triton", "native")


OPERATORS = {
    "cell": Operator(_fake_cell, _cell, reference.cell),
    "cell_backward": Operator(_fake_cell_backward),
    "lstm": Operator(_fake_lstm, _lstm, _plain_lstm),
    "lstm_backward": Operator(_fake_lstm_backward),
    "recurrence": Operator(_fake_recurrence, _recurrence, _plain_recurrence),
    "recurrence_backward": Operator(_fake_recurrence_backward),
    "dropout": Operator(_fake_dropout, _dropout, autograd.plain_dropout),
    "linear_cross_entropy": Operator(_fake_linear_cross_entropy, engines=("native",)),
    "prepared_lstm": Operator(_fake_prepared_lstm, engines=("native",)),
    "packing": Operator(_fake_packing, engines=("native",)),
    "gather": Operator(_fake_gather, engines=("native",)),
}


def _schemas() -> dict[str, str]:
    """Return each operator's name -> its arguments and results, in PyTorch's words."""
    text = (Path(__file__).parents[1] / "schemas.txt").read_text()
    told = text.partition('R"(')[2].rpartition(')"')[0].split("\n\n")
    named = [" ".join(schema.split()).partition("(") for schema in told]
    return {name: f"({rest}" for name, _, rest in named}


SCHEMAS = _schemas()
LIBRARIES = {}  # keeps each Library alive, and with it the operators that it registers


def _define(engine: str, defined: bool):
    """Return torch.ops.fused_lstm_<engine>, without kernels; defined: schemas are there already."""
    namespace = f"fused_lstm_{engine}"
    LIBRARIES[engine] = registry = torch.library.Library(namespace, "FRAGMENT")
    ops = getattr(torch.ops, namespace)
    for name, operator in OPERATORS.items():
        if engine not in operator.engines:
            continue
        if not defined:
            registry.define(name + SCHEMAS[name])
        # A device's kernel takes precedence over this one.
        registry.impl(name, _first_use(engine, name), "CompositeExplicitAutograd")
        fake = operator.fake
        if name in ("lstm", "recurrence"):  # what they save is the engine's
            fake = partial(fake, engine)
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=registry)
        # Not torch.library.register_autograd, which torch.func cannot transform.
        if operator.differentiable is None or operator.plain is None:
            continue
        for key in ("Autograd", "FuncTorchBatched"):
            run = _dispatched(partial(operator.differentiable, ops), operator.plain)
            registry.impl(name, run, key)
    return ops


def _first_use(engine: str, name: str) -> Callable:
    """Return a kernel that loads the engine's kernels and calls the operator again."""

    def load_and_run(*args, **options):
        leaves = pytree.arg_tree_leaves(*args, **options)
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        for tensor in tensors:  # a tensor that is not dense would call this kernel again, for ever
            check_dense(f"fused_lstm_{engine}::{name}", tensor)
        device = tensors[0].device
        module = importlib.import_module(f"..{engine}", __package__)
        why = module.missing(device) or module.load()
        if why is not None:
            raise RuntimeError(f"fused_lstm_{engine}::{name} cannot run on '{device}': {why}")
        return getattr(getattr(torch.ops, f"fused_lstm_{engine}"), name)(*args, **options)

    return load_and_run


def implement(engine: str, kernels: dict[str, Callable]) -> None:
    """Register kernels in Python: operator name -> a function with the schema's arguments."""
    for name, function in kernels.items():
        for key in ("CPU", "CUDA"):
            LIBRARIES[engine].impl(name, function, key)


TRITON, NATIVE = _define("triton", False), _define("native", library.load() is None)
