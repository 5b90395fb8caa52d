"""The library's own cells, each told in a file of its own, by the names that a `Spec` has."""

from __future__ import annotations

from ..spec import CELLS as KINDS
from .coupled import COUPLED
from .definition import Cell
from .gru import GRU
from .gru_dreamer import GRU_DREAMER
from .lstm import LSTM
from .rnn import RNN_RELU, RNN_TANH
from .slstm import SLSTM, SLSTM_EXPONENTIAL

CELLS: dict[str, Cell] = {
    told.name: told
    for told in (
        LSTM, COUPLED, GRU, RNN_TANH, RNN_RELU, GRU_DREAMER, SLSTM, SLSTM_EXPONENTIAL,
    )
}  # fmt: skip

for name in CELLS.keys() & KINDS.keys():
    KINDS[name] = KINDS[name]._replace(cell=CELLS[name])
