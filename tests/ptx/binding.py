"""The structures and functions of the machine's C++, through ctypes: machine/program.h, api.cpp."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int32, c_int64, c_uint64
from functools import cache

from .build import library

# Operand.kind
REGISTER_32, REGISTER_64, PREDICATE, CONSTANT, MEMORY, LABEL, NOTHING = range(7)

TYPES = {
    "u8": 0, "s8": 1, "b8": 2, "u16": 3, "s16": 4, "b16": 5, "f16": 6, "bf16": 7, "u32": 8,
    "s32": 9, "b32": 10, "f32": 11, "u64": 12, "s64": 13, "b64": 14, "f64": 15, "pred": 16,
    "tf32": 17,
}  # fmt: skip
SPACES = {"global": 0, "shared": 1, "param": 2, "local": 3}
SCOPES = {"cta": 0, "cluster": 1, "gpu": 2, "sys": 3}
BYPASS_L1, STRONG, ACQUIRE, RELEASE = 1, 2, 4, 8
SPECIAL = [
    *(f"%{name}.{axis}" for name in ("tid", "ctaid", "ntid", "nctaid") for axis in "xyz"),
    "%laneid",
    "%warpid",
]


class Operand(ctypes.Structure):
    _fields_ = [
        *[(name, c_int32) for name in ("kind", "base", "index", "negated")],
        ("value", c_int64),
    ]


class Instruction(ctypes.Structure):
    _fields_ = [
        *[(name, c_int32) for name in ("op", "guard", "guard_negated", "aligned", "groups")],
        ("modifier", c_int32 * 8),
        ("first", c_int32 * 12),
        ("size", c_int32 * 12),
    ]


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Launch(ctypes.Structure):
    _fields_ = [
        *_fields(c_uint64, "seed max_instructions"),
        ("grid", c_int32 * 3),
        *_fields(c_int32, "warps shared_bytes shared_base local_bytes"),
        *_fields(c_int32, "registers_32 registers_64 predicates"),
        *_fields(c_int32, "burst split_ppm other_ppm slow l1 evict_ppm delay drain_ppm lazy races"),
        *_fields(c_int32, "max_findings"),
    ]


class Result(ctypes.Structure):
    _fields_ = [
        *_fields(c_uint64, "instructions stale_loads polls sleeps splits delayed_stores"),
        *_fields(c_uint64, "barriers products"),
        ("seconds", c_double),
        ("failed", c_int32),
    ]


@cache
def machine() -> ctypes.CDLL:
    """The machine, compiled where it was not yet."""
    loaded = ctypes.CDLL(str(library()))
    loaded.ptx_names.restype = ctypes.c_char_p
    for index, structure in enumerate((Operand, Instruction, Launch, Result)):
        if loaded.ptx_size(index) != ctypes.sizeof(structure):
            raise RuntimeError(f"{structure.__name__} is another one in machine/program.h")
    return loaded


@cache
def opcodes() -> dict[str, int]:
    """Name -> place in the machine's table of instructions."""
    found, op = {}, 0
    while names := machine().ptx_names(op):
        found |= dict.fromkeys(names.decode().split(), op)
        op += 1
    return found
