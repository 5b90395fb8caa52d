"""Prints the library's cells, and their Kinds: `python -m fused_lstm.cells.generate`.

The files lie in native/cells/printed, triton/cells/printed and fused_lstm/call/kinds.py. They are
committed, since building needs no torch; a test compares them with what this prints.
"""

from __future__ import annotations

from pathlib import Path

from ..call.kind import Kind
from ..native import build
from . import print_cpp, print_triton
from .library import CELLS, OWN, Own
from .program import Program

FOLDER = Path(build.__file__).parent / "cells" / "printed"
TRITON_FOLDER = Path(build.__file__).parents[1] / "triton" / "cells" / "printed"
KINDS = Path(build.__file__).parents[1] / "call" / "kinds.py"
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
    (own,) = (own for own in OWN if own.cell.name == name.removesuffix(ZONEOUT))
    in_layers = own.of_torch or own.is_lstm
    facts = ", .in_layers = false" * (not in_layers) + ", .is_lstm = true" * own.is_lstm
    return f"// {head}\n#pragma once\n\n{print_cpp.functions(program, name, facts)}"


def table() -> str:
    """Return the C++ header that has all cells, and their functions in the order of OWN."""
    includes = "".join(f'#include "cells/printed/{name}.h"\n' for name in sorted(PRINTED))
    rows = "".join(f"      {row(own)},\n" for own in OWN)
    return (
        "// Printed by fused_lstm.cells.generate from cells/library.py. Do not edit.\n"
        "#pragma once\n\n"
        f'#include "cells/of_lane.h"\n{includes}\nnamespace fused_lstm::FL_ISA {{\n\n'
        "// The library's cells, for one instruction set.\ntemplate <class T>\n"
        f"const auto& own_cells() {{\n  static const OwnCell all[] = {{\n{rows}  }};\n"
        "  return all;\n}\n\n}  // namespace fused_lstm::FL_ISA\n"
    )


def row(own: Own) -> str:
    """Return a cell's OwnCell."""
    struct = print_cpp.struct_name(own.cell.name)
    shape, functions = f"{struct}::shape", f"printed<{struct}, T>()"
    return f'{{"{own.cell.name}", {shape}, {functions},\n       {own.with_options}}}'


def kinds() -> str:
    """Return call/kinds.py."""
    text = "".join(
        f"    {own.cell.name!r}: {kind_of(own)},\n" for own in OWN if own.is_kind
    ).replace("'", '"')
    return (
        '"""The library\'s cells. Printed by fused_lstm.cells.generate. Do not edit."""\n\n'
        "# ruff: noqa: E501\n\n"
        f"from .kind import Kind\n\nCELLS = {{\n{text}}}  # fmt: skip\n"
    )


def kind_of(own: Own) -> str:
    """Return the expression of a cell's Kind: what is not a Kind's default."""
    cell, gates = own.cell, own.cell.gates
    of_h = len(gates.by_h)
    fields = {
        "options": own.options,
        "states": ("h", *cell.states) if cell.has_c else ("h",),
        "of_torch": own.of_torch,
        "apart": len(gates.of_h),
        "h_gates": None if of_h == len(gates.by_x) else of_h,
        "projects": own.is_lstm,
        "is_lstm": own.is_lstm,
        "kept": cell.program().columns,
        "wide": own.wide,
    }
    defaults = Kind._field_defaults
    told = [f"{len(gates.by_x)}"]
    told += [f"{name}={value!r}" for name, value in fields.items() if value != defaults.get(name)]
    return f"Kind({', '.join(told)})"


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
    (FOLDER / "all.h").write_text(table())
    KINDS.write_text(kinds())


if __name__ == "__main__":
    main()
