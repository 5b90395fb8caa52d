"""Prints the library's cells as C++ and as Triton: `python -m fused_lstm.cells.generate`.

The files lie in native/cells/printed and triton/cells/printed and are committed, since building
needs no torch; a test compares them with what this prints.
"""

from __future__ import annotations

from pathlib import Path

from ..native import build
from ..spec import CELLS as KINDS
from . import print_cpp, print_triton
from .library import CELLS
from .program import Program

FOLDER = Path(build.__file__).parent / "cells" / "printed"
TRITON_FOLDER = Path(build.__file__).parents[1] / "triton" / "cells" / "printed"
ZONEOUT = "_zoneout"  # ends the name of a cell with zoneout of its state
PRINTED = *CELLS, "gru" + ZONEOUT


def module_of(name: str) -> str:
    """Return the name of the file that a cell is told in."""
    return CELLS[name].__module__.rpartition(".")[2]


def printed(name: str) -> tuple[Program, str]:
    """Return a cell's program, with zoneout where its name says so, and a file's first line."""
    of = name.removesuffix(ZONEOUT)
    head = f"Printed by fused_lstm.cells.generate from cells/{module_of(of)}.py. Do not edit."
    return CELLS[of].program(zoneout=of != name), head


def header(name: str) -> str:
    """Return the C++ header of a cell, a struct <Name>Cell."""
    program, head = printed(name)
    of = name.removesuffix(ZONEOUT)
    facts = ", .in_layers = false" * (of in KINDS and not KINDS[of].in_layers)
    facts += ", .is_lstm = true" * (of in ("lstm", "coupled"))
    return f"// {head}\n#pragma once\n\n{print_cpp.functions(program, name, facts)}"


def triton_module(name: str) -> str:
    """Return the Triton module of a cell."""
    program, head = printed(name)
    return print_triton.source(program, name, head)


def main() -> None:
    """Write the files."""
    for folder in (FOLDER, TRITON_FOLDER):
        folder.mkdir(exist_ok=True)
    for name in PRINTED:
        (FOLDER / f"{name}.h").write_text(header(name))
        (TRITON_FOLDER / f"{name}.py").write_text(triton_module(name))


if __name__ == "__main__":
    main()
