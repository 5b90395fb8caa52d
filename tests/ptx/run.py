"""One launch on the machine, under one schedule, and what was found."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from . import binding
from .memory import BASE, Image
from .parser import SHARED_BASE, Program


@dataclass(frozen=True)
class Schedule:
    """How freely the machine deals with what PTX leaves open; "ppm" is a chance in a million."""

    burst: int = 1  # mean instructions that a warp runs on once it is drawn
    split_ppm: int = 0  # lanes of a warp part before an instruction
    other_ppm: int = 0  # lanes run ahead instead of waiting for those behind
    slow: int = 0  # 1: some programs or warps are slow for a while
    l1: int = 0  # 1: an L1 a program, which keeps old lines
    evict_ppm: int = 0  # a line is dropped after a load
    delay: int = 0  # 1: plain stores to global memory become visible late
    drain_ppm: int = 0  # one of them does after a warp's turn
    lazy: int = 0  # asynchronous work happens at once (0), at some time (1), when waited for (2)
    races: int = 2  # looks for none (0), in global memory (1), in shared memory too (2)
    max_findings: int = 200


STRICT = Schedule()  # sequentially consistent
WEAK = Schedule(
    split_ppm=2000, other_ppm=100_000, slow=1, l1=1, evict_ppm=1000, delay=1, drain_ppm=20_000,
    lazy=1,
)  # fmt: skip


@dataclass
class Finding:
    kind: str
    pc: int
    before_pc: int  # the earlier instruction of a race, or -1
    count: int
    text: str
    where: str  # the two instructions, with their source lines
    source: str  # the first one's source line

    @property
    def is_harmless(self) -> bool:
        """Two warps that write the same value to the same place."""
        return "equal values" in self.kind

    def __str__(self) -> str:
        return f"{self.kind} ({self.count} times): {self.text}\n{self.where}"


@dataclass
class Report:
    kernel: str
    findings: list[Finding]  # harmless ones left out
    stats: dict[str, float]  # binding.Result, by name
    executed: np.ndarray  # how often each instruction was
    program: Program

    def __str__(self) -> str:
        return "\n".join([self.kernel, *map(str, self.findings or ["nothing found"])])


def run(
    program: Program,
    image: Image,
    grid: Sequence[int],
    warps: int,
    shared: int,
    arguments: Sequence[float],
    seed: int = 0,
    schedule: Schedule = WEAK,
    max_instructions: int = 2_000_000_000,
) -> Report:
    """Run a launch; `image` is global memory before and after. shared: bytes a program."""
    launch = binding.Launch(
        seed=seed, max_instructions=max_instructions, warps=warps,
        shared_bytes=-(-shared // 16) * 16, shared_base=SHARED_BASE,
        local_bytes=program.local_bytes,
        registers_32=program.counts[binding.REGISTER_32],
        registers_64=max(1, program.counts[binding.REGISTER_64]),
        predicates=max(1, program.counts[binding.PREDICATE]), **asdict(schedule),
    )  # fmt: skip
    launch.grid[:] = [*grid, 1, 1][:3]
    parameters = _pack(program, arguments)
    executed = np.zeros(max(1, len(program)), np.uint64)
    result, text = binding.Result(), ctypes.create_string_buffer(1 << 20)

    def pointer(array: np.ndarray) -> ctypes.c_void_p:
        return array.ctypes.data_as(ctypes.c_void_p)

    binding.machine().ptx_run(
        ctypes.byref(launch), program.instructions, len(program), program.operands,
        program.constants, len(program.constants), pointer(image.bytes), pointer(image.written),
        ctypes.c_uint64(BASE), ctypes.c_uint64(len(image.bytes)), parameters,
        program.parameter_bytes, pointer(executed), ctypes.byref(result), text,
        ctypes.c_uint64(len(text)),
    )  # fmt: skip
    found = [_finding(line, program, image) for line in text.value.decode().splitlines()]
    stats = {name: getattr(result, name) for name, _ in binding.Result._fields_}
    findings = [finding for finding in found if not finding.is_harmless]
    return Report(program.name, findings, stats, executed, program)


def _pack(program: Program, arguments: Sequence[float]) -> bytes:
    """The parameters' bytes."""
    packed = bytearray(max(1, program.parameter_bytes))
    for value, (_, kind, at) in zip(arguments, program.parameters, strict=True):
        if kind in ("f32", "f64"):
            struct.pack_into("<f" if kind == "f32" else "<d", packed, at, value)
        else:
            bits = int(re.sub(r"\D", "", kind))
            packed[at : at + bits // 8] = (int(value) & 2**bits - 1).to_bytes(bits // 8, "little")
    return bytes(packed)


def _finding(line: str, program: Program, image: Image) -> Finding:
    kind, pc, before_pc, count, _, text = line.split("\t", 5)
    pc, before_pc = int(pc), int(before_pc)
    text = re.sub(r"0x[0-9a-f]+", lambda match: image.name_of(int(match[0], 16)), text)
    text = re.sub(r"pc (\d+)", lambda match: program.where(int(match[1])), text)
    where = f"    {program.where(pc)}"
    if before_pc >= 0:
        where += f"\n    after {program.where(before_pc)}"
    return Finding(kind, pc, before_pc, int(count), text, where, program.places[pc][1])
