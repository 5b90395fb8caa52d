"""The door: operators of engine `native`, past PyTorch's dispatcher.

`torch.ops` parses a schema, puts each argument in a box, and looks for whoever else may want the
call. That takes 3 to 5 us, more than a small step. A door (native/door.cpp) gives the kernels the
same tensors. There is one with PyTorch 2.14 and later, on Linux. Elsewhere, and where somebody else
wants the call, the operator is called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from ..operator import library
from .spec import Spec

Results = tuple[Tensor, ...]  # an operator's, in a row
# (*tensors, weights: tuple) -> results, or None where it leaves the call to the operator
Door = Callable[..., Results | None]

_C = torch._C
_is_traced, _is_profiled = _C._is_tracing, _C._autograd._profiler_enabled
_dispatch_modes, _function_modes = _C._len_torch_dispatch_stack, _C._len_torch_function_stack
_is_transformed = _C._are_functorch_transforms_active


def is_open() -> bool:
    """Return whether no mode, profiler, graph or transform wants a call, and a door may be used."""
    return not (
        is_compiling() or _is_traced() or _dispatch_modes() or _function_modes() or _is_profiled()
        or _is_transformed() or forward_ad._current_level >= 0
    )  # fmt: skip


def call_layer(layer: Any, size: int, input: Any, hx: Any) -> Any:
    """Return a layer's results for a dense batch of rows, or None: its `forward` is to run it.

    It is `forward` without what such a call does not need: lengths, resets, gradients and checks,
    which the kernels make.

    Args:
        layer: has `_through_door(x, h0, c0)`, which returns `lstm`'s results or None.
        size: I, the columns of its input.
    """
    if type(input) is not Tensor or input.dim() != 3 or not is_open():
        return None
    if input.layout is not torch.strided or input.size(2) != size:
        return None
    x = input.transpose(0, 1) if layer.batch_first else input
    h0, c0 = layer._initial(x, x.size(1)) if hx is None else layer._state(hx, True)
    results = layer._through_door(x, h0, c0)
    if results is None:
        return None
    y, h_n, c_n = results
    return y.transpose(0, 1) if layer.batch_first else y, layer._joined(h_n, c_n)


Key = tuple[int, int, bool]
_DOORS: dict[Key, Door] = {}
PREPARED, FORWARD, BACKWARD = range(3)  # operators, as native/door.cpp numbers them


def of(spec: Spec, operator: int, flag: bool) -> Door:
    """Return the door to an operator for calls without packed rows, resets and masks.

    Args:
        spec: the calls', with the level.
        operator: PREPARED, FORWARD or BACKWARD: `prepared_lstm`, `lstm`, `lstm_backward`.
        flag: `weight_only` of the first, `save` of the second, `needs_dx` of the third.
    """
    key = spec.number, operator, flag
    try:
        return _DOORS[key]
    except KeyError:
        _DOORS[key] = door = _make(spec, operator, flag)
        return door


def _closed(*tensors: Tensor | tuple[Tensor, ...] | None) -> None:
    """Leave every call to the operator, where the library or PyTorch has no door."""


def _make(spec: Spec, operator: int, flag: bool) -> Door:
    if (make := _maker()) is None:
        return _closed
    rates = spec.schema.get("rates", [])
    door = make(
        Tensor, nn.Parameter, operator, flag, spec.schema_directions, spec.schema_cell.encode(),
        (spec.level or "layers").encode(), (ctypes.c_double * len(rates))(*rates), len(rates),
        None if spec.precision is None else spec.precision.encode(),
    )  # fmt: skip
    return _closed if door is None else door


@cache
def _maker() -> Callable[..., Door | None] | None:
    """Return the library's function that makes a door, or None where it has none."""
    try:
        make = ctypes.PyDLL(str(library.LIBRARY)).fused_lstm_door
    except (AttributeError, OSError):
        return None
    make.restype = ctypes.py_object
    make.argtypes = [
        ctypes.py_object, ctypes.py_object, ctypes.c_int, ctypes.c_bool, ctypes.c_int64,
        ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_double), ctypes.c_int64,
        ctypes.c_char_p,
    ]  # fmt: skip
    return make
