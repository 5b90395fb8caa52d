"""Gradients of the weights sample by sample, from one backward of the operators.

A sample's own are those of all rows together where no gradient comes to the other samples' rows.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_lstm
from cases import LanesCase as Case
from cases import Shape
from fused_lstm import Spec
from fused_lstm.operator import ops
from test_native_lanes import SEED, make_problem
from tolerance import assert_close

CASES = {
    "one step": (Case(Shape(1, 1, 1, 1, 1)), 1),
    "a wavefront": (Case(Shape(5, 6, 7, 19, 2)), 6),
    "samples of two rows": (Case(Shape(4, 6, 5, 37, 2), bias=False), 3),
    "one sample": (Case(Shape(4, 3, 5, 6, 1), resets=True), 1),
    "two directions": (Case(Shape(4, 5, 3, 7, 2), directions=2, dropout=0.4), 5),
    "projected": (Case(Shape(5, 4, 6, 35, 2), directions=2, projected=17, resets=True), 2),
    "rows that end": (Case(Shape(6, 5, 4, 9, 2), lengths=(6, 5, 5, 2, 1), dead=3), 5),
    "and are projected": (
        Case(Shape(6, 4, 4, 9, 1), lengths=(6, 3, 3, 1), projected=4, directions=2, resets=True), 4,
    ),
    "rows that all end early": (Case(Shape(6, 3, 4, 9, 2), 2, lengths=(4, 2, 1), dead=9), 3),
    "rows in parts": (Case(Shape(800, 2, 3, 4, 1)), 2),
}  # fmt: skip
MASKS = {"zoneout": (0.3, 0.2), "recurrent_dropout": 0.4}
slow = {"rows in parts"}
OF_TRITON = "one step", "rows that end"  # others: --slow


def each_case(engine: str, *without: str):
    why = fused_lstm.available_engines("cpu")[engine]
    skip = pytest.mark.skipif(why is not None, reason=f"{engine}: {why}")
    found = {name: own for name, own in CASES.items() if name not in without}
    return lambda f: skip(pytest.mark.parametrize("case", found.values(), ids=found)(f))


def gradients(engine, case: Case, problem, by, fuse: str, samples: int, options: dict, dtype=None):
    x, h0, c0, weights, lanes, _ = problem
    cell = Spec(**options)
    seed = SEED if case.dropout > 0 or cell.draws else None
    given = x, h0, c0, weights, case.dropout, seed, fuse
    if dtype is not None:
        given = *(t.to(dtype) for t in given[:3]), [w.to(dtype) for w in weights], *given[4:]
        by = [t.to(dtype) for t in by]
    own = lanes | cell.schema
    y, _, _, *saved = engine.lstm(*given, True, **own)
    return engine.lstm_backward(*by, *given, y, *saved, True, samples=samples, **own)


def of_sample(case: Case, by: tuple[Tensor, ...], samples: int, n: int) -> list[Tensor]:
    """The gradients by the results, with 0 for the rows of others."""
    dy, *by_state = (t.nan_to_num(0) for t in by)
    B = case.shape.B
    mine = torch.arange(B) // (B // samples) == n
    rows = mine.repeat(case.shape.T).view(case.shape.T, B)
    if case.lengths is not None:
        alive = torch.arange(B) < case.batch_sizes[:, None]
        rows = torch.cat([rows[alive], torch.zeros(case.dead, dtype=torch.bool)])
    return [torch.where(rows[..., None], dy, 0)] + [
        torch.where(mine[:, None], t, 0) for t in by_state
    ]


def check(engine, case: Case, samples: int, fuse: str, options: dict, some: bool = False) -> None:
    """Gradients by sample against one sample after another, the first and last where `some`."""
    problem = make_problem(case, torch.float64)
    *found, dweights = gradients(engine, case, problem, problem.by, fuse, samples, options)
    *wanted, whole = gradients(engine, case, problem, problem.by, fuse, 0, options)
    for name, a, b in zip(("dx", "dh0", "dc0"), found, wanted, strict=True):
        assert_close(a, b, name)
    for k, (a, b) in enumerate(zip(dweights, whole, strict=True)):
        assert_close(a.sum(0), b, f"weight {k}, all samples")
    for n in {0, samples - 1} if some else range(samples):
        by = of_sample(case, problem.by, samples, n)
        *_, own = gradients(engine, case, problem, by, fuse, 0, options)
        for k, (a, b) in enumerate(zip(dweights, own, strict=True)):
            assert_close(a[n], b, f"weight {k} of sample {n}")


@pytest.mark.parametrize("options", [{}, MASKS], ids=["", "masks"])
@pytest.mark.parametrize("fuse", ["steps", "layers"])
@each_case("native")
def test_native(isa, case, fuse, options):
    check(ops.NATIVE, *case, fuse, options)


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), MASKS], ids=str)
@each_case("triton", *slow)
def test_triton(case, options, whole):
    if not (whole or case in [CASES[name] for name in OF_TRITON]):
        pytest.skip("long in the interpreter: --slow")
    check(ops.TRITON, *case, "steps", options, some=not whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_case("native", *slow)
def test_other_dtypes(case, dtype):
    """bfloat16 is widened here, whatever the products have for it."""
    case, samples = case
    problem = make_problem(case, torch.float64)
    wanted = gradients(ops.NATIVE, case, problem, problem.by, "layers", samples, {})[-1]
    found = gradients(ops.NATIVE, case, problem, problem.by, "layers", samples, {}, dtype)[-1]
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.dtype == dtype
        largest = float(b.abs().max())
        assert_close(a / largest, (b / largest).to(dtype), f"weight {k}")


REFUSED = {
    "samples: got 4; expected a divisor of the batch of 6": (Case(Shape(2, 6, 3, 4, 1)), 4, {}),
    "samples: got -1; expected a divisor": (Case(Shape(2, 6, 3, 4, 1)), -1, {}),
    "samples: got 1; expected 2, a row each": (Case(Shape(3, 2, 3, 4, 1), lengths=(3, 2)), 1, {}),
    "samples: got 6; expected 0 for a cell": (
        Case(Shape(2, 6, 3, 4, 1)), 6, {"cell": "peephole", "rates": [0.0] * 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["native", "triton"])
@pytest.mark.parametrize("message", REFUSED)
def test_refused(name, message):
    if why := fused_lstm.available_engines("cpu")[name]:
        pytest.skip(why)
    case, samples, own = REFUSED[message]
    x, h0, c0, weights, lanes, by = make_problem(case, torch.float64)
    if own:
        weights = [*weights, torch.zeros(3 * case.shape.H, dtype=torch.float64)]
    given, engine = (x, h0, c0, weights, 0.0, None, "steps"), getattr(ops, name.upper())
    y, _, _, *saved = engine.lstm(*given, True, **lanes, **own)
    with pytest.raises((ValueError, RuntimeError), match=message):
        engine.lstm_backward(*by, *given, y, *saved, True, samples=samples, **lanes, **own)
