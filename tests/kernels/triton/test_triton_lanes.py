"""Both directions, rows that end and states that are zeroed inside the sweeps: the interpreter."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cases import LanesCase as Case
from cases import Shape
from fused_lstm import reference
from fused_lstm.triton import interpreter, op
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreted(), reason="tests/kernels/triton/test_gpu.py does these on a GPU"
)
SEED = torch.tensor([2**40 + 7])


class Problem(NamedTuple):
    inputs: list[Tensor]  # x, h0, c0 and flat weights
    lanes: dict  # of the operators
    seed: Tensor | None


def make_problem(case: Case, dtype: torch.dtype = torch.float64) -> Problem:
    (_, B, I, H, L), D, P = case.shape, case.directions, case.projected or case.shape.H
    made = [torch.randn(*case.rows, I), torch.randn(L * D, B, P), torch.randn(L * D, B, H)]
    for lane in range(L * D):
        made += [torch.randn(4 * H, I if lane < D else D * P), torch.randn(4 * H, P)]
        made += [torch.randn(4 * H), torch.randn(4 * H)] if case.bias else []
        made += [torch.randn(P, H)] if case.projected else []
    for weight in made[3:]:
        weight.div_(H**0.5)
    not_reset = torch.rand(D, *case.rows) > 0.4 if case.resets else None
    lanes = {"directions": D, "batch_sizes": case.batch_sizes, "not_reset": not_reset}
    made = [t.to(dtype).requires_grad_() for t in made]
    return Problem(made, lanes, SEED if case.dropout else None)


def expected(case: Case, problem: Problem, by: list[Tensor]) -> list[Tensor]:
    """The reference's outputs and gradients."""
    x, h0, c0, *weights = problem.inputs
    outputs = reference.lstm(x, h0, c0, weights, case.dropout, problem.seed, **problem.lanes)
    return [*outputs, *torch.autograd.grad(outputs, problem.inputs, by)]


def computed(case: Case, problem: Problem, by: list[Tensor]) -> list[Tensor]:
    """The operators'. What nobody has written is not a number."""
    x, h0, c0, *weights = (t.detach() for t in problem.inputs)
    given = x, h0, c0, weights, case.dropout, problem.seed, "layers"
    y, h_n, c_n, *saved = op.lstm(*given, True, **problem.lanes)
    *found, dweights = op.lstm_backward(*by, *given, y, *saved, True, **problem.lanes)
    return [y, h_n, c_n, *found, *dweights]


def make_gradients(case: Case) -> list[Tensor]:
    D, (_, B, _, H, L), P = case.directions, case.shape, case.projected or case.shape.H
    shapes = (*case.rows, D * P), (L * D, B, P), (L * D, B, H)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def test_gradients_that_nobody_asked_for():
    case = Case(Shape(4, 3, 5, 7, 1), lengths=(4, 2, 1), directions=2)
    problem, by = make_problem(case), make_gradients(case)
    for n in range(3):
        alone = [b if m == n else torch.zeros_like(b) for m, b in enumerate(by)]
        wanted = expected(case, problem, alone)[3:]
        found = computed(case, problem, [b if m == n else None for m, b in enumerate(by)])[3:]
        for m, (a, b) in enumerate(itertools.zip_longest(found, wanted)):
            assert_close(a, b, f"gradient {m} by output {n}")


def test_a_state_that_is_zeroed_may_be_any():
    """NaN in a state that is not kept reaches nothing."""
    case = Case(Shape(3, 3, 5, 7, 1), resets=True)
    problem = make_problem(case)
    problem.lanes["not_reset"][:, 0, 1] = False
    with torch.no_grad():
        problem.inputs[1][:, 1], problem.inputs[2][:, 1] = torch.nan, torch.nan
    found = computed(case, problem, make_gradients(case))
    assert all(t.isfinite().all() for t in found[:6])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((7, 7), r"h0: got shape \[1, 2, 7\]; expected \[1, 2, 3\], by weight_hr"),
        ((3, 3), r"c0: got shape \[1, 2, 3\]; expected \[1, 2, 7\], by weight_hr"),
    ],
)
def test_states_of_another_size_than_weight_hrs(sizes, message):
    problem = make_problem(Case(Shape(3, 2, 5, 7, 1), projected=3))
    x, _, _, *weights = problem.inputs
    states = [torch.zeros(1, 2, size, dtype=x.dtype) for size in sizes]
    with pytest.raises(ValueError, match=message):
        op.lstm(x, *states, weights, 0.0, None, "steps", False)


def test_more_rows_in_the_state_than_at_the_first_step():
    problem = make_problem(Case(Shape(3, 2, 5, 7, 1), lengths=(3, 1)))
    x, _, _, *weights = problem.inputs
    states = torch.zeros(2, 1, 3, 7, dtype=x.dtype)
    with pytest.raises(ValueError, match="batch_sizes: got 2 at 0; expected 3"):
        op.lstm(x, *states, weights, 0.0, None, "steps", False, **problem.lanes)
