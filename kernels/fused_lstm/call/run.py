"""A call: which engine runs it, with which Spec, and why it is refused.

Every layer and function comes here with a `Call` of time-major, batched tensors (see layout.py).
`run` packs rows of unequal length, casts under autocast, and runs the engine that `choose` names.
Shapes are checked once: by the C++ operator where it is given all tensors, and only when it refuses
them does `check_tensors` look for the one to name; before the call where no operator would see them
all.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected. G: the cell's gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..operator.autograd import draw_seed
from ..operator.pullback import is_differentiated, is_transformed
from ..training.recompute import in_chunks
from . import door
from .choose import (
    DTYPES,
    EMPTY,
    USUAL,
    Facts,
    choose,
    constant_while_tracing,
    engine_module,
    is_exporting,
    is_too_wide,
    may_be_slow,
    step_pays,
)
from .layout import State, check_dense, check_resets, padded
from .record import Call, Run
from .rows import enter, leave
from .spec import CELLS, PLAIN, Spec, check_size, completed, shapes, spec_of


def lstm(
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    engine: str = "auto",
    fuse: str | None = None,
    *,
    bidirectional: bool = False,
    reverse: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    cell: Spec = PLAIN,
    training: bool = True,
    recompute: int | None = None,
    return_states: bool = False,
) -> tuple[Any, ...]:
    """Run an LSTM on weights that are arguments, so that they may be tied, masked or computed.

    Args:
        x: [T, B, I]; B may be 0. Of a cell with inputs these lie behind, one number of each or H.
        state: (h_0 [L * D, B, P], c_0 [L * D, B, H]); P is H unless h is projected. An sLSTM's c_0
            is c, n and m side by side [L * D, B, 3H].
        weights: nn.LSTM's in one list: for each layer and direction weight_ih [4H, I or D * P],
            weight_hh [4H, P], with biases bias_ih [4H] and bias_hh [4H], and where h is projected
            weight_hr [P, H]; then the cell's. Gate order i, f, g, o. `Spec.weights` has the shapes
            of every cell, an sLSTM's and those of heads too.
        dropout: probability of dropping an element of h between two layers, in this call.
        engine, fuse: see fused_lstm.call.choose; `fuse=None` is the engine's highest level, or
            "hoisted" for many rows on a GPU (docs/gpu.md).
        bidirectional: each layer has two directions, D = 2.
        reverse: each layer runs from a row's last step to its first, D = 1.
        lengths: [B] int64, in any order: row b ends after step lengths[b].
        resets: [T, B] bool: true where row b starts a new sequence at step t. Neither a state nor a
            gradient crosses between t - 1 and t, in either direction.
        cell: a Spec, of which the cell and its options are used; nn.LSTM's by default. A GRU and an
            RNN have no c: pass h_0 twice as the state.
        training: False drops nothing, and replaces zoneout by its expectation.
        recompute: k: store the state of every k-th step only, and compute the rest again in the
            backward pass; None stores all.
        return_states: return the state after every step too.

    Returns:
        y [T, B, D * P], zero where a row has ended; (h_n, c_n), the state after each row's last
        step; with return_states also (h [L * D, T, B, P], c [L * D, T, B, H]), zero where a row has
        ended, c in float32 where the inputs are in half precision.

    Raises:
        ValueError: an argument's shape, dtype, device or value does not fit; the message names it.
        RuntimeError: the engine cannot run on x's device; the message says why.
    """
    for name, tensor in zip(("x", "h_0", "c_0"), (x, *state), strict=True):
        check_dense(name, tensor)
    if not cell.has_c and state[0] is not state[1]:
        raise ValueError(f"state: got two tensors; expected h_0 twice with cell {cell.cell!r}")
    h0, c0 = state
    rows = None if lengths is None else padded(x, lengths)
    lanes, P = (len(h0), h0.shape[2]) if h0.dim() == 3 else (0, 0)
    directions = -1 - bidirectional if reverse else 1 + bidirectional  # both at once are refused
    base = completed(cell, lanes, len(weights), directions, float(dropout))
    H = c0.shape[-1] // base.c_parts if base.projection else P
    called = Call(
        base, x, h0, c0, weights, states=return_states, rows=rows, hidden_size=H, output_size=P
    )
    y, h_n, c_n, *states = run(called, engine, fuse, training, recompute, resets)
    if not return_states:
        return y, (h_n, c_n)
    h, c = states
    return y, (h_n, c_n), (h, c)


def run(
    call: Call,
    engine: str,
    fuse: str | None,
    training: bool,
    recompute: int | None,
    resets: Tensor | None = None,
    override: Override | None = None,
) -> tuple[Tensor, ...]:
    """Check and cast a call's tensors, pack its rows, and run its engine.

    Args:
        call: with the layer's Spec, tensors, rows and `states`; it is changed.
        engine, fuse, training, recompute, resets: as of `lstm`.
        override: runs the call in the engine's place; see fused_lstm.opacus.

    Returns:
        y, h_n, c_n in the order of x's rows; with `states` also h and c of every lane after every
        step [L * D, ..., P or H].
    """
    base, x, rows = call.spec, call.x, call.rows
    if resets is not None:
        check_resets(resets, x)
    compiling, tracing = torch.compiler.is_compiling(), torch.jit.is_tracing()
    facts = USUAL
    if resets is not None or call.states or compiling or tracing:
        facts = Facts(
            resets is not None, call.states, rows is not None and (compiling or tracing),
            compiling and not is_exporting() and is_differentiated(*call.inputs),
        )  # fmt: skip
    elif rows is None and recompute is None and override is None:
        if not base.is_plain_lstm:
            facts = SLOW_STEP if is_slow_step(base, engine, fuse, call) else USUAL
        elif engine == "triton" and fuse is None and (why := why_hoisted(base, call)) is not None:
            facts = Facts(hoisted=why)
    wide = max(call.hidden_size, call.output_size) if base.layer_norm else 0
    if compiling:
        name, spec, one_operator = _route_in_a_graph(
            base.text, wide, training, recompute, engine, fuse, x.device, x.dtype, *facts
        )
        runs, autocasts = engine_module(name).run, is_autocast_on(x.device)
    else:
        if wide and is_too_wide(engine, fuse, x.device, base, wide):
            facts = facts._replace(too_wide=True)
        word = torch._C._get_fp32_precision_getter("mkldnn", "rnn")
        key = base.text, training, recompute, engine, fuse, x.device, x.dtype, facts, word
        name, spec, runs, one_operator = ROUTES.get(key) or _route(base, *key[1:])
        autocasts = torch._C._is_any_autocast_enabled() and is_autocast_on(x.device)
    call.spec = spec
    if one_operator and not (
        rows is not None or override is not None or autocasts or compiling or tracing
        or is_transformed() or x.numel() == 0
    ):  # fmt: skip
        call.is_whole = True  # the operator checks it
    elif not tracing:
        check_once(call, autocasts)
        # An empty batch needs shapes and zero gradients only. A graph does not know how many rows
        # arrive packed.
        if (rows is None or not rows.arrives_packed) and call.h0.shape[1] == 0:
            name, runs = EMPTY.engine, engine_module(EMPTY.engine).run
            call.spec = spec = replace(spec, level=EMPTY.level)
    if autocasts:
        call.x, call.h0, call.c0, *call.weights = autocast(*call.inputs)
    if rows is not None or resets is not None:
        enter(call, resets)
    if spec.draws and is_drawn_by_counter(name, spec):
        call.seed = draw_seed(x.device)
    if spec.recompute is not None:
        runs = partial(in_chunks, runs)
    try:
        outputs = runs(call) if override is None else override(name, runs, call)
    except (RuntimeError, ValueError, IndexError):
        if call.is_whole:  # this says better what it refuses
            check_tensors(call)
        raise
    if call.states:
        y, h_n, c_n, h, c = outputs[:5]
        h = torch.cat([h, y[None]]).unflatten(-1, (spec.directions, -1)).movedim(-2, 1)
        h = h.flatten(0, 1)
        outputs = y, h_n, c_n, h, c[: len(h)] if spec.has_c else h
    else:
        outputs = outputs[:3]
    return outputs if rows is None else leave(rows, *outputs)


def run_at_the_door(
    base: Spec,
    engine: str,
    fuse: str | None,
    training: bool,
    layer: door.Layer,
    x: Any,
    hx: Any,
    weights: Callable[[], Sequence[Tensor]],
) -> Any:
    """Return what a layer or a cell returns in inference, or None where `run` is to run the call.

    Args:
        base, engine, fuse, training: as of `run`.
        layer, x, hx: as the door takes them (call/door.py).
        weights: returns them; called where there is a door.
    """
    if type(x) is not Tensor or not door.is_open() or torch._C._is_any_autocast_enabled():
        return None
    if base.layer_norm:  # whose engine depends on sizes
        return None
    word = torch._C._get_fp32_precision_getter("mkldnn", "rnn")
    key = base.text, training, None, engine, fuse, x.device, x.dtype, USUAL, word
    route = ROUTES.get(key) or _route(base, *key[1:])
    if not route.one_operator or route.spec.draws:
        return None
    return door.of(route.spec, door.FORWARD, False, layer)(x, hx, tuple(weights()))


# An engine's name, its function and the call -> the call's results.
Override = Callable[[str, Run, Call], tuple[Tensor, ...]]

SLOW_STEP = Facts(slow_step=True)


def is_slow_step(base: Spec, engine: str, fuse: str | None, call: Call) -> bool:
    """Return whether a call is one step for which torch's own code is as fast."""
    x = call.x
    if x.dim() != 3 or len(x) != 1 or not base.is_torchs:
        return False
    trains = is_differentiated(x, call.h0, *call.weights)
    pays = step_pays(base.cell, x.shape[1], call.h0.shape[-1], trains)
    return not pays and may_be_slow(engine, fuse, x.device)


def why_hoisted(base: Spec, call: Call) -> str | None:
    """Return why a call of a plain LSTM on engine "triton" is faster at "hoisted", or None.

    Called where no level is asked for, and rows are as long and begin once.
    """
    x, h0 = call.x, call.h0
    if x.device.type != "cuda" or h0.dim() != 3 or base.projection or base.in_heads:
        return None
    if x.dtype not in DTYPES or is_transformed():
        return None
    dtype = autocast_dtype(x)
    return engine_module("triton").why_hoisted(base.directions, x.device, dtype, *h0.shape)


# --- which engine, and its Spec ---


class Route(NamedTuple):
    """Route of a call, kept for the next one."""

    engine: str
    spec: Spec  # the call's
    run: Run  # as in fused_lstm.call.choose
    one_operator: bool  # whether one operator is given all tensors, and checks them


ROUTES: dict[tuple, Route] = {}  # by the Spec's text and the other arguments of `_route`


def _route(
    base: Spec,
    training: bool,
    recompute: int | None,
    engine: str,
    fuse: str | None,
    device: torch.device,
    dtype: torch.dtype,
    facts: Facts,
    word: str,
) -> Route:
    """Return the Route of a call. word: PyTorch's precision switch, see `precision_now`."""
    name, level, _ = choose(engine, fuse, device, base, facts)
    if facts.states and recompute is not None:
        raise ValueError(f"return_states: got True with recompute={recompute}; expected False")
    lowered = name == "native" and dtype == torch.float32 and word in ("tf32", "bf16")
    spec = replace(
        base, dropout=base.dropout if training else 0.0, training=training, recompute=recompute,
        level=level, precision=word if lowered else None,
    )  # fmt: skip
    module = engine_module(name)
    whole = name == "native" and level in ("steps", "layers") and not spec.in_heads
    route = Route(name, spec, module.run, whole and recompute is None)
    ROUTES[base.text, training, recompute, engine, fuse, device, dtype, facts, word] = route
    return route


@constant_while_tracing
def _route_in_a_graph(text, wide, training, recompute, engine, fuse, device, dtype, *facts):
    """Return `_route`'s engine and Spec, as a constant for torch.compile.

    torch.compile takes no named tuple as an argument here.

    Args:
        text: the Spec's.
        wide: the larger of H and P; 0 without layer normalization.
        facts: a Facts', but for `too_wide`.
    """
    base, known = spec_of(text), Facts(*facts)
    if is_too_wide(engine, fuse, device, base, wide):
        known = known._replace(too_wide=True)
    word = torch._C._get_fp32_precision_getter("mkldnn", "rnn")
    route = _route(base, training, recompute, engine, fuse, device, dtype, known, word)
    return route.engine, route.spec, False


def is_drawn_by_counter(engine: str, spec: Spec) -> bool:
    """Return whether an engine draws masks by counter, not with PyTorch's generator."""
    return engine in ("triton", "native") or (engine != "cudnn" and not spec.is_plain_lstm)


@constant_while_tracing  # Dynamo cannot trace the switch: a graph keeps its value at tracing
def precision_now(dtype: torch.dtype, op: str) -> str | None:
    """Return the precision that torch.backends.mkldnn has for `op`, or None for full float32.

    op: "rnn" or "matmul". An operator gets it as an argument, so that its backward uses the same.
    """
    if dtype != torch.float32:
        return None
    # What torch.backends.mkldnn.rnn.fp32_precision calls: its modules would cost a microsecond.
    word = torch._C._get_fp32_precision_getter("mkldnn", op)
    return word if word in ("tf32", "bf16") else None


# --- autocast, which does not know these operators ---


def is_autocast_on(device: torch.device) -> bool:
    """Return whether autocast is on for this kind of device."""
    available = torch._C._is_autocast_available
    if torch.compiler.is_compiling():  # torch 2.11's torch.compile cannot trace it
        available = _has_autocast
    return available(device.type) and torch.is_autocast_enabled(device.type)


@constant_while_tracing
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast all tensors except float64 to autocast's dtype for the first one's device."""
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return [t if t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that a tensor has under autocast."""
    kept = tensor.dtype == torch.float64 or not tensor.is_floating_point()
    if kept or not is_autocast_on(tensor.device):
        return tensor.dtype
    return torch.get_autocast_dtype(tensor.device.type)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which autocast is off for a device."""
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()


# --- checks: each raises a ValueError that names the wrong argument ---


PASSED: set[tuple] = set()  # what calls have passed `check_tensors` with
MOST_PASSED = 4096


def check_once(call: Call, autocasts: bool) -> None:
    """Check a call's tensors as `check_tensors`, where no call had such tensors before."""
    # A subclass, such as a fake tensor, may have sizes that are not numbers.
    if call.rows is not None or type(call.x) is not Tensor or torch.compiler.is_compiling():
        return check_tensors(call, autocasts)
    tensors = tuple([(t.shape, t.dtype, t.device) for t in call.inputs])
    key = call.spec.text, call.hidden_size, call.output_size, autocasts, tensors
    if key in PASSED:
        return
    check_tensors(call, autocasts)
    if len(PASSED) == MOST_PASSED:
        PASSED.clear()
    PASSED.add(key)


def check_tensors(call: Call, autocasts: bool = False) -> None:
    """Check the shapes, dtypes and devices of a call's tensors, as a layer gives them.

    x is [T, B, I], or [N, I] where it arrives packed. autocasts: whether they are cast afterwards.
    """
    spec, x, h0, c0, weights, rows = (
        call.spec, call.x, call.h0, call.c0, call.weights, call.rows
    )  # fmt: skip
    H, P = call.hidden_size, call.output_size
    I = x.shape[-1] if x.dim() else 0
    if (count := CELLS[spec.cell].inputs) and weights[0].dim() == 2:  # behind what it multiplies
        own, I = I - weights[0].shape[1], weights[0].shape[1]
        every = count * H if spec.units is None else sum(spec.units.inputs)
        if own not in (count, every):
            raise ValueError(f"x: got {own} columns of inputs; expected {count} or {every}")
    expected = expected_weights(spec, I, H, P)
    device, dtype = x.device, x.dtype
    sizes = rows.batch_sizes if rows is not None and rows.arrives_packed else None
    packed = sizes is not None
    if x.dim() != 3 - packed or x.shape[0] == 0 or x.shape[-1] == 0:
        layout = "[N, I], N and I" if packed else "[T, B, I], T and I"
        raise ValueError(f"x: got shape {list(x.shape)}; expected {layout} not 0")
    if dtype not in DTYPES:
        raise ValueError(f"x: got {dtype}; expected one of {', '.join(map(str, DTYPES))}")
    if sizes is None:
        B = x.shape[1]
    elif torch.compiler.is_compiling():  # a graph does not know the sizes
        B = h0.shape[1]
    else:
        B = int(sizes[0])
    lanes = spec.layers * spec.directions
    C = H * spec.c_parts
    wrong = h0.shape != (lanes, B, P) or c0.shape != (lanes, B, C)
    for tensor, shape in zip(weights, expected, strict=True):
        wrong = wrong or tensor.shape != shape
    tensors = h0, c0, *weights
    for tensor in tensors:
        wrong = wrong or tensor.device != device or (tensor.dtype != dtype and not autocasts)
    if wrong:
        _say_which(spec, x, tensors, [(lanes, B, P), (lanes, B, C), *expected], autocasts)


def _say_which(spec, x, tensors, expected, autocasts) -> None:
    """Raise a ValueError for the first tensor that is not as expected."""
    names = ["h_0", "c_0"]
    for lane in range(spec.layers * spec.directions):
        suffix = f"_l{lane // spec.directions}{'_reverse' if lane % spec.directions else ''}"
        names += [name + suffix for name in spec.weight_names]
    devices, dtypes = ({getattr(t, of) for t in tensors[2:]} for of in ("device", "dtype"))
    if len(devices) == 1 and x.device not in devices:  # x is the odd one
        raise ValueError(f"x: got device {x.device}; expected {devices.pop()}, the weights'")
    if len(dtypes) == 1 and x.dtype not in dtypes and not autocasts:
        raise ValueError(f"x: got {x.dtype}; expected {dtypes.pop()}, the weights'")
    for name, tensor, shape in zip(names, tensors, expected, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}; expected {list(shape)}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: got device {tensor.device}; expected {x.device}, x's")
        if tensor.dtype != x.dtype and not autocasts:
            raise ValueError(f"{name}: got {tensor.dtype}; expected {x.dtype}, x's")


def expected_weights(spec: Spec, I: int, H: int, P: int) -> list[tuple[int, ...]]:
    """Return the shapes of a call's weights."""
    check_size(spec, H)
    expected: list[tuple[int, ...]] = []
    for inputs in (I, *[spec.directions * P] * (spec.layers - 1)):
        expected += shapes(spec, inputs, H, P) * spec.directions
    return expected


def check_torchs(spec: Spec, who: str) -> None:
    """Check that the cell is torch.nn's without options, all that `who`, such as "nn.LSTM", has."""
    if not CELLS[spec.cell].of_torch:
        raise ValueError(f"cell: got {spec.cell!r}; expected another: {who} has none")
    for name, value in spec.cell_options().items():
        raise ValueError(f"{name}: got {value}; expected {getattr(PLAIN, name)} for {who}")
