"""Layouts of torch: from any input of a recurrent layer to x [T, B, I], and back.

The only place that knows batch_first, unbatched input, PackedSequence and a cell's step.
`fused_lstm.call.rows` knows rows of unequal length.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected. N: packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import rows
from .rows import Rows
from .spec import Spec

State = tuple[Tensor, Tensor]


class Layout(NamedTuple):
    """The layout of a layer's input, which is that of its results."""

    batched: bool = True
    batch_first: bool = False  # padded rows are [B, T, ...]
    packed: PackedSequence | None = None

    def output(self, y: Tensor) -> Tensor | PackedSequence:
        """Return y [T, B, D * P], or packed [N, D * P], as the input lies."""
        if self.packed is not None:
            return PackedSequence(y, *self.packed[1:])
        return time_first(y, self.batch_first) if self.batched else y.squeeze(1)

    def last(self, state: Tensor) -> Tensor:
        """Return a last state [L * D, B, .], without B for unbatched input."""
        return state if self.batched else state.squeeze(1)

    def states(self, states: Tensor) -> Tensor:
        """Return the states of every step [L * D, T, B, .] with T and B as y has them."""
        if not self.batched:
            return states.squeeze(2)
        return states.transpose(1, 2) if self.batch_first else states


TIME_FIRST, BATCH_FIRST, UNBATCHED = Layout(), Layout(batch_first=True), Layout(batched=False)


def lay_out(
    input: Any, lengths: Tensor | None, resets: Tensor | None, input_size: int, batch_first: bool
) -> tuple[Tensor, Rows | None, Tensor | None, Layout]:
    """Return x [T, B, I], or packed [N, I], how its rows are packed, resets as x lies, the Layout.

    Args:
        input: [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence.
        lengths: [B], of one row too where it is unbatched; None where all rows have T steps.
        resets: bool, in the layout of input.
    """
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths: got a tensor; expected None with a PackedSequence")
        check_input(input.data, (2,), input_size, batch_first)
        check_packed(input)
        return input.data, rows.of_packed(input), resets, Layout(packed=input)
    check_input(input, (2, 3), input_size, batch_first)
    if input.dim() == 2:
        x, layout = input.unsqueeze(1), UNBATCHED
    else:
        x, layout = (input.transpose(0, 1), BATCH_FIRST) if batch_first else (input, TIME_FIRST)
    if resets is not None:
        check_dense("resets", resets)
        if not layout.batched:
            resets = resets.unsqueeze(-1)
        elif batch_first:
            resets = resets.transpose(0, -1)
    if lengths is None:
        return x, None, resets, layout
    if isinstance(lengths, Tensor) and not layout.batched:
        lengths = lengths.reshape(-1)
    return x, padded(x, lengths, batch_first), resets, layout


def time_first(x: Tensor, batch_first: bool) -> Tensor:
    """Swap T and B of x with batch_first: [B, T, ...] to [T, B, ...], or back."""
    return x.transpose(0, 1) if batch_first else x


def padded(x: Tensor, lengths: Tensor, batch_first: bool = False) -> Rows:
    """Return how rows x [T, B, ...] of unequal `lengths` are packed.

    batch_first: whether x is a transposed view of rows that lie in memory as [B, T, ...].
    """
    T, B = x.shape[:2]
    check_lengths(lengths, T, B)
    return rows.of_lengths(T, B, lengths, x.device, batch_first)


def data_of(input: Any) -> Any:
    """Return the tensor of a layer's input, a PackedSequence's data."""
    return input.data if isinstance(input, PackedSequence) else input


def with_data(input: Any, data: Tensor) -> Any:
    """Return a layer's input with another tensor."""
    return input._replace(data=data) if isinstance(input, PackedSequence) else data


def batch_of(input: Tensor | PackedSequence, batch_first: bool) -> int:
    """Return B of a layer's input."""
    if isinstance(input, PackedSequence):
        return rows.rows_of(input)
    return input.shape[0 if batch_first else 1] if input.dim() == 3 else 1


# --- one step ---


def as_step(tensor: Tensor, batched: bool = True) -> Tensor:
    """Return x, or a state, of one step [1, B, .], given [B, .], or [.] where it is unbatched."""
    tensor = tensor.unsqueeze(0)
    return tensor if batched else tensor.unsqueeze(0)


def of_step(tensor: Tensor, batched: bool = True) -> Tensor:
    """Undo `as_step`."""
    tensor = tensor.squeeze(0)
    return tensor if batched else tensor.squeeze(0)


# --- states ---


def zeros(spec: Spec, x: Tensor, B: int, H: int, P: int) -> State:
    """Return (h_0, c_0) of a call without a state, [L * D, B, .] like x."""
    lanes, C = spec.layers * spec.directions, H * spec.c_parts
    c0 = x.new_zeros(lanes, B, C)
    return (c0 if C == P else x.new_zeros(lanes, B, P)), c0


def states_of(spec: Spec, hx: Any, batched: bool) -> State:
    """Return (h_0, c_0) [L * D, B, .] from a module's `hx`; a cell without c returns h_0 twice."""
    parts: Any = hx if spec.has_c else (hx,)
    if not isinstance(parts, tuple | list) or len(parts) != len(spec.states):
        many = "a pair" if len(spec.states) == 2 else f"{len(spec.states)} tensors"
        named = ", ".join(f"{name}_0" for name in spec.states)
        raise ValueError(f"hx: got {type(hx).__name__}; expected {many} ({named})")
    if not spec.has_c and not isinstance(hx, Tensor):
        raise ValueError(f"hx: got {type(hx).__name__}; expected a tensor, h_0")
    if not all(map(is_dense, parts)):
        for name, part in zip(spec.states, parts, strict=True):
            check_dense(f"{name}_0", part)
    if not batched:
        for name, part in zip(spec.states, parts, strict=True):
            if part.dim() != 2:
                raise ValueError(f"{name}_0: got shape {list(part.shape)}; expected [L * D, H]")
        parts = [part.unsqueeze(1) for part in parts]
    if len(parts) > 2:
        parts = [parts[0], _side_by_side(spec, parts)]
    return parts[0], parts[-1]


def _side_by_side(spec: Spec, parts: Sequence[Tensor]) -> Tensor:
    """Return the states but h side by side, as they lie in c."""
    first = int(spec.projection)  # the first of the states of one shape: a projected h has another
    for name, part in zip(spec.states[1:], parts[1:], strict=True):
        if part.shape != parts[first].shape:
            got, expected = list(part.shape), list(parts[first].shape)
            raise ValueError(
                f"{name}_0: got shape {got}; expected {spec.states[first]}_0's, {expected}"
            )
    return torch.cat(list(parts[1:]), dim=-1)


# --- checks: each raises a ValueError that names the wrong argument ---


def is_dense(tensor: object) -> bool:
    """Return whether an argument is a dense, strided tensor."""
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_nested


def check_dense(name: str, tensor: Tensor) -> None:
    """Check that a tensor is dense and strided."""
    check_is_tensor(name, tensor)
    if not is_dense(tensor):
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise ValueError(f"{name}: got a {kind} tensor; expected a dense, strided one")


def check_input(x: Any, ranks: tuple[int, ...], I: int, batch_first: bool) -> None:
    """Check that a module's input is dense, of one of these ranks, and I wide."""
    if not is_dense(x):
        check_dense("input", x)
    # torch.jit.trace makes sizes tensors, and warns when they are compared.
    if x.dim() not in ranks or not (torch.jit.is_tracing() or x.shape[-1] == I):
        layout = "[B, T, I]" if batch_first else "[T, B, I]"
        layouts = f"{layout} or [T, I]" if 3 in ranks else "packed [N, I]"
        raise ValueError(f"input: got shape {list(x.shape)}; expected {layouts} with I = {I}")


def check_packed(sequence: PackedSequence) -> None:
    """Check a PackedSequence's batch_sizes and indices."""
    sizes, order, back = sequence[1:]
    check_is_tensor("batch_sizes", sizes)
    if sizes.dim() != 1 or sizes.shape[0] == 0:
        raise ValueError(f"batch_sizes: got shape {list(sizes.shape)}; expected [T], T not 0")
    if sizes.dtype != torch.int64 or sizes.device.type != "cpu":
        raise ValueError(f"batch_sizes: got {sizes.dtype} on {sizes.device}; expected int64 on cpu")
    if rows.in_a_graph():  # which does not know the values
        return
    B, N = int(sizes[0]), len(sequence.data)
    if int(sizes.min()) < 1 or bool((sizes[1:] > sizes[:-1]).any()):
        raise ValueError(f"batch_sizes: got {sizes.tolist()}; expected falling numbers, 1 at least")
    if int(sizes.sum()) != N:
        raise ValueError(f"batch_sizes: got {int(sizes.sum())} rows; expected input's, {N}")
    if order is not None or back is not None:
        check_indices(order, back, B)


def check_indices(order: Any, back: Any, B: int) -> None:
    """Check that `order` has the numbers of B rows, and that `back` is its inverse."""
    for name, index in (("sorted_indices", order), ("unsorted_indices", back)):
        check_kind(name, index, [B], torch.int64)
    if {order.device.type, back.device.type} != {"cpu"}:  # a look at them would stop a GPU
        return
    both, each = torch.stack([order, back]), torch.arange(B, device=order.device)
    if both.min() < 0 or both.max() >= B or not torch.equal(order[back], each):
        raise ValueError(
            f"sorted_indices: got {order.tolist()} with unsorted_indices {back.tolist()}; expected"
            f" the numbers from 0 to {B - 1}, and their inverse"
        )


def check_packed_as(name: str, tensor: object, input: object) -> None:
    """Check that a PackedSequence has its rows where `input`, another, has them."""
    if not isinstance(tensor, PackedSequence):
        return
    if not isinstance(input, PackedSequence):
        raise ValueError(f"{name}: got a PackedSequence; expected a tensor, as input is")
    if rows.in_a_graph():  # which does not know the values
        return
    for field in ("batch_sizes", "sorted_indices"):
        got, expected = getattr(tensor, field), getattr(input, field)
        if got is expected:
            continue
        if field == "sorted_indices":  # None: rows are in order
            B = rows.rows_of(input)
            got, expected = (range(B) if t is None else t.tolist() for t in (got, expected))
        else:
            got, expected = got.tolist(), expected.tolist()
        if list(got) != list(expected):
            raise ValueError(f"{name}: got {field} {list(got)}; expected {list(expected)}, input's")


def check_lengths(lengths: Tensor, T: int, B: int) -> None:
    """Check that lengths are [B] int64, each in 1 to T."""
    check_kind("lengths", lengths, [B], torch.int64)
    if torch.compiler.is_compiling() or B == 0:  # a graph does not know the values
        return
    if lengths.device.type == "meta":
        raise ValueError("lengths: got device meta; expected one that has their values")
    low, high = (int(n) for n in lengths.aminmax())
    if low < 1 or high > T:
        raise ValueError(f"lengths: got {low if low < 1 else high}; expected 1 to T = {T}")


def check_resets(resets: Tensor, x: Tensor) -> None:
    """Check that resets are one bool for each row of x, on x's device."""
    check_kind("resets", resets, list(x.shape[:-1]), torch.bool)
    if resets.device != x.device:
        raise ValueError(f"resets: got device {resets.device}; expected {x.device}, x's")


def check_is_tensor(name: str, tensor: object) -> None:
    """Check that an argument is a tensor."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: got {type(tensor).__name__}; expected a tensor")


def check_kind(name: str, tensor: Tensor, shape: list[int], dtype: torch.dtype) -> None:
    """Check that a tensor is dense, and has a shape and a dtype."""
    check_dense(name, tensor)
    if list(tensor.shape) != shape:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}; expected {shape}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: got {tensor.dtype}; expected {dtype}")
