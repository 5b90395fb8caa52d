"""TiRex's sLSTM cells (the package `tirex-ts`) on this library's engines.

    fused_lstm.integrations.tirex.convert(model)

A cell stays the object that it is, with its Parameters and its state_dict; its forward is ours.
TiRex computes in bfloat16 and rounds all four states to it at every step. A converted cell computes
in the dtype of its input, and keeps c, n and m in float32 at least.
"""

from __future__ import annotations

from typing import TypeVar

from tirex.models.slstm.cell import sLSTMCell
from torch import Tensor, nn

from .. import heads
from ..call.choose import check_engine
from ..call.spec import Spec
from .gates import cells_in, run_gates

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, engine: str = "auto") -> Model:
    """Make every sLSTM cell of TiRex's in a model run on an engine, in place.

    Args:
        model: any module, or a cell itself; one that is converted already takes the engine too.
        engine: as fused_lstm.SLSTM takes it.

    Returns:
        `model`, itself.

    Raises:
        ValueError: an unknown engine, or one that has no sLSTM; no cell at all. Nothing has been
            changed then.
    """
    cells = cells_in(model, sLSTMCell, "tirex")
    for cell in cells:
        check_engine(engine, None, Spec("slstm", num_heads=cell.config.num_heads))
    for cell in cells:
        cell.__class__, cell.engine = Fused, engine
    return model


class Fused(sLSTMCell):
    """Replace the forward of TiRex's cell."""

    engine: str

    def forward(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run TiRex's cell: input [B, T, 4H], states [4, B, H] -> y [B, N, T, K], states."""
        gates = self._get_input(input).flatten(2)  # [T, B, 4H]
        N, K = self.config.num_heads, self.config.head_dim
        y, last = run_gates(
            Spec("slstm", num_heads=N), self.engine, gates, self._get_state(gates, state),
            heads.from_dreamer(self._recurrent_kernel_),
            self._bias_.view(N, 4, K).transpose(0, 1).flatten(),
        )  # fmt: skip
        return self._permute_output(y).to(input.dtype), last.to(input.dtype)
