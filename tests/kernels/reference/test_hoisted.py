"""fuse="hoisted": which products are left in the loop, and what it keeps and refuses.

Values and derivatives stand with every other level's in tests/conformance.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_lstm
from cases import Shape, make_pair, make_state, rungs
from fused_lstm.call import choose
from fused_lstm.reference import ladder
from tolerance import assert_close

SHAPE = Shape(5, 3, 4, 6, 2)
hoisting = [rung for rung in rungs(slow=()) if rung.values[1] == "hoisted"]
each_engine = pytest.mark.parametrize("engine", [rung.values[0] for rung in hoisting])


class Products(TorchDispatchMode):
    """Counts matrix products by the shape of their result."""

    def __init__(self) -> None:
        super().__init__()
        self.by_shape: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._schema.name in ("aten::mm", "aten::addmm"):
            self.by_shape[tuple(result.shape)] += 1
        return result


def products_of(engine: str, fuse: str | None) -> dict[tuple[int, ...], int]:
    """Of one forward and backward of one layer, two directions less one, all inputs leaves."""
    T, B, I, H, _ = SHAPE
    module = fused_lstm.LSTM(I, H, engine=engine, fuse=fuse)
    x = torch.randn(T, B, I, requires_grad=True)
    with Products() as counted:
        module(x)[0].sum().backward()
    return dict(counted.by_shape)


@each_engine
def test_what_needs_no_order_in_time_is_one_product(engine):
    T, B, I, H, _ = SHAPE
    assert products_of(engine, "hoisted") == {
        (T * B, 4 * H): 1,  # W x
        (B, 4 * H): T,  # R h
        (B, H): T,  # dgates R
        (4 * H, I): 1,  # dW
        (4 * H, H): 1,  # dR
        (T * B, I): 1,  # dx
    }


def test_the_loop_makes_them_all_at_every_step():
    T, B, I, H, _ = SHAPE
    assert products_of("loop", "none") == {
        (B, 4 * H): T,
        (B, I + H): T,  # by [x, h]
        (4 * H, I + H): T,  # by [W, R]
    }


@each_engine
def test_nothing_is_kept_where_no_gradient_is_wanted(engine, monkeypatch):
    results = []
    recurrence = ladder.recurrence

    def noting(*arguments, **options):
        results.append(recurrence(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(ladder, "recurrence", noting)
    module, x = fused_lstm.LSTM(4, 6, engine=engine, fuse="hoisted"), torch.randn(5, 3, 4)
    with torch.no_grad():
        module(x)
    module(x)
    assert [{len(of_step) for of_step in made.values()} for made in results] == [{2}, {3}]


@each_engine
def test_torch_func_sees_the_same_derivatives(engine):
    T, B, I, H, L = Shape(3, 2, 2, 3, 2)
    state = make_state(Shape(T, B, I, H, L), torch.float64)
    weights = [p.detach() for p in fused_lstm.LSTM(I, H, L, dtype=torch.float64).parameters()]
    x = torch.randn(4, T, B, I, dtype=torch.float64)

    def loss(engine, fuse, x, w_hh):
        changed = [weights[0], w_hh, *weights[2:]]
        return fused_lstm.lstm(x, state, changed, engine=engine, fuse=fuse)[0].square().sum()

    def found(engine, fuse):
        of = lambda *args: loss(engine, fuse, *args)  # noqa: E731
        return {
            "vmap of grad": torch.func.vmap(torch.func.grad(of, 1), (0, None))(x, weights[1]),
            "hessian": torch.func.hessian(of, 1)(x[0], weights[1]),
            "jvp": torch.func.jvp(of, (x[0], weights[1]), (x[1], weights[1]))[1],
        }

    expected = found("loop", "none")
    for name, value in found(engine, "hoisted").items():
        assert_close(value, expected[name], name)


@each_engine
@pytest.mark.parametrize("option", ["layer_norm", "peephole"])
def test_other_cells_are_refused(engine, option):
    with pytest.raises(
        ValueError, match=rf"{option}: got True with fuse='hoisted', which does not have it"
    ):
        fused_lstm.LSTM(3, 4, engine=engine, fuse="hoisted", **{option: True})


def test_the_loop_stays_the_tutorials_unless_it_is_asked_for():
    cpu = torch.device("cpu")
    assert choose.choose("loop", None, cpu)[:2] == ("loop", "none")
    assert choose.choose("loop", "hoisted", cpu)[:2] == ("loop", "hoisted")
    fused_lstm.LSTM(3, 4, engine="loop", layer_norm=True)  # which hoisted does not have


@each_engine
def test_bfloat16_keeps_the_cell_state_in_float32(engine):
    theirs, ours = make_pair(SHAPE, engine, "hoisted", torch.float32)
    ours = ours.bfloat16()
    x = torch.randn(SHAPE.T, SHAPE.B, SHAPE.I)
    y, _ = ours(x.bfloat16())
    y.float().sum().backward()
    expected = theirs(x)[0]
    expected.sum().backward()
    assert_close(y.float(), expected.detach(), "y", torch.bfloat16)
    for (name, ours_p), theirs_p in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        size = theirs_p.grad.abs().max()  # sums of T * B terms that are rounded to 8 bits
        assert_close(ours_p.grad.float() / size, theirs_p.grad / size, name, torch.bfloat16)
