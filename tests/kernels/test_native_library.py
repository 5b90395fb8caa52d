"""The native engine's library: what it defines by itself, and what a first trace sees of it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fused_lstm import native, ops

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


@pytest.mark.parametrize("name", ops.SCHEMAS)
def test_schemas_are_parsed_alike(name):
    """By module.cpp, which defined the library's, and by ops.py, which defines triton's."""
    ours = torch._C.parse_schema(f"fused_lstm_native::{name}{ops.SCHEMAS[name]}")
    assert str(getattr(ops.NATIVE, name).default._schema) == str(ours)


ALONE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
lstm, x, zeros = torch.nn.LSTM(3, 4), torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
weights = [p.detach() for p in lstm.parameters()]
y = torch.ops.fused_lstm_native.lstm(x, zeros, zeros, weights, 0.0, None, "layers", False)[0]
torch.testing.assert_close(y, lstm(x)[0])
assert "fused_lstm" not in sys.modules

import fused_lstm
program = torch.export.export(fused_lstm.LSTM(3, 4, engine="native"), (x,))
print(*{str(node.target) for node in program.graph.nodes if "fused" in str(node.target)})
"""


def test_a_fresh_process():
    """Operators are there without the package; the first trace has the layer's alone."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(native.LIBRARY)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fused_lstm_native.lstm.default"]


# --- the machine code of the products ---

PRODUCTS = ("OfRows", "OfBlocks", "multiply_transposed", "columns_of_rows", "add_words_of")
FMA = ("vfmadd", "vdpbf16ps", "vpdpbusd", "vpmaddwd")


def functions_of(library: Path) -> dict[str, list[tuple[int, str]]]:
    """Return the products' functions: mangled name -> address and instruction of each line."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, list[tuple[int, str]]] = {}
    lines: list[tuple[int, str]] | None = None
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = head[1]
            lines = found.setdefault(name, []) if any(p in name for p in PRODUCTS) else None
        elif lines is not None and (parts := re.match(r"\s+([0-9a-f]+):\s+(.*)", line)):
            lines.append((int(parts[1], 16), parts[2]))
    return found


def inner_loops(lines: list[tuple[int, str]]) -> list[list[str]]:
    """Return the loops that multiply and have no other loop in them."""
    ends = [
        (int(m[1], 16), at) for at, text in lines if (m := re.match(r"j\w+\s+([0-9a-f]+)", text))
    ]
    loops = [(start, end) for start, end in ends if start < end]
    inner = [
        (a, b)
        for a, b in loops
        if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)
    ]
    bodies = [[text for at, text in lines if a <= at <= b] for a, b in inner]
    return [body for body in bodies if any(text.startswith(FMA) for text in body)]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="needs x86-64, objdump"
)
def test_a_products_sums_are_in_registers():
    """In the loop over k no vector goes to the stack or comes from there."""
    functions = {n: lines for n, lines in functions_of(native.LIBRARY).items() if "avx" in n}
    loops = {n: inner_loops(lines) for n, lines in functions.items()}
    assert sum(map(bool, loops.values())) > 100
    spilled = [
        f"{name}: {text}"
        for name, bodies in loops.items()
        for body in bodies
        for text in body
        if re.search(r"\(%r[sb]p", text) and re.search(r"%[xyz]mm", text)
    ]
    assert spilled == []
