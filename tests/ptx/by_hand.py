"""Kernels of a few instructions, for the tests of the machine itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .instructions import size_of
from .memory import Memory
from .parser import Program
from .run import STRICT, Report, Schedule, run

SHARED = 16384  # bytes that these kernels have
THREADS = 128
HEADER = """
.version 8.4
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 global_smem[];
"""
# Every kernel's registers: %t thread, %n thread of the grid, %base shared memory, and scratch.
REGISTERS = """
.reg .b64 %p<16>; .reg .b64 %at<16>; .reg .b32 %t, %n, %base; .reg .pred %q<8>;
.reg .b16 %h<32>; .reg .b32 %r<256>; .reg .f32 %f<256>; .reg .b64 %d<64>;
mov.u32 %t, %tid.x; mov.u32 %n, %ctaid.x; mad.lo.s32 %n, %n, 128, %t;
mov.u32 %base, global_smem;
"""


def kernel(body: str, pointers: int) -> Program:
    """A kernel with pointers in %p0, %p1, and so on."""
    names = [f"by_hand_param_{index}" for index in range(pointers)]
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    loads = "\n".join(f"ld.param.u64 %p{i}, [{name}];" for i, name in enumerate(names))
    return Program(
        f"{HEADER}.visible .entry by_hand({parameters})\n{{\n{REGISTERS}{loads}\n{body}\nret;\n}}\n"
    )


def launch(
    body: str,
    *tensors: Tensor,
    empty: Sequence[int] = (),
    grid: int = 1,
    threads: int = THREADS,
    seed: int = 0,
    schedule: Schedule = STRICT,
    max_instructions: int = 1_000_000,
) -> Report:
    """Run a body on tensors, which it may change. empty: those that count as not written."""
    memory = Memory()
    for index in empty:
        memory.allocate(tensors[index])
    image = memory.image((f"p{index}", tensor) for index, tensor in enumerate(tensors))
    report = run(
        kernel(body, len(tensors)), image, (grid,), threads // 32, SHARED,
        [image.address(tensor) for tensor in tensors], seed, schedule, max_instructions,
    )  # fmt: skip
    image.put_back()
    return report


def element(pointer: int, kind: str, to: str) -> str:
    """Code that puts the address of the thread's element into a register."""
    return f"mul.wide.u32 {to}, %n, {size_of(kind)}; add.s64 {to}, {to}, %p{pointer};"


def each(code: str, result: tuple[str, torch.dtype], *inputs: tuple[str, Tensor]) -> Tensor:
    """An instruction by element. In `code`, {0} is its result and {1}, {2}, ... its inputs.

    result: PTX type and torch dtype; inputs: PTX type and values [n], n a multiple of 128.
    "pred" as a type is an integer of 32 bits, which is not 0 where it holds.
    """
    kinds = [result[0], *(kind for kind, _ in inputs)]
    lines, registers = [], []
    for index, kind in enumerate(kinds):
        memory = "u32" if kind == "pred" else kind
        registers.append(f"%x{index}")
        lines.append(f".reg .{kind} %x{index};" + element(index, memory, f"%at{index}"))
        if index and kind == "pred":
            lines.append(f"ld.global.u32 %r{index}, [%at{index}];")
            lines.append(f"setp.ne.u32 %x{index}, %r{index}, 0;")
        elif index:
            lines.append(f"ld.global.{_bits(memory)} %x{index}, [%at{index}];")
    lines.append(code.format(*registers) + ";")
    if result[0] == "pred":
        lines.append("selp.u32 %r0, 1, 0, %x0; st.global.u32 [%at0], %r0;")
    else:
        lines.append(f"st.global.{_bits(result[0])} [%at0], %x0;")
    n = len(inputs[0][1])
    out = torch.zeros(n, dtype=result[1])
    report = launch("\n".join(lines), out, *(values for _, values in inputs), grid=n // THREADS)
    assert not report.findings, str(report)
    return out


def _bits(kind: str) -> str:
    return f"b{8 * size_of(kind)}"


# --- values ---

N = 1024
EDGES = [0, 1, 2, 3, 31, 32, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1]


def words(bits: int, seed: int = 0) -> np.ndarray:
    """Random words of a width, edges among them, unsigned."""
    made = np.random.default_rng(seed).integers(0, 2**bits, N, dtype=np.uint64, endpoint=False)
    rng = np.random.default_rng(seed + 1)
    made[: len(EDGES)] = rng.permutation(np.array(EDGES, np.uint64))
    made[100 : 100 + len(EDGES)] |= np.uint64(2 ** (bits - 1))
    return made.astype(f"uint{bits}")


def torch_of(values: np.ndarray) -> torch.Tensor:
    """Unsigned words become signed ones, which all torch operators know."""
    kind = values.dtype.str.replace("u", "i")
    return torch.from_numpy(values.view(kind).copy())


def integers(code: str, result: str, *inputs: tuple[str, np.ndarray]) -> np.ndarray:
    """`each` on words, by PTX types; returns unsigned words."""
    bits = int(result[1:])
    dtype = {16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    pairs = [(kind, torch_of(values)) for kind, values in inputs]
    return each(code, (result, dtype), *pairs).numpy().view(f"uint{bits}")


def signed(values: np.ndarray) -> np.ndarray:
    return values.view(values.dtype.str.replace("u", "i"))
