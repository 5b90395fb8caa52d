"""`Call`: everything that an engine is told of one call, from a layer's `forward` to its kernels.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions. P: the size of h,
which is H unless h is projected. N: packed rows (fused_lstm.call.rows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .spec import Spec


@dataclass(slots=True, eq=False)
class Call:
    """A call of layers. `run` of fused_lstm.call.run checks it and fills in what engines read.

    Attributes:
        spec: the cell, its options, layers and directions; for an engine also the level.
        x: [T, B, I], or packed [N, I] with batch_sizes.
        h0, c0: [L * D, B, P] and [L * D, B, H]; h0 twice for a cell without c.
        weights: lane by lane, each in the order of `Spec.weights`.
        states: whether to return the state after every step too.
        rows: how rows are packed (fused_lstm.call.rows.Rows); None where all have T steps.
        hidden_size, output_size: H and P of the layer, by which tensors are checked.
        seed: [1] int64, of all masks; None where none are drawn by counter.
        batch_sizes, not_reset: as in fused_lstm.call.rows, or None.
        is_whole: whether one operator gets the tensors as they were given, and checks them: the
            call is neither traced nor transformed.
    """

    spec: Spec
    x: Tensor
    h0: Tensor
    c0: Tensor
    weights: Sequence[Tensor]
    states: bool = False
    rows: Any = None
    hidden_size: int = 0
    output_size: int = 0
    seed: Tensor | None = None
    batch_sizes: Tensor | None = None
    not_reset: Tensor | None = None
    is_whole: bool = False

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The tensors that gradients may be asked for: x, h0, c0 and the weights."""
        return self.x, self.h0, self.c0, *self.weights

    @property
    def constants(self) -> tuple[Any, ...]:
        """The tensors without gradients: seed, batch_sizes, not_reset."""
        return self.seed, self.batch_sizes, self.not_reset


Run = Callable[[Call], tuple[Tensor, ...]]  # an engine's function: see fused_lstm.call.choose
