"""Lanes of the native engine: directions, projections, rows that end, states that are zeroed."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bench import kernels
from cases import LanesCase as Case
from cases import Shape
from fused_lstm import native, reference
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
SEED = torch.tensor([2**61 + 77])


CASES = [
    Case(Shape(4, 3, 5, 7, 1), directions=2),
    Case(Shape(5, 20, 17, 19, 2), directions=2, bias=False),
    Case(Shape(6, 4, 9, 37, 3), directions=2, dropout=0.4),
    Case(Shape(1, 1, 1, 1, 1), directions=2),
    Case(Shape(4, 3, 5, 7, 1), projected=3),
    Case(Shape(5, 20, 17, 70, 2), projected=33, bias=False),
    Case(Shape(3, 5, 6, 40, 2), projected=39, directions=2),
    Case(Shape(5, 3, 4, 6, 1), lengths=(5, 3, 1)),
    Case(Shape(6, 9, 7, 35, 2), lengths=(6, 6, 5, 5, 4, 2, 2, 1, 1), dead=4),
    Case(Shape(6, 9, 7, 35, 2), lengths=(4, 4, 4, 4, 4, 2, 2, 1, 1), directions=2),  # empty steps
    Case(Shape(7, 20, 3, 64, 2), lengths=(7,) * 3 + (3,) * 17, directions=2, projected=20),
    Case(Shape(5, 4, 4, 6, 2), resets=True),
    Case(Shape(5, 17, 4, 40, 2), resets=True, directions=2, projected=11, bias=False),
    Case(Shape(6, 5, 4, 18, 2), lengths=(6, 5, 5, 2, 1), resets=True, directions=2, dropout=0.3),
    Case(Shape(4, 3, 5, 6, 2), lengths=(4, 4, 4), dead=2, dropout=0.5),
    Case(Shape(3, 0, 5, 6, 2), directions=2),
    Case(Shape(3, 0, 5, 6, 1), lengths=(), projected=2),
    Case(Shape(5, 20, 1600, 420, 1), directions=2),  # parts of panels
    Case(Shape(8, 34, 17, 16, 3)),  # steps that make their input products too
    Case(Shape(8, 34, 17, 16, 2), lengths=(8,) * 14 + (7,) * 10 + (2,) * 10, directions=2),
    Case(Shape(8, 34, 17, 80, 2), dropout=0.3),  # those of the first layer
]


class Problem(NamedTuple):
    """The operator's arguments, and the gradients by its results."""

    x: Tensor
    h0: Tensor
    c0: Tensor
    weights: list[Tensor]
    lanes: dict  # directions, batch_sizes, not_reset
    by: tuple[Tensor, Tensor, Tensor]


def make_problem(case: Case, dtype) -> Problem:
    torch.manual_seed(0)
    (_, B, I, H, L), D = case.shape, case.directions
    P = case.projected or H
    options = {"bias": case.bias, "proj_size": case.projected, "bidirectional": D == 2}
    weights = [p.detach() for p in nn.LSTM(I, H, L, dtype=dtype, **options).parameters()]

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    x, dy = random(*case.rows, I), random(*case.rows, D * P)
    if case.lengths is not None:  # what belongs to no step is not looked at
        x[sum(case.lengths) :], dy[sum(case.lengths) :] = torch.nan, torch.nan
    not_reset = torch.rand(D, *case.rows) > 0.3 if case.resets else None
    lanes = {"directions": D, "batch_sizes": case.batch_sizes, "not_reset": not_reset}
    by = dy, random(L * D, B, P), random(L * D, B, H)
    return Problem(x, random(L * D, B, P), random(L * D, B, H), weights, lanes, by)


def named(outputs, grads) -> dict[str, Tensor]:
    names = ["x", "h0", "c0", *(f"weights[{n}]" for n in range(len(grads) - 3))]
    found = dict(zip(("y", "h_n", "c_n"), outputs, strict=True))
    return found | {f"d{name}": grad for name, grad in zip(names, grads, strict=True)}


@functools.cache  # for all instruction sets and levels
def solved(case: Case, dtype) -> tuple[Problem, dict[str, Tensor]]:
    problem = make_problem(case, dtype)
    x, h0, c0, weights, lanes, by = problem
    inputs = [t.clone().requires_grad_() for t in (x, h0, c0, *weights)]
    outputs = reference.lstm(*inputs[:3], inputs[3:], case.dropout, SEED, **lanes)
    return problem, named([o.detach() for o in outputs], torch.autograd.grad(outputs, inputs, by))


def arguments(case: Case, problem: Problem, fuse: str) -> tuple:
    return (*problem[:4], case.dropout, SEED if case.dropout else None, fuse)


@torch.inference_mode()
def forward(case: Case, problem: Problem, fuse: str, save: bool) -> tuple[Tensor, ...]:
    return native.OPS.lstm(*arguments(case, problem, fuse), save, **problem.lanes)


@torch.inference_mode()
def both(case: Case, problem: Problem, fuse: str) -> dict[str, Tensor]:
    y, h_n, c_n, *saved = forward(case, problem, fuse, True)
    given = arguments(case, problem, fuse)
    dx, dh0, dc0, dweights = native.OPS.lstm_backward(
        *problem.by, *given, y, *saved, True, **problem.lanes
    )
    return named((y, h_n, c_n), (dx, dh0, dc0, *dweights))


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize(("fuse", "threads"), [("steps", 1), ("layers", 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(isa, case, dtype, fuse, threads):
    torch.set_num_threads(threads)
    problem, expected = solved(case, dtype)
    compare(both(case, problem, fuse), expected)
    # A path of its own: nothing saved, buffers shared.
    *results, h, c, gates = forward(case, problem, fuse, False)
    for name, value in zip(("y", "h_n", "c_n"), results, strict=True):
        assert_close(value, expected[name], f"inference: {name}")
    assert [t.numel() for t in (h, c, gates)] == [0, 0, 0]


def test_what_is_long_is_read_in_parts():
    lengths = tuple(range(140, 12, -2))
    case = Case(Shape(140, 64, 150, 128, 1), directions=2, lengths=lengths)
    assert "input product: 140 of" not in kernels.ops().plan(*case.shape, "layers", False)
    problem = make_problem(case, torch.float32)
    expected = reference.lstm(*problem[:4], **problem.lanes)
    found = forward(case, problem, "layers", False)[:3]
    for name, value, theirs in zip(("y", "h_n", "c_n"), found, expected, strict=True):
        assert_close(value, theirs, name)


def test_threads_and_runs_agree():
    """Bit by bit from run to run, and to rounding with other teams."""
    case = Case(Shape(7, 20, 50, 70, 2), directions=2, projected=30)
    problem = make_problem(case, torch.float32)
    torch.set_num_threads(1)
    expected = both(case, problem, "layers")
    for threads in (2, 3, 4, 5):
        torch.set_num_threads(threads)
        first, again = both(case, problem, "layers"), both(case, problem, "layers")
        compare(first, expected)
        for name, value in first.items():
            assert torch.equal(value, again[name]), f"{name}: two runs differ"


@torch.inference_mode()
def test_nothing_crosses_a_state_that_is_zeroed():
    """Not even NaN, forwards or backwards."""
    case = Case(Shape(4, 2, 3, 20, 1))
    problem = make_problem(case, torch.float32)
    not_reset = torch.ones(1, 4, 2, dtype=torch.bool)
    not_reset[0, 2, 1] = False
    problem.x[1, 1] = torch.nan
    problem.lanes["not_reset"] = not_reset
    y, _, _, *saved = forward(case, problem, "layers", True)
    dy = torch.zeros_like(y)
    dy[3, 1] = 1
    given = arguments(case, problem, "layers")
    dx, dh0, *_ = native.OPS.lstm_backward(dy, None, None, *given, y, *saved, True, **problem.lanes)
    assert y[1, 1].isnan().all()
    assert y[2:].isfinite().all()
    assert (dx[3, 1] != 0).any()
    assert (dx[:, 0] == 0).all()
    assert (dh0[0, 0] == 0).all()


def test_errors_name_the_argument():
    case = Case(Shape(4, 3, 5, 6, 1), lengths=(4, 2, 1))
    x, h0, c0, weights, _, _ = make_problem(case, torch.float32)
    sizes = case.batch_sizes
    for message, change in {
        r"directions: got 3; expected 1, 2, or -1": {"directions": 3},
        r"h0: got shape \[1, 3, 6\]; expected \[L, B, H\] of a layer's two": {"directions": 2},
        r"x: got shape \[7, 5\]; expected \[T, B, I\]": {"batch_sizes": None},
        r"x: got shape \[6, 5\]; expected a row for each of batch_sizes, 7": {"x": x[1:]},
        r"batch_sizes: got shape \[1, 4\]; expected \[T\]": {"batch_sizes": sizes[None]},
        r"batch_sizes: got dtype Int": {"batch_sizes": sizes.int()},
        r"batch_sizes: got 2 at 0; expected 3": {"batch_sizes": torch.tensor([2, 2, 2])},
        r"batch_sizes: got 3 at 2; expected 0 to 2": {"batch_sizes": torch.tensor([3, 2, 3])},
        r"not_reset: got shape \[7\]; expected \[1, 7\]": {"not_reset": torch.ones(7) > 0},
        r"not_reset: got dtype Float; expected Bool": {"not_reset": torch.ones(1, 7)},
        r"weights: got 1 tensors; expected 2 to 5 for each of 1 lane": {"weights": weights[:1]},
        r"weights\[2\]: got shape \[24\]; expected \[6, 6\]": {"weights": weights[:3]},
        r"c0: got shape \[1, 3, 5\]; expected \[1, 3, 6\]": {"c0": c0[..., 1:]},
    }.items():
        given = {"x": x, "h0": h0, "c0": c0, "weights": weights, "directions": 1}
        given |= {"batch_sizes": sizes, "not_reset": None} | change
        tensors = [given.pop(name) for name in ("x", "h0", "c0", "weights")]
        with pytest.raises(ValueError, match=message):
            native.OPS.lstm(*tensors, 0.0, None, "layers", False, **given)
