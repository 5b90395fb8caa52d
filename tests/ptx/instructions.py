"""An instruction's full name -> its entry in the machine's table, and its modifiers.

Most names stand in machine/instructions.cpp as they are. Here are the families, whose names say
types, memory spaces, scopes or shapes; each function returns the modifiers in the order that the
instruction's C++ lists them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .binding import ACQUIRE, BYPASS_L1, RELEASE, SCOPES, SPACES, STRONG, TYPES, opcodes


class Unsupported(Exception):
    """PTX that the machine does not know, by name."""


class Decoded(NamedTuple):
    op: int  # in the machine's table
    modifiers: list[int]
    aligned: bool  # all lanes of a warp execute it together


SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


def size_of(name: str) -> int:
    """Bytes of a type: u8, bf16, b64."""
    return SIZES[re.sub(r"^[a-z]+", "", name)]


def decode(name: str) -> Decoded:
    """Raises Unsupported, with the name."""
    table = opcodes()
    if name in table:
        aligned = ".aligned" in name or name in ALWAYS_ALIGNED
        return Decoded(table[name], [], aligned)
    for pattern, entry, modifiers in FAMILIES:
        match = re.fullmatch(pattern, name)
        if match:
            entry = entry.format(*match.groups())
            try:
                return Decoded(table[entry], modifiers(*match.groups()), ".aligned" in name
                               or entry in ALWAYS_ALIGNED)  # fmt: skip
            except (KeyError, ValueError):  # a modifier that is none of the family's
                break
    raise Unsupported(name)


# A warp executes these together whatever the name says: .sync names all its lanes.
ALWAYS_ALIGNED = {"bar.sync", "barrier.sync", "bar.warp.sync", "shfl", "vote", "redux"}

# --- families ---


def _index(words: str, word: str) -> int:
    return words.split().index(word)


COMPARISONS = {"eq": 0, "ne": 1, "lt": 2, "le": 3, "gt": 4, "ge": 5}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
OR_UNORDERED, ORDERED, UNORDERED = 8, 16, 17


def _setp(comparison: str, combine: str | None, kind: str) -> list[int]:
    how = _index("and or xor", combine) + 1 if combine else 0
    if comparison in UNSIGNED:
        comparison, kind = UNSIGNED[comparison], "u" + kind[1:]
    in_pairs, kind = kind.endswith("x2"), kind.removesuffix("x2")
    more = [TYPES[kind], how, int(in_pairs)]
    if comparison in ("num", "nan"):
        return [ORDERED if comparison == "num" else UNORDERED, *more]
    is_float = kind in ("f16", "bf16", "f32", "f64")
    if is_float and comparison not in COMPARISONS and comparison.endswith("u"):
        return [COMPARISONS[comparison[:-1]] + OR_UNORDERED, *more]
    return [COMPARISONS[comparison], *more]


ROUNDINGS = {"rn": 0, "rz": 1, "rm": 2, "rp": 3, "rni": 4, "rzi": 5, "rmi": 6, "rpi": 7}


def _cvt(words: str, to: str, source: str) -> list[int]:
    words = [word for word in words.split(".") if word]
    saturate = int("sat" in words)
    rounding = [ROUNDINGS[word] for word in words if word != "sat"]
    to_float, from_float = "f" in to, "f" in source
    if to_float and any(r in (1, 2, 3) for r in rounding):
        raise ValueError("a float rounded another way than to nearest")
    if not to_float and from_float and not rounding:
        rounding = [1]
    return [TYPES[to], TYPES[source], rounding[0] if rounding else 0, saturate]


CACHED = {"ca", "wb", "cs", "lu", "wt", "nc", "weak", "L1::evict_last", "L1::evict_first",
          "L1::no_allocate", "L1::evict_normal"}  # fmt: skip
SEMANTICS = {
    "cg": BYPASS_L1,
    "cv": BYPASS_L1,
    "relaxed": BYPASS_L1 | STRONG,
    "volatile": BYPASS_L1 | STRONG,
    "acquire": BYPASS_L1 | STRONG | ACQUIRE,
    "release": BYPASS_L1 | STRONG | RELEASE,
    "acq_rel": BYPASS_L1 | STRONG | ACQUIRE | RELEASE,
}


def _semantics(words: list[str], scope: int) -> tuple[int, int]:
    """What words say of order and scope; a word that says neither is a KeyError."""
    semantics = 0
    for word in words:
        if word in SCOPES:
            scope = SCOPES[word]
        elif word not in CACHED:
            semantics |= SEMANTICS[word]
    return semantics, SCOPES["sys"] if "volatile" in words else scope


def _access(words: str, kind: str) -> list[int]:
    words = words.replace("shared::cta", "shared").split(".")
    space = next((SPACES[word] for word in words if word in SPACES), None)
    if space is None:
        raise ValueError("a generic address")
    count = next((int(word[1:]) for word in words if re.fullmatch("v[248]", word)), 1)
    rest = [word for word in words if word not in SPACES and not re.fullmatch("v[248]", word)]
    semantics, scope = _semantics(rest, SCOPES["gpu"])
    if space != SPACES["global"]:
        semantics = 0
    return [space, size_of(kind), int(kind[0] == "s"), count, semantics, scope]


OPERATIONS = "add min max and or xor exch cas"


def _atomic(head: str, words: str, kind: str) -> list[int]:
    words = words.split(".")
    words.remove("global")
    (operation,) = [word for word in words if word in OPERATIONS.split()]
    words.remove(operation)
    semantics, scope = _semantics(words, SCOPES["gpu"])
    number = {"u": 0, "b": 0, "s": 1, "f": 2}[kind[0]]
    if size_of(kind) < 4:
        raise ValueError("atomics of less than 32 bits")
    operation = _index(OPERATIONS, operation)
    return [operation, size_of(kind), number, semantics | STRONG, scope, int(head == "atom")]


def _mma(k: str, kind: str) -> list[int]:
    if k not in ({"tf32": ("4", "8")}.get(kind, ("8", "16"))):
        raise ValueError("no such shape")
    return [int(k)]


REDUCTIONS = "add and or xor min.s32 max.s32 min.u32 max.u32"


def _redux(operation: str, kind: str) -> list[int]:
    return [_index(REDUCTIONS, f"{operation}.{kind}" if operation[0] == "m" else operation)]


# (pattern of the whole name, entry of the machine's table, modifiers from the pattern's groups)
FAMILIES = [
    (r"mov\.(?:pred|[busf](16|32|64))", "mov", lambda bits: [int(bits or 1)]),
    (r"setp\.(\w+)(?:\.(and|or|xor))?\.(\w+)", "setp", _setp),
    (r"cvt((?:\.[a-z]+)*?)\.([usf]\d+|bf16)\.([usf]\d+|bf16)", "cvt", _cvt),
    (r"ld\.(.+)\.(\w+)", "ld", _access),
    (r"st\.(.+)\.(\w+)", "st", _access),
    (r"(atom|red)\.(.+)\.(\w+)", "atom", _atomic),
    (r"(?:membar|fence)(?:\.acq_rel|\.sc)?\.(cta|cluster|gpu|sys)", "fence",
     lambda scope: [SCOPES[scope]]),
    (r"membar\.gl", "fence", lambda: [SCOPES["gpu"]]),
    (r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16", "{0}matrix",
     lambda _, count, trans: [int(count), int(bool(trans))]),
    (r"cp\.async\.(ca|cg)\.shared\.global(?:\.L2::\w+)?", "cp.async",
     lambda cache: [0, int(cache == "cg")]),  # the first is an operand: bytes
    (r"cp\.async\.wait_all", "cp.async.wait_group", lambda: [-1]),
    (r"mma\.sync\.aligned\.m16n8k(\d+)\.row\.col\.f32\.(tf32|bf16|f16)\.\2\.f32", "mma.{1}", _mma),
    (r"mma\.sync\.aligned\.m16n8k(4|8|16)\.row\.col\.f64\.f64\.f64\.f64", "mma.f64",
     lambda k: [int(k)]),
    (r"mma\.sync\.aligned\.m8n8k4\.row\.col\.f64\.f64\.f64\.f64", "mma.m8n8k4.f64", lambda: []),
    (r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(8|16)\.f32\.(tf32|bf16|f16)\.\3",
     "wgmma.mma_async", lambda n, k, kind: [int(n), int(k), TYPES[kind], 0, 0]),
    (r"wgmma\.wait_group\.sync\.aligned", "wgmma.wait_group", lambda: [0]),  # an operand
    (r"shfl\.sync\.(up|down|bfly|idx)\.b32", "shfl", lambda how: [_index("up down bfly idx", how)]),
    (r"vote\.sync\.(ballot|any|all|uni)\.(?:b32|pred)", "vote",
     lambda how: [_index("ballot any all uni", how)]),
    (r"redux\.sync\.(\w+)\.([bus]32)", "redux", _redux),
]  # fmt: skip
