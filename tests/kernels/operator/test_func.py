"""torch.func by engine: each cell of the table in docs/functions.md, `yes` or `error`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import fused_lstm
from fused_lstm.call import choose
from fused_lstm.reference import dropout_mask
from tolerance import assert_close

Function = Callable[[Tensor, Tensor], Tensor]


def table() -> dict[tuple[str, str], str]:
    """(what, of which function) -> the cell, from the documentation's first table."""
    text = (Path(__file__).parents[3] / "docs" / "functions.md").read_text()
    first = text[text.index("\n| ") + 1 :].partition("\n\n")[0]
    rows = [line[1:-1].split("|") for line in first.splitlines() if line.startswith("| ")]
    (_, *columns), *rows = ([cell.strip(" `") for cell in row] for row in rows)
    return {
        (name, column): cell
        for name, *cells in rows
        for column, cell in zip(columns, cells, strict=True)
    }


CELLS = table()


# --- what is transformed: functions of x [2, 3, 4] and one weight [8, 4] ---


def an_lstm(engine: str) -> Function:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        x = x if x.dim() == 3 else x.unsqueeze(1)
        state = x.new_zeros(1, x.shape[1], 2)
        y, (_, c_n) = fused_lstm.lstm(
            x, (state, state), [weight, weight[:, :2] * 0.5], engine=engine
        )
        return (y * c_n).sin()

    return function


def a_dropout(x: Tensor, weight: Tensor) -> Tensor:
    torch.manual_seed(3)
    return fused_lstm.dropout(x.sin() * weight.mean(), 0.5).square()


def a_dropout_in_plain_pytorch(x: Tensor, weight: Tensor) -> Tensor:
    torch.manual_seed(3)
    seed = sys.modules["fused_lstm.operator.autograd"].draw_seed(torch.device("cpu"))
    return (x.sin() * weight.mean() * dropout_mask(seed, x.shape, 0.5)).square()


TARGET = torch.tensor([1, 7, 0, 3, 2, 2])


def a_loss(x: Tensor, weight: Tensor) -> Tensor:
    hidden = x.reshape(-1, 4)
    return fused_lstm.linear_cross_entropy(hidden, weight, TARGET[: len(hidden)])


def a_loss_in_plain_pytorch(x: Tensor, weight: Tensor) -> Tensor:
    hidden = x.reshape(-1, 4)
    return F.cross_entropy(hidden @ weight.T, TARGET[: len(hidden)])


FUNCTIONS = {name: (an_lstm(name), an_lstm("loop")) for name in choose.ENGINES} | {
    "dropout": (a_dropout, a_dropout_in_plain_pytorch),
    "linear_cross_entropy": (a_loss, a_loss_in_plain_pytorch),
}

# --- how ---

TRANSFORMS = {
    "grad": lambda f, x, w: grad(lambda w: f(x, w).sum())(w),
    "jacrev": lambda f, x, w: jacrev(f)(x, w),
    "jvp": lambda f, x, w: jvp(f, (x, w), (x.cos(), w.cos()))[1],
    "jacfwd": lambda f, x, w: jacfwd(f, randomness="same")(x, w),
    "grad of grad": lambda f, x, w: grad(
        lambda w: grad(lambda w: f(x, w).square().sum())(w).sin().sum()
    )(w),
    "hessian": lambda f, x, w: jacfwd(jacrev(lambda w: f(x, w).square().sum()), randomness="same")(
        w
    ),
    "vmap over x": lambda f, x, w: vmap(f, (1, None), randomness="same")(x, w),
    "vmap over weights": lambda f, x, w: vmap(f, (None, 0), randomness="same")(
        x, torch.stack([w, w.sin()])
    ),
    "per-sample gradients": lambda f, x, w: vmap(
        grad(lambda w, x: f(x, w).sum()), (None, 1), randomness="same"
    )(w, x),
}


@pytest.mark.parametrize(("transform", "name"), CELLS, ids=map("-".join, CELLS))
def test_cell_of_the_table(transform, name):
    if name in choose.ENGINES and (why := fused_lstm.available_engines("cpu")[name]):
        pytest.skip(f"{name}: {why}")
    ours, plain = FUNCTIONS[name]
    x, weight = torch.randn(2, 3, 4), torch.randn(8, 4)
    run = TRANSFORMS[transform]
    if CELLS[transform, name] == "error":
        with pytest.raises((RuntimeError, NotImplementedError)):
            run(ours, x, weight)
        return
    assert_close(run(ours, x, weight), run(plain, x, weight), transform)


def test_the_table_is_whole():
    assert set(CELLS) == {(t, name) for t in TRANSFORMS for name in FUNCTIONS}
    assert set(CELLS.values()) == {"yes", "error"}


# --- one inside another, beside those of the table ---


def of_weight(f: Function, x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda w: f(x, w).square().sum()


def each_weight(f: Function, x: Tensor, weight: Tensor) -> Tensor:
    """The sum over a vmap over weights: inside it, nothing knows of a gradient outside."""
    scales = torch.tensor([1.0, 0.5, -0.7])
    return vmap(lambda s: of_weight(f, x)(weight * s), randomness="same")(scales).sum()


INSIDE = {
    "jvp of jvp": lambda f, x, w: jvp(
        lambda x, w: jvp(f, (x, w), (x.cos(), w.cos()))[1], (x, w), (x.sin(), w.sin())
    )[1],
    "jacfwd of jacfwd": lambda f, x, w: jacfwd(
        jacfwd(of_weight(f, x), randomness="same"), randomness="same"
    )(w),
    "jacrev of jacfwd": lambda f, x, w: jacrev(jacfwd(of_weight(f, x), randomness="same"))(w),
    "grad of vmap over weights": lambda f, x, w: grad(lambda w: each_weight(f, x, w))(w),
}


@pytest.mark.parametrize("transform", INSIDE)
@pytest.mark.parametrize("name", ["triton", "native", "dropout", "linear_cross_entropy"])
def test_one_inside_another(transform, name):
    needed = name if name in choose.ENGINES else "native"  # whose masks are known
    if (why := fused_lstm.available_engines("cpu")[needed]) is not None:
        pytest.skip(f"{needed}: {why}")
    ours, plain = FUNCTIONS[name]
    x, weight = torch.randn(2, 3, 4), torch.randn(8, 4)
    run = INSIDE[transform]
    wanted = run(plain, x, weight)
    assert wanted.any()
    assert_close(run(ours, x, weight), wanted, transform)
