"""Cells that are told once, as Python functions: see `fused_lstm.cell`.

`definition.py` has the decorator. `trace.py` makes expressions of a function and its derivative,
`program.py` decides what a step saves, `print_cpp.py` and `print_triton.py` print what engines run,
and `compile.py` keeps the compiled C++. `library.py` has the library's own cells, each in a file of
its own, and `generate.py` prints their C++.
"""

from . import library  # noqa: F401  it fills in fused_lstm.call.spec.CELLS
from .definition import Cell, cell

__all__ = ["Cell", "cell"]
