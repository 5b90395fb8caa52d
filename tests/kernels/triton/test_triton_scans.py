"""A scan's loads begin steps ahead, in the compiled code too."""

from __future__ import annotations

import re

import pytest

from fused_lstm.tools import sass
from test_inspect import reports


def registers(text: str, wide: bool) -> set[int]:
    """Return the registers that a part of an instruction names, of an address both."""
    found = {int(n) for n in re.findall(r"\bR(\d+)", text)}
    return found | {n + 1 for n in found if wide or f"R{n}.64" in text}


def waits(code: sass.Code) -> list[float]:
    """Return of each load in a loop, after which part of the loop its value is first read."""
    found = []
    for index, (_, text) in enumerate(code):
        name, _, operands = text.partition(" ")
        if not name.startswith("LDG"):
            continue
        loaded = registers(operands.partition(",")[0], ".64" in name)
        for count, (_, later) in enumerate([*code[index + 1 :], *code[: index + 1]], 1):
            name, _, operands = later.partition(" ")
            is_source = name.startswith(("STG", "ISETP", "FSETP"))  # its first operand too
            if loaded & registers(operands if is_source else operands.partition(",")[2], False):
                found.append(count / len(code))
                break
    return found


LOOP = [
    "LDG.E.64 R4, desc[UR4][R2.64]",
    "FADD R6, R7, R8",
    "STG.E desc[UR4][R10.64], R5",
    "LDG.E R8, desc[UR4][R2.64+0x4]",
]


def test_where_a_loaded_value_is_read():
    """The second half of 8 bytes, and a value in the round that follows."""
    assert waits([(16 * n, text) for n, text in enumerate(LOOP)]) == [0.5, 0.5]


SRU, MIN_GRU = "bench.zoo:sru", "bench.zoo:min_gru"
ROWS = ("varlen", "resets")
SLOW = pytest.mark.slow  # `make inspect` runs these too


@pytest.mark.parametrize(
    ("cell", "arch", "dtype", "rows", "loads"),
    [
        # x's parts; dy, what is saved, the state before, which min_gru's gradient lacks. Of rows
        # that begin anew also the byte that says so.
        ("alone:sru", "sm_90", "bf16", ROWS, {"forward": 5, "backward": 1 + 4 + 1 + 1}),
        pytest.param(SRU, "sm_90", "bf16", (), {"forward": 4, "backward": 1 + 4 + 1}, marks=SLOW),
        pytest.param(
            SRU, "sm_80", "bf16", ROWS, {"forward": 5, "backward": 1 + 4 + 1 + 1}, marks=SLOW
        ),
        pytest.param(MIN_GRU, "sm_90", "fp32", (), {"forward": 2, "backward": 1 + 2}, marks=SLOW),
        pytest.param(
            MIN_GRU, "sm_90", "fp32", ROWS[:1], {"forward": 2, "backward": 1 + 2}, marks=SLOW
        ),
    ],
)
def test_loads_of_a_scan_begin_two_steps_ahead(cell, arch, dtype, rows, loads, tmp_path):
    """A round is two steps. They were waited for in their own step: to hand a value on waits."""
    of = ("--arch", arch, "--dtype", dtype, "--layers", "1", "--hidden", "650", "--sass")
    of += ("--rows", *rows) if rows else ()
    for report in reports(tmp_path, *of, "--written", cell):
        assert report["whole"]["spills"] == 0
        direction = report["plan"]["direction"]
        code = [(n, line.split(maxsplit=1)[1]) for n, line in enumerate(report["sass"])]
        early = [part for part in waits(code) if part > 0.3]
        assert len(early) >= 2 * loads[direction], (direction, sorted(waits(code)))
