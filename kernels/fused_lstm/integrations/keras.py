"""Keras's LSTM and GRU (the package `keras`, backend torch) on this library's kernels.

    fused_lstm.integrations.keras.install()

On a CPU Keras's layers are a Python loop over steps. With this they run the C++ kernels, in
Bidirectional too, with masks, `return_sequences`, `return_state`, `go_backwards` and `dropout`.
Layers, weights and saved files stay Keras's.

T, B, I, H: time steps, batch, input size, units.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import keras
import torch
from torch import Tensor

from ..call.choose import why_never
from ..call.run import lstm
from ..call.spec import Spec

LAYERS: dict[Any, Spec] = {keras.layers.LSTM: Spec("lstm"), keras.layers.GRU: Spec("gru")}
SWAPPED = {"gru"}  # cells whose first two gates lie the other way round in Keras
THEIRS = {layer: layer.inner_loop for layer in LAYERS}


def install() -> AbstractContextManager:
    """Let keras.layers.LSTM and GRU run this library's kernels, in this process.

    A layer runs Keras's own code where `why_keras` gives a reason. Values and gradients are those
    of Keras's loop, to rounding.

    Returns:
        A context manager whose exit calls `uninstall`.

    Raises:
        RuntimeError: Keras's backend is not torch.
    """
    if keras.backend.backend() != "torch":
        raise RuntimeError(
            f"KERAS_BACKEND: got {keras.backend.backend()!r}; expected 'torch', before keras is"
            " imported"
        )
    for layer in LAYERS:
        layer.inner_loop = inner_loop
    return Installation()


def uninstall() -> None:
    """Restore Keras's own code."""
    for layer, theirs in THEIRS.items():
        layer.inner_loop = theirs


class Installation(AbstractContextManager):
    """The context manager that `install` returns: its exit calls `uninstall`."""

    def __exit__(self, *_: object) -> None:
        uninstall()


def why_keras(layer: Any, x: Tensor) -> str | None:
    """Return why a layer runs Keras's own code; None where it runs this library's."""
    cell = layer.cell
    if cell.activation is not keras.activations.tanh:
        return "its activation is not tanh"
    if cell.recurrent_activation is not keras.activations.sigmoid:
        return "its recurrent activation is not sigmoid"
    if layer.recurrent_dropout:
        return "it has recurrent_dropout, whose masks differ by gate"
    if layer.unroll:
        return "unroll=True asks for a loop"
    if x.numel() == 0:
        return "its input is empty"
    return why_never(_spec_of(layer), x.device, x.dtype)


def inner_loop(
    self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False
) -> Any:
    """Run a layer over its steps, in place of its method of this name.

    Returns the last output [B, H], all outputs [B, T, H] (or the last, [B, 1, H]), and the states.
    """
    x = keras.ops.convert_to_tensor(sequences)
    kernel = keras.ops.convert_to_tensor(self.cell.kernel)
    x = x.to(kernel.dtype)
    if why_keras(self, x) is not None:
        kind = next(layer for layer in type(self).__mro__ if layer in THEIRS)
        return THEIRS[kind](self, sequences, initial_state, mask, training)
    if training and self.dropout:
        dropped = self.cell.get_dropout_mask(x[:, 0, :])
        x = x * dropped.unsqueeze(1)
    mask = mask[0] if isinstance(mask, list | tuple) else mask
    states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
    states = [keras.ops.convert_to_tensor(state).to(x.dtype) for state in states]
    x = x.transpose(0, 1)  # [T, B, I]
    mask = None if mask is None else keras.ops.convert_to_tensor(mask).bool().transpose(0, 1)
    if self.go_backwards:
        x, mask = x.flip(0), None if mask is None else mask.flip(0)
    weights = _weights(self, kernel)
    if mask is None:
        y, states = _run(self, x, states, weights, None)
    else:
        y, states = _masked(self, x, states, weights, mask)
    outputs = y if self.return_sequences else y[-1:]
    return y[-1], outputs.transpose(0, 1), states


def _spec_of(layer: Any) -> Spec:
    """Return the cell of a layer, or of a subclass of Keras's."""
    if not getattr(layer, "reset_after", True):
        return _reset_before()
    return next(LAYERS[kind] for kind in type(layer).__mro__ if kind in LAYERS)


@cache
def _reset_before() -> Spec:
    """Return the GRU whose reset gate comes before its product with h."""
    from ..zoo import gru_reset_before  # which takes seconds to trace

    return Spec(gru_reset_before.name)


def _weights(layer: Any, kernel: Tensor) -> list[Tensor]:
    """Return a layer's weights as `lstm` takes them.

    A GRU's gates are r, z, n there, and z, r, n here. With reset_after=False n's product with h is
    one of its own.
    """
    cell = layer.cell
    recurrent = keras.ops.convert_to_tensor(cell.recurrent_kernel)
    if not getattr(layer, "reset_after", True):
        H = len(recurrent)
        by_h, by_reset = _swapped(recurrent.T).split([2 * H, H])
        weights = [_swapped(kernel.T), by_h]
        if cell.bias is not None:
            bias = _swapped(keras.ops.convert_to_tensor(cell.bias))
            weights += [bias, bias.new_zeros(2 * H)]
        weights += [recurrent.new_zeros(H), by_reset]
        return [weight.contiguous() for weight in weights]
    weights = [kernel.T, recurrent.T]
    if cell.bias is not None:
        bias = keras.ops.convert_to_tensor(cell.bias)
        weights += [bias, torch.zeros_like(bias)] if bias.dim() == 1 else list(bias)
    if _spec_of(layer).cell in SWAPPED:
        weights = [_swapped(weight) for weight in weights]
    return [weight.contiguous() for weight in weights]


def _swapped(weight: Tensor) -> Tensor:
    """Swap the first two of three gates' rows."""
    z, r, n = weight.chunk(3)
    return torch.cat([r, z, n])


def _run(
    layer: Any, x: Tensor, states: list[Tensor], weights: list[Tensor], lengths: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Run x [T, B, I] from states [B, H] -> y [T, B, H] and the last states."""
    spec = _spec_of(layer)
    h0 = states[0].unsqueeze(0)
    c0 = states[1].unsqueeze(0) if spec.has_c else h0
    y, last = lstm(x, (h0, c0), weights, cell=spec, lengths=lengths)
    return y, [state[0] for state in last[: 1 + spec.has_c]]


def _masked(
    layer: Any, x: Tensor, states: list[Tensor], weights: list[Tensor], mask: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Run x where mask [T, B] is true; elsewhere a state stays, and the output is the last one's.

    Steps that are left out change nothing, so that the others of a row are run one after another.
    """
    order = torch.argsort(~mask, dim=0, stable=True)
    lengths = mask.sum(0)
    packed = x.take_along_dim(order.unsqueeze(-1), 0)
    y, last = _run(layer, packed, states, weights, lengths.clamp(min=1))
    place = mask.cumsum(0) - 1  # the step of a row's last output so far; -1: there is none
    none = place < 0
    y = y.take_along_dim(place.clamp(min=0).unsqueeze(-1), 0)
    y = y.masked_fill(none.unsqueeze(-1), 0.0)
    if layer.zero_output_for_mask:
        y = y.masked_fill(~mask.unsqueeze(-1), 0.0)
    runs = (lengths > 0).unsqueeze(-1)
    return y, [torch.where(runs, after, before) for after, before in zip(last, states, strict=True)]
