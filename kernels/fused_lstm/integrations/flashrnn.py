"""FlashRNN's function `flashrnn(Wx, R, b, ...)` (the package `flashrnn`) on this library's engines.

    fused_lstm.integrations.flashrnn.install()

Calls on CPU tensors then run the C++ kernels, whatever backend they name; others run the package's.
It has all four functions of the package: lstm, slstm, gru and elman. What calls FlashRNN, such as
TiRex-2, needs no change.

The package's letters: T, B, G, H, D, S: time steps, batch, gates, heads, units of a head, states.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import native
from ..operator import ops
from ..operator.recurrence import LaneCell, recur
from .gates import with_bias

# By its name: the package's attribute `flashrnn` is the function, not the module.
package: Any = importlib.import_module("flashrnn.flashrnn.flashrnn")
THEIRS = package._get_kernel


class Function(NamedTuple):
    """A function of FlashRNN's: the cell that computes it, and its order of gates and biases."""

    cell: str
    states: int
    rows: tuple[int, ...] | None = None  # gates of R in our order, where it is another
    apart: bool = False  # whether the first bias is that of h's part of n


FUNCTIONS = {
    "lstm": Function("lstm", 2),
    "slstm": Function("slstm", 4),
    "elman": Function("rnn_tanh", 1),
    "gru": Function("gru", 1, (1, 2, 0), True),
}


def install() -> AbstractContextManager:
    """Let FlashRNN's function run this library's kernels for tensors on a CPU, in this process.

    Values and gradients are those of its backend `vanilla`, with `gradient_recurrent_clipval` too.
    Numbers are computed in the tensors' dtype, sums and states in float32. A config with
    `forward_clipval`, `gradient_recurrent_cut` or `constants` runs the package's own code. A
    gradient by a state other than h, after a step that is not the last, is computed by a step loop.

    Returns:
        A context manager whose exit calls `uninstall`.
    """
    package._get_kernel = kernel
    return Installation()


def uninstall() -> None:
    """Restore the package's own code."""
    package._get_kernel = THEIRS


class Installation(AbstractContextManager):
    """The context manager that `install` returns: its exit calls `uninstall`."""

    def __exit__(self, *_: object) -> None:
        uninstall()


def why_theirs(config: Any, device: torch.device) -> str | None:
    """Return why a call runs the package's own code; None where it runs ours."""
    if config.function not in FUNCTIONS:
        return f"its function is {config.function!r}"
    for name in ("forward_clipval", "gradient_recurrent_cut", "constants"):
        if getattr(config, name):
            return f"its config has {name}"
    return f"it is on {device}" if device.type != "cpu" else native.missing(device)


def kernel(config: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function that FlashRNN calls for a config, in place of its own `_get_kernel`."""

    def run(gates: Tensor, states: Tensor, R: Tensor, b: Tensor, **others: Any) -> Any:
        if why_theirs(config, gates.device) is not None:
            return THEIRS(config)(gates, states, R, b, **others)
        return _run(config, gates, states, R, b)

    return run


def _run(config: Any, gates: Tensor, states: Tensor, R: Tensor, b: Tensor) -> Any:
    """Run a call whose tensors lie as the config's internal shapes say.

    Returns the states after each step and after the last, in the internal shape of the output.
    """
    told, output = FUNCTIONS[config.function], config._internal_output_shape
    gates = _as(gates, config._internal_input_shape, "TBGHD")
    R = _as(R, config._internal_recurrent_shape, "HGDP").to(gates.dtype)
    b = _as(b, config._internal_bias_shape, "GHD").to(gates.dtype)
    first = _as(states, output, "STBHD")[:, 0].to(gates.dtype).flatten(2)  # [S, B, H * D]
    bias_m = None
    if told.rows is not None:
        R = R[:, list(told.rows)]
    if told.apart:
        bias_m, b = b[0].flatten(), b[1:]
    x_part = with_bias(gates, b).flatten(2)
    h0, *rest = first
    cell = LaneCell(told.cell, clip=config.gradient_recurrent_clipval or 0.0)
    y, h_n, c_n, c = recur(
        ops.NATIVE, cell, x_part, h0, torch.cat(rest, -1) if rest else h0, R.flatten(1, 2),
        bias_m, states=bool(rest),
    )  # fmt: skip
    N, K = gates.shape[-2:]
    every, last = [y.unflatten(-1, (N, K))], [h_n]
    if rest:  # c lies heads first: [N, T, B, S*K]
        every += c.unflatten(-1, (len(rest), K)).movedim(0, -2).unbind(-3)
        last += c_n.chunk(len(rest), -1)
    stacked = Stacked.apply(*every)  # [S, T, B, H, D]
    ended = torch.stack(last).unsqueeze(1).unflatten(-1, (N, K))
    return _as(stacked, "STBHD", output), _as(ended, "STBHD", output)


def _as(tensor: Tensor, shape: str, wanted: str) -> Tensor:
    """Permute a tensor whose dimensions `shape` names to those that `wanted` names."""
    return tensor.permute([shape.index(letter) for letter in wanted])


class Stacked(torch.autograd.Function):
    """apply(*tensors) -> their stack, in the first one's dtype.

    A tensor whose gradient is all 0 gets none, and costs nothing.
    """

    @staticmethod
    def forward(*tensors):
        return torch.stack([tensor.to(tensors[0].dtype) for tensor in tensors])

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        first, *rest = gradient.unbind(0)
        return first, *(each if each.any() else None for each in rest)
