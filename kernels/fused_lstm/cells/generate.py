"""Prints the C++ of the library's cells: `python -m fused_lstm.cells.generate`.

The files lie in native/cells/printed and are committed, since building needs no torch; a test
compares them with what this prints.
"""

from __future__ import annotations

from pathlib import Path

from ..native import build
from . import print_cpp
from .library import CELLS

FOLDER = Path(build.__file__).parent / "cells" / "printed"
# By hand stay a GRU, whose layer normalization shares its code, and an sLSTM, whose gradients by
# the stabilizer m are not sums of what cancels: dW_ih of 300 steps is 5.6e-7 from float64's by
# hand, 1.9e-6 printed.
PRINTED = "lstm", "coupled", "rnn_tanh", "rnn_relu", "gru_dreamer"


def header(name: str) -> str:
    """Return the header of a cell, finish_<name> and finish_<name>_back."""
    told = CELLS[name]
    module = told.__module__.rpartition(".")[2]
    printed = print_cpp.functions(told.program(), name)
    head = f"// Printed by fused_lstm.cells.generate from cells/{module}.py. Do not edit."
    return f"{head}\n#pragma once\n\n{printed}"


def main() -> None:
    """Write the headers."""
    FOLDER.mkdir(exist_ok=True)
    for name in PRINTED:
        (FOLDER / f"{name}.h").write_text(header(name))


if __name__ == "__main__":
    main()
