"""The library's own cells, each told in a file of its own, by the names that a `Spec` has.

A new cell is a file, an entry here, and a run of `python -m fused_lstm.cells.generate`, which
prints its code and its Kind.
"""

from __future__ import annotations

from typing import NamedTuple

from ..call.kinds import CELLS as KINDS
from .coupled import COUPLED
from .definition import Cell
from .gru import GRU
from .gru_dreamer import GRU_DREAMER
from .lstm import LSTM
from .rnn import RNN_RELU, RNN_TANH
from .slstm import SLSTM, SLSTM_EXPONENTIAL


class Own(NamedTuple):
    """A cell of the library's, and what its function does not say."""

    cell: Cell
    options: tuple[str, ...] = ("num_heads",)  # of Spec, that it has
    of_torch: bool = False  # a cell of torch.nn's
    wide: bool = False  # whether half precision cannot hold what a step saves
    is_lstm: bool = False  # nn.LSTM's cell or its coupled form
    is_kind: bool = True  # whether a Spec names it; else it is an option of another
    # C++ expression of the functions of a lane with options: by hand (native/cells/options.h), or
    # printed; {} where there are none.
    with_options: str = "{}"


LSTM_OPTIONS = (
    "layer_norm", "peephole", "coupled", "zoneout", "recurrent_dropout", "num_heads",
)  # fmt: skip
GRU_OPTIONS = "layer_norm", "zoneout", "recurrent_dropout", "num_heads"
SLSTM_OPTIONS = "recurrent_clip", "num_heads"

OWN = (
    Own(LSTM, LSTM_OPTIONS, of_torch=True, is_lstm=True,
        with_options="functions_of<T>(finish_options<4>, finish_options_back<4>)"),
    Own(COUPLED, is_lstm=True, is_kind=False,
        with_options="functions_of<T>(finish_options<3>, finish_options_back<3>)"),
    Own(GRU, GRU_OPTIONS, of_torch=True, with_options="printed<GruZoneoutCell, T>()"),
    Own(RNN_TANH, of_torch=True),
    Own(RNN_RELU, of_torch=True),
    Own(SLSTM, SLSTM_OPTIONS, wide=True),
    Own(SLSTM_EXPONENTIAL, SLSTM_OPTIONS, wide=True),
    Own(GRU_DREAMER),
)  # fmt: skip
CELLS: dict[str, Cell] = {own.cell.name: own.cell for own in OWN}

for name in CELLS.keys() & KINDS.keys():
    KINDS[name] = KINDS[name]._replace(cell=CELLS[name])
