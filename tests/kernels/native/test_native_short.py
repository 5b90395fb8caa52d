"""Short calls of the native engine: weights read as they lie, in their own dtype."""

from __future__ import annotations

import functools
import itertools
import sys

import pytest
import torch
from torch import Tensor

import fresh
from bench import kernels
from cases import LanesCase as Case
from cases import Shape
from fused_lstm import native, reference
from test_native_lanes import SEED, Problem, forward, make_problem
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)

# Sizes about those of a vector, of bfloat16 two: 4 to 32 elements, whole and not.
WIDTHS = (1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 130)
CASES = [
    *(Case(Shape(2, 1, width, width, 2)) for width in WIDTHS),
    *(Case(Shape(1, rows, 19, 21, 1)) for rows in (1, 2, 3, 5, 6, 7, 11, 13)),  # tiles of rows
    Case(Shape(1, 1, 1, 1, 1), bias=False),
    Case(Shape(3, 2, 40, 5, 3), bias=False),
    Case(Shape(3, 2, 5, 40, 1)),
    Case(Shape(16, 1, 6, 300, 1)),
    Case(Shape(4, 3, 5, 37, 3), dropout=0.4),
    Case(Shape(4, 3, 5, 37, 3), directions=2, dropout=0.4),
    Case(Shape(1, 1, 5, 70, 2), directions=2),
    Case(Shape(3, 2, 6, 70, 2), projected=33, bias=False),
    Case(Shape(3, 2, 6, 40, 2), projected=39, directions=2),
    Case(Shape(4, 3, 4, 6, 2), lengths=(4, 3, 1), dead=2),
    Case(Shape(4, 4, 7, 35, 2), lengths=(3, 3, 2, 1), directions=2, resets=True),  # empty steps
    Case(Shape(4, 3, 4, 20, 2), resets=True, projected=11),
    Case(Shape(3, 0, 5, 6, 2), directions=2),
]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@functools.cache  # for all instruction sets and teams
def solved(case: Case, dtype) -> tuple[Problem, tuple[Tensor, ...]]:
    """A problem and what the reference makes of it; of 16 bits, in float32."""
    problem = make_problem(case, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, h0, c0 = (t.to(wide) for t in problem[:3])
    weights = [w.to(wide) for w in problem.weights]
    given = (x, h0, c0, weights, case.dropout, SEED)
    return problem, tuple(t.to(dtype) for t in reference.lstm(*given, **problem.lanes))


def is_short(case: Case, dtype=torch.float32, save=False, **options) -> bool:
    T, B, I, H, L = case.shape
    options |= {"directions": case.directions, "projected": case.projected}
    options |= {"even": case.lengths is None and not case.resets, "dropout": case.dropout > 0}
    dtype = torch.float32 if dtype == torch.float16 else dtype
    return "a short call" in kernels.ops().plan(
        T, B, I, H, L, "layers", save, dtype=dtype, **options
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(isa, case, dtype):
    problem, expected = solved(case, dtype)
    for threads, save in itertools.product((1, 2), (False, True)):
        torch.set_num_threads(threads)
        assert is_short(case, dtype)
        *results, h, c, gates = forward(case, problem, "layers", save)
        for name, value, theirs in zip(("y", "h_n", "c_n"), results, expected, strict=True):
            assert value.dtype == dtype, name
            assert_close(value, theirs, f"{name}, save={save}, {threads} threads")
        assert (h.numel() + c.numel() + gates.numel() > 0) == (save and case.shape.B > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("directions", [1, 2])
def test_bits_do_not_depend_on_the_team(isa, dtype, directions):
    case = Case(Shape(4, 3, 70, 90, 2), directions=directions, projected=50)
    problem = make_problem(case, dtype)
    assert is_short(case, dtype)
    torch.set_num_threads(1)
    expected = forward(case, problem, "layers", True)
    for threads, fuse in itertools.product((1, 2, 3, 4, 5), ("steps", "layers")):
        torch.set_num_threads(threads)
        for value, theirs in zip(forward(case, problem, fuse, True), expected, strict=True):
            assert torch.equal(value, theirs), (threads, fuse)


@torch.inference_mode()
def test_rows_do_not_know_of_each_other(isa):
    """The first of many rows has the bits that it has alone."""
    case = Case(Shape(1, 13, 33, 45, 1))
    problem = make_problem(case, torch.float32)
    x, h0, c0, weights, _, _ = problem
    y = forward(case, problem, "layers", False)[0]
    for b in range(13):
        one = native.OPS.lstm(
            x[:, [b]], h0[:, [b]], c0[:, [b]], weights, 0.0, None, "layers", False
        )
        assert torch.equal(one[0][:, 0], y[:, b]), b


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [3, 17, 33, 130])
@torch.inference_mode()
def test_a_weight_reaches_its_own_unit_alone(isa, dtype, width, value):
    """The last vector of a row is read anew from where it is whole, and a block past the last."""
    case = Case(Shape(1, 1, width, width, 1))
    problem = make_problem(case, dtype)
    plain = forward(case, problem, "layers", False)[2].flatten()
    for n, unit in itertools.product((0, 1), (0, width - 1)):
        for k in {0, width // 2, width - 1}:
            weights = [w.clone() for w in problem.weights]
            weights[n][2 * width + unit, k] = value  # of g: c is tanh of it
            c = forward(case, problem._replace(weights=weights), "layers", False)[2].flatten()
            others = torch.arange(width) != unit
            assert torch.equal(c[others], plain[others]), (n, unit, k)
            # Of an infinity tanh is 1 or -1: there is no inf - inf and no 0 * inf.
            assert c[unit].isnan() if value != value else c[unit].isfinite()


def events(function) -> list:
    with torch.profiler.profile(record_shapes=True) as profile:
        function()
    return profile.events()


@pytest.mark.parametrize("steps", [1, 40])
def test_bfloat16_weights_are_converted_in_long_calls_alone(steps):
    case = Case(Shape(steps, 1, 100, 520, 2))  # so large that torch converts what is converted
    problem = make_problem(case, torch.bfloat16)
    own = native.OPS.isa_names(torch.bfloat16)
    native.OPS.use_isa(next(name for name in native.OPS.isa_names() if name not in own))
    found = events(lambda: forward(case, problem, "layers", False))
    native.OPS.use_isa("")
    shapes = [shape for e in found if e.name == "aten::_to_copy" for shape in e.input_shapes]
    large = [list(w.shape) in shapes for w in problem.weights if w.dim() == 2]
    assert large == [False, *[steps > 1] * 3]


def test_strided_weights():
    case = Case(Shape(2, 2, 20, 33, 1))
    problem, expected = solved(case, torch.bfloat16)
    wide = [torch.stack([w, w], -1)[..., 0] for w in problem.weights]
    assert not wide[0].is_contiguous()
    found = forward(case, problem._replace(weights=wide), "layers", False)
    assert_close(found[0], expected[0], "y")


def test_nothing_is_read_past_a_weight():
    """Each lies at the end of a page of which the next may not be read."""
    script = """
import ctypes, mmap
import torch
from fused_lstm import native

libc, kept = ctypes.CDLL(None, use_errno=True), []

def guarded(tensor):
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // mmap.PAGESIZE)
    block = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    kept.append(block)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(block))
    wall = ctypes.c_void_p(begin + pages * mmap.PAGESIZE)
    assert libc.mprotect(wall, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = torch.frombuffer(block, dtype=tensor.dtype, count=tensor.numel(),
                            offset=pages * mmap.PAGESIZE - size)
    return copy.copy_(tensor.flatten()).view(tensor.shape)

native.load()
for isa in native.OPS.isa_names():
    native.OPS.use_isa(isa)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for width in (1, 7, 16, 33, 70):
            module = torch.nn.LSTM(width, width, 1, dtype=dtype)
            weights = [p.detach() for p in module.parameters()]
            given = [torch.randn(1, 1, width, dtype=dtype) for _ in range(3)]
            how = 0.0, None, "layers", False
            plain = native.OPS.lstm(*given, weights, *how)
            ours = native.OPS.lstm(*map(guarded, given), list(map(guarded, weights)), *how)
            assert all(map(torch.equal, ours[:3], plain[:3])), (isa, dtype, width)
print("read no further")
"""
    if sys.platform != "linux":
        pytest.skip("mprotect is called as Linux has it")
    assert fresh.python(script) == "read no further\n"
