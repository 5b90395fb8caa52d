"""The native engine's products by themselves, and the assembly of their loops."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

from bench import kernels
from bench.cases import Shape
from fused_lstm import native
from products import products_of
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    kernels.missing() is not None, reason=f"native: {kernels.missing()}"
)

# --- answers ---

SHAPES = [  # of a layer, and the number of classes
    (Shape(1, 1, 1, 1, 1), 1),
    (Shape(3, 4, 5, 3, 1), 7),
    (Shape(2, 23, 19, 35, 1), 50),
    (Shape(5, 11, 1700, 40, 1), 9),  # more inputs than a panel packs at once
    (Shape(43, 20, 50, 70, 1), 1100),  # more rows, N and V, than a part of a product has
    (Shape(2, 3, 6, 420, 1), 4),  # more k in a step back than a part of its panel
    (Shape(2, 1600, 5, 130, 1), 3),  # a batch of more rows than a panel
    (Shape(3, 20, 9, 620, 1), 12),  # weights that are fetched ahead
]
SIZES = [pytest.param(*pair, id=f"{pair[0]} V={pair[1]}") for pair in SHAPES]


def skip_what_takes_seconds(isa: str, shape: Shape, whole: bool) -> None:
    """Other instruction sets cut a batch into panels of rows in the same way."""
    if isa == "emulated" and shape.B > 1000 and not whole:
        pytest.skip("many seconds where a matrix unit is emulated: --slow")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "classes"), SIZES)
def test_each_product_is_torchs(isa, shape, classes, dtype):
    """Each shape in one dtype on one thread and in the other on three."""
    is_odd = SHAPES.index((shape, classes)) % 2
    torch.set_num_threads(1 if is_odd == (dtype == torch.float32) else 3)
    for product in products_of(shape, classes, dtype):
        found, seconds = product.run(rounds=2)  # twice: a result must not be added to
        scale = product.left.shape[0 if product.form == "tn" else 1] ** 0.5
        assert_close(found / scale, product.expected() / scale, product.name)
        assert len(seconds) == 2
        assert min(seconds) > 0


def test_a_product_names_what_is_wrong():
    a, b = torch.zeros(6, 8), torch.zeros(8, 2)
    run = kernels.ops().product
    for message, arguments in {
        r"name: got 'dy'; expected one of input, step, step back, dx, dW, logits": ("dy", a, b),
        r"right: got shape \[8, 2\]; expected \[32, 8\]": ("step", a, b),
        r"right: got dtype Double; expected Float": ("dx", a, b.double()),
        r"left: got shape \[6, 7\]; expected four gates": ("dx", a[:, :7], b),
        r"batch: got 4; expected a divisor of the 6 rows of left": ("step back", a, b, 4),
        r"left: got shape \[6\]; expected a matrix": ("dx", a[:, 0], b),
        r"left: got dtype Half; expected float32.* or float64": ("dx", a.half(), b),
        r"rounds: got 0; expected 1 or more": ("dx", a, b, 1, 0),
    }.items():
        name, left, right, batch, rounds = (*arguments, 1, 1)[:5]
        with pytest.raises(RuntimeError, match="^ValueError: " + message):
            run(name, left, right, batch, rounds)


def test_the_best_product_is_a_rate(isa):
    torch.set_num_threads(1)
    assert 1e7 < kernels.ops().best_product(torch.float32) < 1e13


# --- registers ---


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(\S+)\s*(.*)$")
TARGET = re.compile(r"^([0-9a-f]+) <")
# A function's frame lies below rbp: at 0x0(%rbp) and on rbp is a pointer like others.
TO_STACK = re.compile(r"%[xyz]mm\d+,((0x[0-9a-f]+)?\(%rsp[,)]|-0x[0-9a-f]+\(%rbp[,)])")


def functions(listing: str) -> Iterator[tuple[str, list[Instruction]]]:
    """(name, instructions) of what objdump disassembled."""
    name, own = "", []
    for line in listing.splitlines():
        if found := FUNCTION.match(line):
            yield name, own
            name, own = found[1], []
        elif found := INSTRUCTION.match(line):
            own.append(Instruction(int(found[1], 16), found[2], found[3]))
    yield name, own


def innermost_loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """From the target of a jump backwards to the jump, where no other such loop is within."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    loops = []
    for i, instruction in enumerate(code):
        target = TARGET.match(instruction.operands) if instruction.name.startswith("j") else None
        begin = at.get(int(target[1], 16)) if target else None
        if begin is not None and begin <= i:
            loops.append((begin, i))
    for begin, end in loops:
        within = ((b, e) for b, e in loops if (b, e) != (begin, end))
        if not any(begin <= b and e <= end for b, e in within):
            yield code[begin : end + 1]


def is_product(loop: list[Instruction]) -> bool:
    """At least six multiply-adds, and nothing of the pointwise work, which has divisions."""
    names = [instruction.name for instruction in loop]
    product = re.compile(r"vfmadd\d+p[sd]$|mulp[sd]$|vdpbf16ps$")
    multiply = sum(product.match(name) is not None for name in names)
    return multiply >= 6 and not any("div" in name or name == "call" for name in names)


def spills(loop: list[Instruction]) -> list[Instruction]:
    return [i for i in loop if "mov" in i.name and TO_STACK.search(i.operands)]


def read_again(loop: list[Instruction]) -> list[Instruction]:
    """Multiply-adds with a vector in memory that one before had, its address unchanged since."""
    seen, bad = set(), []
    for instruction in loop:
        operands = instruction.operands
        place = re.match(r"(-?(?:0x[0-9a-f]+)?\([^)]*\))(?!\{1to)", operands)
        if instruction.name.startswith("vfmadd") and place:
            bad += [instruction] if place[1] in seen else []
            seen.add(place[1])
        written = operands.rsplit(",", 1)[-1]
        seen = {at for at in seen if written not in at}
    return bad


LOOP = """
0000000000001000 <product>:
    1000:\tvmovups (%rsi),%ymm1
    1004:\tvmovaps %ymm7,0x40(%rsp)
    1008:\tjmp    1010 <product+0x10>
    1010:\tvbroadcastss (%rax),%ymm0
{multiply}
{store}
    1080:\tjne    1010 <product+0x10>
    1084:\tret
"""


@pytest.mark.parametrize(
    ("store", "count"),
    [
        ("vmovaps %ymm2,0x20(%rsp)", 1),
        ("vmovaps %ymm2,-0x20(%rbp)", 1),
        ("vmovaps %ymm2,0x20(%rsp,%rax,1)", 1),
        ("vmovaps %ymm2,(%rdi)", 0),
        ("vmovaps %ymm2,0x0(%rbp)", 0),
        ("vmovaps 0x20(%rsp),%ymm2", 0),
    ],
)
def test_a_spilled_sum_is_found(store, count):
    multiply = "\n".join(
        f"    10{i}0:\tvfmadd231ps 0x20(%rdx),%ymm0,%ymm{i}" for i in range(2, 8)
    ).replace("1020", "1018")
    listing = LOOP.format(multiply=multiply, store=f"    107c:\t{store}")
    found = [loop for _, code in functions(listing) for loop in innermost_loops(code)]
    assert [is_product(loop) for loop in found] == [True]
    assert len(spills(found[0])) == count


@pytest.mark.parametrize(
    ("second", "count"),
    [("0x20(%rdx)", 1), ("0x60(%rdx)", 0), ("0x20(%rdx){1to16}", 0), ("%zmm9", 0)],
)
def test_a_vector_that_is_read_again_is_found(second, count):
    code = [
        Instruction(0, "vfmadd231ps", "0x20(%rdx),%zmm0,%zmm1"),
        Instruction(8, "vfmadd231ps", f"{second},%zmm2,%zmm3"),
    ]
    assert len(read_again(code)) == count
    code.insert(1, Instruction(4, "add", "$0x100,%rdx"))
    assert not read_again(code)


def test_no_sum_leaves_its_register():
    """In no product's loop over k, of any instruction set, dtype or tile, is a vector stored on the
    stack: each multiply-add to it would wait for the store. Where there are 32 registers, none is
    read from memory for each row of a tile: three rows took 1.5 times as long.
    """
    if shutil.which("objdump") is None:
        pytest.skip("no objdump here")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"reads x86 assembly, not {platform.machine()}'s")
    command = ["objdump", "-d", "--no-show-raw-insn", str(native.LIBRARY)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "<__asan_report" in listing:
        pytest.skip("compiled for a sanitizer")
    sets, seen, bad = ("avx512_bf16", "avx512", "avx2", "base"), {}, []
    for name, code in functions(listing):
        for loop in innermost_loops(code):
            if "finish_" in name or not is_product(loop):  # which is a cell's pointwise work
                continue
            isa = next((i for i in sets if f"{len(i)}{i}" in name), "other")
            seen[isa] = seen.get(isa, 0) + 1
            twice = read_again(loop) if "avx512" in name else []
            bad += [f"{name}: {i.name} {i.operands} at {i.address:x}" for i in spills(loop) + twice]
    assert not bad, "\n".join(bad)
    assert all(seen[isa] > 20 for isa in sets), seen
