"""The library's cells, as `python -m fused_lstm.cells.generate` has printed them."""

from __future__ import annotations

from importlib import import_module

from .. import KernelCell

NAMES = (
    "coupled", "gru", "gru_dreamer", "gru_zoneout", "lstm", "rnn_relu", "rnn_tanh", "slstm",
    "slstm_exponential",
)  # fmt: skip
CELLS: dict[str, KernelCell] = {name: import_module(f".{name}", __name__).CELL for name in NAMES}
