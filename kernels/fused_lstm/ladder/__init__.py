"""The levels below fuse="steps": what the fusions of steps and of layers are compared with.

    none        every product and every pointwise operation is a launch: engine `loop` (loop.py)
    pointwise   the same loop with one launch for a cell's pointwise part (cell.py)
    hoisted     and every product that needs no order in time once, outside the loop (hoisted.py)

They are nn.LSTM's cell, gates coupled or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

from torch import Tensor

from .. import stack
from ..spec import Spec
from . import cell, hoisted, loop


def run(
    ops: SimpleNamespace,
    spec: Spec,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    drop: stack.Drop | None,
    batch_sizes: Tensor | None,
    not_reset: Tensor | None,
    states: bool,
) -> tuple[Tensor, ...]:
    """Run a call at level "pointwise" or "hoisted", as in fused_lstm.choose, with an engine's cell.

    drop: the dropout between layers.
    """
    call = spec, x, h0, c0, weights, batch_sizes, not_reset, states
    if spec.level == "hoisted":
        return hoisted.steps(*call, cell.fused(ops), drop)
    return loop.steps(*call, partial(cell.cell, ops), drop)
