"""What an LSTM's arguments should be: ValueError that names the one which is not, and how."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .autocast import autocasts
from .cell import PLAIN, Cell

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_dense(name: str, tensor: Tensor) -> None:
    """Check that it is a tensor with strides, which a kernel can follow."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: got {type(tensor).__name__}; expected a tensor")
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise ValueError(f"{name}: got a tensor that is {kind}; expected a dense one, strided")


def check_tensors(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    directions: int,
    B: int,
    packed: bool,
    cell: Cell = PLAIN,
) -> None:
    """x [T, B, I], or [N, I] where it is packed; the others as fused_lstm.ops has them."""
    layout = "[N, I]" if packed else "[T, B, I]"
    if x.dim() != 3 - packed or 0 in (x.shape[0], x.shape[-1]):
        sizes = "N and I" if packed else "T and I"
        raise ValueError(f"x: got shape {list(x.shape)}, should be {layout}, {sizes} not 0")
    if x.dtype not in DTYPES:
        raise ValueError(f"x: got dtype {x.dtype}, should be one of {', '.join(map(str, DTYPES))}")
    lanes = len(h0) if h0.dim() == 3 else 0
    fits = lanes > 0 and lanes % directions == 0 and len(weights) % lanes == 0
    if not fits or len(weights) // lanes not in cell.forms:
        each = "layer" if directions == 1 else "layer and direction"
        own = list(cell.weights(1, 1, 1, True, True))[5:]
        raise ValueError(
            f"h_0: got shape {list(h0.shape)} for {len(weights)} weights, should be"
            f" [{'L' if directions == 1 else 'L * 2'}, B, H] with two weights a {each}, or four"
            " with biases, and one more where h is projected"
            + (f"; then the cell's: {', '.join(own)}" if own else "")
        )
    device, dtype, cast = x.device, x.dtype, autocasts(x.device)
    tensors, per_lane = (h0, c0, *weights), len(weights) // lanes
    for n, shape in enumerate(_shapes(x, h0, c0, per_lane, directions, B, cell)):
        tensor, wrong = tensors[n], None
        if tensor.shape != shape:
            wrong = f"got shape {list(tensor.shape)}, should be {list(shape)}"
        elif tensor.device != device:
            wrong = f"on {tensor.device}, should be on {device}, as x is"
        elif tensor.dtype != dtype and not cast:
            wrong = f"got dtype {tensor.dtype}, should be {dtype}, as x's"
        if wrong is not None:
            raise ValueError(f"{_name(n, per_lane, directions, cell)}: {wrong}")


def _shapes(x, h0, c0, per_lane: int, directions: int, B: int, cell) -> list[tuple[int, ...]]:
    """What h_0, c_0 and each of the weights should have."""
    lanes, _, P = h0.shape
    form = _, projected = cell.forms[per_lane]
    H = c0.shape[-1] if projected else P
    shapes: list[tuple[int, ...]] = [(lanes, B, P), (lanes, B, H)]
    for I in (x.shape[-1], *[directions * P] * (lanes // directions - 1)):
        shapes += [*cell.weights(I, H, P, *form).values()] * directions
    return shapes


def _name(n: int, per_lane: int, directions: int, cell: Cell) -> str:
    """What the n-th of h_0, c_0 and all weights is called in a state_dict."""
    if n < 2:
        return ("h_0", "c_0")[n]
    lane, k = divmod(n - 2, per_lane)
    name = list(cell.weights(1, 1, 1, *cell.forms[per_lane]))[k]
    return f"{name}_l{lane // directions}{'_reverse' if lane % directions else ''}"


def check_plain(cell: Cell, who: str) -> None:
    """That it is the cell of nn.LSTM, which is all that `who` has."""
    for name, value in cell.options().items():
        raise ValueError(f"{name}: got {value}, should be {getattr(PLAIN, name)}: {who} has none")


def check_lengths(lengths: Tensor, T: int, B: int) -> None:
    """[B] int64, each in 1 to T."""
    check_kind("lengths", lengths, [B], torch.int64)
    if torch.compiler.is_compiling() or B == 0:  # a graph does not know them
        return
    low, high = (int(n) for n in lengths.aminmax())
    if low < 1 or high > T:
        raise ValueError(f"lengths: got {low if low < 1 else high}, should be in 1 to T = {T}")


def check_recompute(k: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"recompute: got {k!r}, should be None or a number of steps, at least 1")


def check_resets(resets: Tensor, x: Tensor) -> None:
    """A bool for each row of x."""
    check_kind("resets", resets, list(x.shape[:-1]), torch.bool)
    if resets.device != x.device:
        raise ValueError(f"resets: on {resets.device}, should be on {x.device}, as x is")


def check_kind(name: str, tensor: Tensor, shape: list[int], dtype: torch.dtype) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: got {type(tensor).__name__}, should be a tensor")
    if list(tensor.shape) != shape:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, should be {shape}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: got dtype {tensor.dtype}, should be {dtype}")
