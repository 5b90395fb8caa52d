"""`GRU`, a drop-in for torch.nn.GRU: its cell on the same lanes, engines and fusions as `LSTM`.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cell import GRU as CELL
from .checks import check_recompute
from .engines import check_engine
from .functional import State
from .recurrent import Recurrent


class GRU(Recurrent):
    """A multi-layer GRU: write it where `torch.nn.GRU` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.GRU's (gate order
    r, z, n; Cho et al. 2014, with the reset gate behind R h and its bias, as cuDNN has it).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as torch.nn.GRU.
        engine, fuse, recompute: as fused_lstm.LSTM.

    Raises:
        ValueError: an unknown engine, or an engine or a level that has no GRU.

    Shapes:
        input [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence; the
        state, which may be left out, h_0 [L * D, B, H], or without B for unbatched input. Returns
        y and h_n in the same layout. Two arguments of a call are added, see `forward`.
    """

    theirs, cell = nn.GRU, CELL

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
        recompute: int | None = None,
    ) -> None:
        check_engine(engine, fuse, CELL.on)
        if recompute is not None:
            check_recompute(recompute)
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.engine, self.fuse, self.recompute = engine, fuse, recompute

    def _zeros(self, x: Tensor, B: int) -> State:
        h = x.new_zeros(self.num_layers * (1 + self.bidirectional), B, self.hidden_size)
        return h, h

    def _given(self, hx: Tensor, batched: bool) -> State:
        if not isinstance(hx, Tensor):
            raise ValueError(f"hx: got {type(hx).__name__}, should be a tensor, h_0")
        h = self._with_rows("h_0", hx, self.hidden_size, batched)
        return h, h

    def _state_of(self, h_n: Tensor, c_n: Tensor) -> Tensor:
        return h_n
