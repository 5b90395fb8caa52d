"""Lanes of the native engine: directions, projections, rows that end, states that are zeroed."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cases import Shape
from fused_lstm import native
from fused_lstm.reference import dropout_mask
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
SEED = torch.tensor([2**61 + 77])


class Case(NamedTuple):
    """T, B, I, H, L, and what is not plain about them."""

    shape: Shape
    directions: int = 1
    projected: int = 0
    lengths: tuple[int, ...] | None = None  # of B rows, falling; None: T each, in [T, B, I]
    dead: int = 0  # rows of x behind those of all steps
    keep: bool = False
    bias: bool = True
    dropout: float = 0.0

    def __str__(self) -> str:
        said = [f"{k}={v}" for k, v in self._asdict().items() if v != self._field_defaults.get(k)]
        return " ".join([str(self.shape), *said[1:]])

    @property
    def sizes(self) -> Tensor:
        lengths = torch.tensor(self.lengths or [self.shape.T] * self.shape.B)
        return (lengths[None] > torch.arange(self.shape.T)[:, None]).sum(1)

    def module(self, dtype) -> nn.LSTM:
        _, _, I, H, L = self.shape
        options = {"proj_size": self.projected, "bidirectional": self.directions == 2}
        return nn.LSTM(I, H, L, bias=self.bias, dtype=dtype, **options)


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
    Case(Shape(5, 4, 4, 6, 2), keep=True),
    Case(Shape(5, 17, 4, 40, 2), keep=True, directions=2, projected=11, bias=False),
    Case(Shape(6, 5, 4, 18, 2), lengths=(6, 5, 5, 2, 1), keep=True, directions=2, dropout=0.3),
    Case(Shape(4, 3, 5, 6, 2), lengths=(4, 4, 4), dead=2, dropout=0.5),
    Case(Shape(3, 0, 5, 6, 2), directions=2),
    Case(Shape(3, 0, 5, 6, 1), lengths=(), projected=2),
    Case(Shape(5, 20, 1600, 420, 1), directions=2),  # parts of panels
]


# --- the oracle: a loop over steps, layers and directions, by autograd ---


def lane(x, h, c, weights, sizes, keep, reverse, bias, projected):
    """x [N, I], h [B, P], c [B, H] -> y [N, P], h_n, c_n."""
    w_ih, w_hh, *rest = weights
    b = sum(rest[:2]) if bias else 0.0
    ends = list(itertools.accumulate(sizes.tolist()))
    y = [None] * len(ends)
    for t in reversed(range(len(ends))) if reverse else range(len(ends)):
        rows, n = slice(0, int(sizes[t])), slice(ends[t] - int(sizes[t]), ends[t])
        h_t, c_t = h[rows], c[rows]
        if keep is not None:
            h_t, c_t = (torch.where(keep[n, None], s, 0.0) for s in (h_t, c_t))
        i, f, g, o = (x[n] @ w_ih.T + h_t @ w_hh.T + b).chunk(4, 1)
        c_t = f.sigmoid() * c_t + i.sigmoid() * g.tanh()
        h_t = o.sigmoid() * c_t.tanh()
        y[t] = h_t = h_t @ rest[-1].T if projected else h_t
        h, c = (torch.cat([new, old[rows.stop :]]) for new, old in ((h_t, h), (c_t, c)))
    return torch.cat(y), h, c


def oracle(case: Case, x, h0, c0, weights, keep):
    """x [N, I] without dead rows -> y [N, D * P], h_n, c_n."""
    lanes, per_lane = len(h0), len(weights) // len(h0)
    h_n, c_n = [None] * lanes, [None] * lanes
    for layer in range(lanes // case.directions):
        if layer > 0 and case.dropout:
            shape = (lanes // case.directions - 1, len(x) + case.dead, x.shape[1])
            mask = dropout_mask(SEED, shape, case.dropout)[layer - 1, : len(x)]
            x = x * mask.to(x.dtype)
        ys = []
        for d in range(case.directions):
            n = layer * case.directions + d
            own = weights[n * per_lane : (n + 1) * per_lane]
            y, h_n[n], c_n[n] = lane(
                x, h0[n], c0[n], own, case.sizes, None if keep is None else keep[d], d == 1,
                case.bias, case.projected,
            )  # fmt: skip
            ys.append(y)
        x = torch.cat(ys, 1)
    return x, torch.stack(h_n), torch.stack(c_n)


# --- the engine ---


class Problem(NamedTuple):
    case: Case
    x: Tensor  # [N, I]
    h0: Tensor
    c0: Tensor
    weights: list[Tensor]
    keep: Tensor | None  # [D, N]
    by: tuple[Tensor, Tensor, Tensor]  # gradients by y [N, D * P], h_n and c_n


def make_problem(case: Case, dtype) -> Problem:
    torch.manual_seed(0)
    (_, B, I, H, L), D = case.shape, case.directions
    N, P = int(case.sizes.sum()), case.projected or case.shape.H
    random = lambda *shape: torch.randn(shape, dtype=dtype)  # noqa: E731
    by = random(N, D * P), random(L * D, B, P), random(L * D, B, H)
    keep = torch.rand(D, N) > 0.3 if case.keep else None
    weights = [p.detach() for p in case.module(dtype).parameters()]
    states = random(L * D, B, P), random(L * D, B, H)
    return Problem(case, random(N, I), *states, weights, keep, by)


@functools.cache  # for all instruction sets and levels
def solved(case: Case, dtype) -> tuple[Problem, dict[str, Tensor]]:
    problem = make_problem(case, dtype)
    return problem, expected_of(problem)


def expected_of(problem: Problem) -> dict[str, Tensor]:
    case, x, h0, c0, weights, keep, by = problem
    inputs = [t.clone().requires_grad_() for t in (x, h0, c0, *weights)]
    outputs = oracle(case, *inputs[:3], inputs[3:], keep)
    grads = torch.autograd.grad(outputs, inputs, by)
    return named([o.detach() for o in outputs], grads)


def named(outputs, grads) -> dict[str, Tensor]:
    names = ["x", "h0", "c0", *(f"weights[{n}]" for n in range(len(grads) - 3))]
    found = dict(zip(("y", "h_n", "c_n"), outputs, strict=True))
    return found | {f"d{name}": grad for name, grad in zip(names, grads, strict=True)}


def arranged(case: Case, rows: Tensor, dead: float = 0.0) -> Tensor:
    """[N, ...] as the operator has it: [T, B, ...], or with `dead` rows behind."""
    if case.lengths is None:
        return rows.view(*case.shape[:2], *rows.shape[1:])
    return torch.cat([rows, rows.new_full((case.dead, *rows.shape[1:]), dead)])


def call(problem: Problem, fuse: str, save: bool, **change) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the operator `lstm`."""
    case, x, h0, c0, weights, keep, _ = problem
    x = arranged(case, x, torch.nan)
    seed = SEED if case.dropout else None
    options = {
        "directions": case.directions,
        "batch_sizes": None if case.lengths is None else case.sizes,
        "keep": None if keep is None else torch.stack([arranged(case, k) for k in keep]),
    }
    return (x, h0, c0, weights, case.dropout, seed, fuse, save), options | change


@torch.inference_mode()
def found_by(problem: Problem, fuse: str) -> dict[str, Tensor]:
    case = problem.case
    arguments, options = call(problem, fuse, True)
    outputs = native.OPS.lstm(*arguments, **options)
    by = arranged(case, problem.by[0], torch.nan), *problem.by[1:]
    saved = outputs[0], *outputs[3:]
    dx, dh0, dc0, dweights = native.OPS.lstm_backward(*by, *arguments[:-1], *saved, True, **options)
    N = len(problem.x)
    for tensor in (outputs[0], dx):
        assert (tensor.flatten(0, -2)[N:] == 0).all()
    y, dx = outputs[0].reshape(-1, problem.by[0].shape[1])[:N], dx.reshape(-1, case.shape.I)[:N]
    return named((y, *outputs[1:3]), (dx, dh0, dc0, *dweights))


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize(("fuse", "threads"), [("steps", 1), ("layers", 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_a_loop(isa, case, dtype, fuse, threads):
    torch.set_num_threads(threads)
    problem, expected = solved(case, dtype)
    compare(found_by(problem, fuse), expected)
    with torch.inference_mode():  # a path of its own: nothing saved, buffers shared
        arguments, options = call(problem, fuse, False)
        y, h_n, c_n, *saved = native.OPS.lstm(*arguments, **options)
    y = y.reshape(-1, y.shape[-1])[: len(problem.x)]
    for name, value in {"y": y, "h_n": h_n, "c_n": c_n}.items():
        assert_close(value, expected[name], f"inference: {name}")
    assert [t.numel() for t in saved] == [0, 0, 0]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.shape.B and not case.keep], ids=str
)
def test_the_oracle_agrees_with_nn_lstm(case):
    """Where it has what is asked for: it cannot zero states, and draws other masks."""
    case = case._replace(dropout=0.0)
    problem = make_problem(case, torch.float64)
    module = case.module(torch.float64)
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), problem.weights, strict=True):
            parameter.copy_(weight)
        sizes = case.sizes[case.sizes > 0]
        theirs, (h_n, c_n) = module(PackedSequence(problem.x, sizes), (problem.h0, problem.c0))
        y, *states = oracle(case, problem.x, problem.h0, problem.c0, problem.weights, None)
    for name, found, value in zip(
        ("y", "h_n", "c_n"), (y, *states), (theirs.data, h_n, c_n), strict=True
    ):
        assert_close(found, value, name)


def test_what_is_long_is_read_in_parts():
    case = Case(Shape(300, 4, 3, 1100, 1), directions=2, lengths=(300, 280, 90, 20))
    assert "input product: 300 of" not in native.OPS.plan(*case.shape, "layers", False)
    problem = make_problem(case, torch.float32)
    expected = oracle(case, *problem[1:5], None)
    with torch.inference_mode():
        arguments, options = call(problem, "layers", False)
        found = native.OPS.lstm(*arguments, **options)[:3]
    for name, value, theirs in zip(("y", "h_n", "c_n"), found, expected, strict=True):
        assert_close(value, theirs, name)


def test_threads_and_runs_agree():
    """Bit by bit from run to run, and to rounding with other teams."""
    case = Case(Shape(7, 20, 50, 70, 2), directions=2, projected=30)
    problem = make_problem(case, torch.float32)
    torch.set_num_threads(1)
    expected = found_by(problem, "layers")
    for threads in (2, 3, 4, 5):
        torch.set_num_threads(threads)
        first, again = found_by(problem, "layers"), found_by(problem, "layers")
        compare(first, expected)
        for name, value in first.items():
            assert torch.equal(value, again[name]), f"{name}: two runs differ"


def test_nothing_crosses_a_state_that_is_zeroed():
    """Not even inf and NaN, forwards or backwards."""
    case = Case(Shape(4, 2, 3, 20, 1))
    problem = make_problem(case, torch.float32)
    keep = torch.ones(1, 4, 2, dtype=torch.bool)
    keep[0, 2, 1] = False
    x = problem.x.clone().view(4, 2, 3)
    x[1, 1] = torch.nan
    arguments, options = call(problem, "layers", True, keep=keep)
    arguments = (x, *arguments[1:])
    with torch.inference_mode():
        outputs = native.OPS.lstm(*arguments, **options)
        dy = torch.zeros_like(outputs[0])
        dy[3, 1] = 1
        saved = outputs[0], *outputs[3:]
        dx, dh0, *_ = native.OPS.lstm_backward(
            dy, None, None, *arguments[:-1], *saved, True, **options
        )
    assert outputs[0][1, 1].isnan().all()
    assert outputs[0][2:].isfinite().all()
    assert (dx[3, 1] != 0).any()
    assert (dx[:2, 0] == 0).all()
    assert (dh0[0, 0] == 0).all()


def test_errors_name_the_argument():
    case = Case(Shape(4, 3, 5, 6, 1), lengths=(4, 2, 1))
    problem = make_problem(case, torch.float32)
    x, h0, c0, weights = problem[1:5]
    sizes = case.sizes
    for message, change in {
        r"directions: got 3, should be 1 or 2": {"directions": 3},
        r"h0: got shape \[1, 3, 6\], should be \[L, B, H\] of a layer's two": {"directions": 2},
        r"x: got shape \[7, 5\], should be \[T, B, I\]": {"batch_sizes": None},
        r"x: got shape \[6, 5\], should have a row for each of batch_sizes, 7": {"x": x[1:]},
        r"batch_sizes: got shape \[1, 4\], should be \[T\]": {"batch_sizes": sizes[None]},
        r"batch_sizes: got dtype Int": {"batch_sizes": sizes.int()},
        r"batch_sizes: got 2 at 0, should be 3": {"batch_sizes": torch.tensor([2, 2, 2])},
        r"batch_sizes: got 3 at 2, should be 0 to 2": {"batch_sizes": torch.tensor([3, 2, 3])},
        r"keep: got shape \[7\], should be \[1, 7\]": {"keep": torch.ones(7) > 0},
        r"keep: got dtype Float, should be Bool": {"keep": torch.ones(1, 7)},
        r"weights: got 1 tensors, should be 2 to 5 for each of 1 lane": {"weights": weights[:1]},
        r"weights\[2\]: got shape \[24\], should be \[6, 6\]": {"weights": weights[:3]},
        r"c0: got shape \[1, 3, 5\], should be \[1, 3, 6\]": {"c0": c0[..., 1:]},
    }.items():
        options = {"directions": 1, "batch_sizes": sizes, "keep": None} | change
        given = [
            options.pop(name, own)
            for name, own in {"x": x, "h0": h0, "c0": c0, "weights": weights}.items()
        ]
        with pytest.raises(ValueError, match=message), torch.inference_mode():
            native.OPS.lstm(*given, 0.0, None, "layers", False, **options)
