"""A reader of a kernel's machine code (SASS): its time loop, and a step's instructions in order.

The grid barrier (triton/barrier.py) is correct only if the assembler keeps an order, which a test
of the source cannot see.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from math import prod
from pathlib import Path

Code = list[tuple[int, str]]  # (address, instruction without its predicate), in order

ARRIVES = ("RED", "REDG", "ATOM", "ATOMG")
TENSOR_CORE = ("HGMMA", "HMMA", "DMMA", "UTCHMMA")


def disassemble(cubin: bytes, *flags: str) -> str:
    """Return the text that cuobjdump, which comes with triton, prints for a cubin."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, *flags, file.name], capture_output=True, text=True, check=True)
    return done.stdout


def instructions(sass: str) -> Code:
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", sass, re.M)
    return [(int(address, 16), text) for address, text in lines]


# --- loops ---


def loops(code: Code) -> list[tuple[int, int]]:
    """Return the first and last address of every loop (a branch backwards), ordered by the last."""
    found = {}
    for address, text in code:
        target = re.match(r"BRA\b.*?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < address:
            found[int(target[1], 16)] = address  # of two branches to one place, the later
    return sorted(found.items(), key=lambda loop: loop[1])


def time_loop(code: Code) -> tuple[int, int] | None:
    """Return the longest loop, or None."""
    return max(loops(code), key=lambda loop: loop[1] - loop[0], default=None)


def inside(code: Code, loop: tuple[int, int]) -> Code:
    return [line for line in code if loop[0] <= line[0] <= loop[1]]


# --- counts ---


def count(code: Code) -> dict[str, int]:
    """Count the instructions that characterize a kernel."""
    names = Counter(text.split()[0] for _, text in code)

    def total(*prefixes: str) -> int:
        return sum(n for name, n in names.items() if name.split(".")[0] in prefixes)

    return {
        "instructions": len(code),
        "spills": total("LDL", "STL"),
        **{name: total(name) for name in TENSOR_CORE if total(name)},
        "fma": total("FFMA", "DFMA"),
        "barrier_cta": total("BAR"),
        "barrier_gpu": total(*ARRIVES),
        "acquire": sum(n for name, n in names.items() if name.startswith("CCTL.IVALL")),
    }


def bytes_of(text: str) -> int:
    """Return the bytes that a thread's load or store moves in global memory, else 0."""
    name, *rest = text.split()[0].split(".")
    if name not in ("LDG", "STG", "LDGSTS"):
        return 0
    wide = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((wide[part] for part in rest if part in wide), 4)


def multiplications(text: str) -> int:
    """Return a warp's multiplications in one tensor-core instruction (1/4 of a warp group's)."""
    name = text.split()[0]
    if group := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name):
        m, n, k = map(int, group.groups())
        return m * n * k // 4
    warp = re.match(r"HMMA\.(16)(8)(16|8|4)\.", name)
    return 0 if warp is None else 16 * 8 * int(warp[3])


def executed(code: Code, trips: Sequence[int], products: Collection[int]) -> dict[str, int] | None:
    """Count what a thread executes in a step, if no wait has to wait.

    Args:
        code: the time loop.
        trips: rounds of each loop over streamed weights, in the order of the code.
        products: multiplications that a warp may make in a step, on tensor cores.

    Returns:
        instructions; syncs of a program; bytes loaded and stored, of masked elements too; arrivals
        at barriers. None where the assembler has turned the loops into others: then the
        multiplications differ.
    """
    whole = (code[0][0], code[-1][0])
    inner = [loop for loop in loops(code) if loop != whole]
    streams = [loop for loop in inner if any(multiplications(t) for _, t in inside(code, loop))]
    rounds = list(zip(streams, trips, strict=False))
    total = Counter()
    for address, text in code:
        times = prod(n for (first, last), n in rounds if first <= address <= last)
        total["instructions"] += times
        total["syncs"] += times * (text.split()[0].split(".")[0] == "BAR")
        total["bytes"] += times * bytes_of(text)
        total["arrivals"] += times * (text.split()[0].split(".")[0] in ARRIVES)
        total["multiplications"] += times * multiplications(text)
    made = total.pop("multiplications")
    return dict(total) if made > 0 and made in products else None


# --- order ---


def _kind(address: int, text: str) -> str | None:
    """Classify an instruction for `order`."""
    name = text.split()[0]
    head, parts = name.split(".")[0], name.split(".")
    if head in ("LDG", "LDGSTS"):
        # An exchange's loads are .cg: they bypass L1, or (LDG) are marked strong.
        return "exchange" if "BYPASS" in parts or "STRONG" in parts else "load"
    if head == "STG":
        return "store"
    if head in ARRIVES:
        return "arrive"
    if head == "MEMBAR":
        return "fence" if "GPU" in parts else None
    target = re.match(r"BRA\b.*?(0x[0-9a-f]+)", text)
    if target:
        return "back" if int(target[1], 16) <= address else None
    return {"CCTL": "discard", "BAR": "sync"}.get(head)


def order(code: Code) -> list[str]:
    """Return the violations of the grid barrier's order in a time loop.

    Every arrive follows a fence of the GPU's scope, which follows a sync of the program, with no
    access to global memory in between. Every acquire (a strong load, then L1 discarded) ends a loop
    of its own. No exchange buffer is read between an arrive and the next acquire. No load takes
    the read-only path.
    """
    events = [(a, kind, text) for a, text in code if (kind := _kind(a, text)) is not None]
    merged: list[tuple[int, str, str]] = []
    for event in events:
        if event[1] == "discard" and merged and merged[-1][1] == "exchange":
            merged[-1] = (merged[-1][0], "acquire", merged[-1][2])
        else:
            merged.append(event)
    problems, arrived = [], False
    kinds = [kind for _, kind, _ in merged]
    for i, (address, kind, text) in enumerate(merged):
        where = f"{address:x}: {text}"
        if kind == "arrive":
            if kinds[max(0, i - 2) : i] != ["sync", "fence"]:
                problems.append(f"{where}: an arrive without a sync and a fence before it")
            arrived = True
        elif kind == "acquire":
            if kinds[i + 1 : i + 2] != ["back"]:
                problems.append(f"{where}: an acquire that is not in a loop of its own")
            arrived = False
        elif kind == "exchange" and arrived:
            problems.append(f"{where}: an exchange is read between an arrive and its wait")
        elif kind == "load" and ".CONSTANT" in text:
            problems.append(f"{where}: a load that may be of an older value")
    return problems
