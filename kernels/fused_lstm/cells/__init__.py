"""Cells that are told once, as Python functions: see `fused_lstm.cell`.

`definition.py` has the decorator. `trace.py` makes expressions of a function and its derivative,
`program.py` decides what a step saves, `print_cpp.py` and `print_triton.py` print what engines run,
and `compile.py` keeps the compiled C++.
"""

from .definition import Cell, cell

__all__ = ["Cell", "cell"]
