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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from ..operator import library
from .spec import PLAIN, Spec

# (*tensors, weights: tuple) -> an operator's results in a row, or None: it is to be called
Door = Callable[..., tuple[Any, ...] | None]

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


PREPARED, FORWARD, BACKWARD = range(3)  # operators, as native/door.cpp numbers them


class Layer(NamedTuple):
    """A layer or a cell as its door knows it, which takes `input, hx, weights`."""

    is_cell: bool
    batch_first: bool
    has_c: bool
    input_size: int
    lanes: int  # L * D
    output_size: int  # P
    columns: int  # of c


Key = tuple[str, int, bool, Layer | None]
_DOORS: dict[Key, Door] = {}


def of(spec: Spec, operator: int, flag: bool, layer: Layer | None = None) -> Door:
    """Return the door to an operator for calls without packed rows, resets and masks.

    Args:
        spec: the calls', with the level.
        operator: PREPARED, FORWARD or BACKWARD: `prepared_lstm`, `lstm`, `lstm_backward`.
        flag: `weight_only` of the first, `save` of the second, `needs_dx` of the third.
        layer: of a door that takes a layer's arguments, and returns what torch.nn's returns. Where
            `hx` is None, the state is zero.
    """
    key = spec.text, operator, flag, layer
    try:
        return _DOORS[key]
    except KeyError:
        _DOORS[key] = door = _make(spec, operator, flag, layer)
        return door


@cache
def exists() -> bool:
    """Return whether this PyTorch, system and library have doors."""
    return of(PLAIN, FORWARD, False) is not _closed


def _closed(*arguments: Any) -> None:
    """Leave every call to the operator, where the library or PyTorch has no door."""


def _make(spec: Spec, operator: int, flag: bool, layer: Layer | None) -> Door:
    if (make := _maker()) is None:
        return _closed
    rates = spec.schema.get("rates", [])
    door = make(
        Tensor, nn.Parameter, operator, flag, spec.schema_directions, spec.schema_cell.encode(),
        (spec.level or "layers").encode(), (ctypes.c_double * len(rates))(*rates), len(rates),
        None if spec.precision is None else spec.precision.encode(),
        None if layer is None else (ctypes.c_int64 * len(layer))(*layer),
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
        ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64),
    ]  # fmt: skip
    return make
