"""The library's cells, as `python -m fused_lstm.cells.generate` has printed them."""

from __future__ import annotations

from .. import Cell
from . import coupled, gru, gru_dreamer, gru_zoneout, lstm, rnn_relu, rnn_tanh

CELLS: dict[str, Cell] = {
    module.CELL.name: module.CELL
    for module in (coupled, gru, gru_dreamer, gru_zoneout, lstm, rnn_relu, rnn_tanh)
}
