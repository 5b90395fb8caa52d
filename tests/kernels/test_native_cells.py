"""Cells on `native`: each against the one written out, at every level, in every dtype and order."""

from __future__ import annotations

import statistics

import pytest
import torch

import fused_lstm
from cells import CELLS, few_cells, make
from fused_lstm import choose
from lanes import Case, assert_differentiable, call, make_inputs
from test_cells import SHAPES, check, each_mode
from tolerance import assert_close

NATIVE = choose.ENGINES["native"]
HAD = {
    name: options
    for name, options in CELLS.items()
    if all(NATIVE.has("lstm", option) for option in options)
}
each_cell = pytest.mark.parametrize("options", HAD.values(), ids=HAD)

pytestmark = pytest.mark.skipif(
    (why := fused_lstm.available_engines("cpu")["native"]) is not None, reason=f"native: {why}"
)

ORDERS = SHAPES | {
    "units of more than a vector": Case(T=7, B=5, I=19, H=21, L=2),
    "a wavefront": Case(T=9, B=9, I=5, H=9, L=2),
    "lengths": Case("lengths", T=9, B=7, H=19, L=2, resets=True),
    "lengths, backwards": Case("unsorted", T=9, B=7, H=18, L=1, bidirectional=True, proj_size=17),
}


# Each cell in every second order, and each order with every second cell; --slow has all pairs.
@each_mode
@pytest.mark.parametrize(
    ("options", "case"),
    [
        pytest.param(options, case, id=f"{name}-{order}", marks=[pytest.mark.slow] * ((c + n) % 2))
        for c, (name, options) in enumerate(HAD.items())
        for n, (order, case) in enumerate(ORDERS.items())
    ],
)
def test_it_is_the_one_written_out(options, case, training):
    for fuse in ("steps", "layers"):
        check(case, training, engine="native", fuse=fuse, **options)


@each_cell
@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_and_two_give_the_same(options, threads):
    """So does a call that keeps nothing for a backward."""
    module, before = make(Case(L=2, H=33), engine="native", **options), torch.get_num_threads()
    x = torch.randn(9, 6, 3, dtype=torch.float64)
    torch.manual_seed(2)
    wanted, _ = module(x)
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(2)
        with torch.no_grad():
            found, _ = module(x)
    finally:
        torch.set_num_threads(before)
    assert_close(found, wanted.detach(), "y")


@few_cells  # test_cells.py has each: second derivatives are the same code
def test_first_and_second_derivative(options):
    case = Case("lengths", T=3, B=2, I=2, H=2, L=1, bidirectional=True, resets=True)
    module = make(case, engine="native", **options)
    assert_differentiable(
        make_inputs(case, torch.float64), module.parameters(), seed=5, engine="native",
        bidirectional=True, cell=module.spec,
    )  # fmt: skip


def trained(
    engine: str, dtype: torch.dtype, wide: bool, T: int, B: int, seed: int = 3, **options
) -> dict:
    """A module and input of a dtype, computed in it or, wide, in float64: values and gradients."""
    torch.manual_seed(seed)
    module = fused_lstm.LSTM(19, 35, 2, engine=engine, **options).to(dtype)
    x = torch.randn(T, B, 19).to(dtype)
    if wide:
        module, x = module.double(), x.double()
    x.requires_grad_()
    torch.manual_seed(seed + 1)
    y, (h_n, c_n) = module(x)
    (y.double().sin().sum() + (h_n.double() * c_n.double()).sum()).backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    return {"y": y.detach(), "c_n": c_n.detach(), "x": x.grad} | grads


@pytest.mark.parametrize("sizes", [(11, 6), (2, 3)], ids=["", "a short call"])
@each_cell
def test_float32(options, sizes):
    """Against the same weights and inputs in float64 on the loop."""
    ours = trained("native", torch.float32, False, *sizes, **options)
    wanted = trained("loop", torch.float32, True, *sizes, **options)
    for name, value in ours.items():
        scale = wanted[name].abs().max().clamp(min=1.0)  # of a gradient: a sum over all rows
        if "layer_norm" in options:  # which divides by deviations, and they may be small
            scale *= 3
        assert_close(value / scale.float(), (wanted[name] / scale).float(), name)


@pytest.mark.parametrize("sizes", [(11, 6), (2, 3)], ids=["", "a short call"])
@each_cell
def test_bfloat16(options, sizes):
    """As near to float64 as PyTorch's own bfloat16 is, on the loop: native rounds less. Of one
    seed's gradients either may be twice as far off, so it is the mean of five that is compared.
    """
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed in range(5):
        ours, loops, wanted = (
            trained(engine, torch.bfloat16, wide, *sizes, seed, **options)
            for engine, wide in (("native", False), ("loop", False), ("loop", True))
        )
        for name, value in wanted.items():
            found = ((of[name].double() - value).norm() / value.norm() for of in (ours, loops))
            errors.setdefault(name, []).append(tuple(error.item() for error in found))
    for name, pairs in errors.items():
        own, theirs = (statistics.mean(each) for each in zip(*pairs, strict=True))
        assert own <= 1.25 * theirs + 2e-3, f"{name}: {own:.3g} against {theirs:.3g}"


@each_cell
def test_recompute_draws_as_it_did(options):
    module = make(Case(L=1), engine="native", recompute=3, **options)
    x = torch.randn(8, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(recompute):
        module.recompute = recompute
        module.zero_grad()
        torch.manual_seed(6)
        module(x)[0].sin().sum().backward()
        return [p.grad.clone() for p in module.parameters()]

    module.eval()
    for a, b, (name, _) in zip(run(3), run(None), module.named_parameters(), strict=True):
        assert_close(a, b, name)
    module.train()
    assert all(torch.equal(a, b) for a, b in zip(run(3), run(3), strict=True))


@each_cell
def test_streaming(options):
    module = make(Case(L=2), engine="native", **options).eval()
    x, stream = torch.randn(4, 1, 3, dtype=torch.float64), fused_lstm.Streaming(module)
    wanted, _ = module(x)
    for t in range(4):
        assert_close(stream(x[t]).reshape(-1), wanted[t].detach().reshape(-1), f"step {t}")


def test_all_rows_padded_are_zero():
    case = Case("lengths", T=6, B=4, H=18, L=1)
    module, given = make(case, engine="native", zoneout=0.5), make_inputs(case, torch.float64)
    y, _, _ = call(module, case, given)
    for b, length in enumerate(given.lengths.tolist()):
        assert y[length:, b].eq(0).all()


@pytest.mark.parametrize("zoneout", [0.4, 1.0])
def test_what_zoneout_keeps_of_a_gru_passes_its_gradient_on(zoneout):
    """By h_0 of a layer that never updates: all that comes, and nothing where it always does."""
    module = fused_lstm.GRU(3, 20, zoneout=zoneout, engine="native", dtype=torch.float64)
    x, h0 = torch.randn(4, 2, 3).double(), torch.randn(1, 2, 20).double().requires_grad_()
    grads = []
    for engine in ("native", "loop"):
        module.engine = engine
        torch.manual_seed(3)  # which both draw their masks from, by counter
        y, _ = module(x, h0)
        grads.append(torch.autograd.grad(y.sin().sum(), (h0, *module.parameters())))
    for ours, expected in zip(*grads, strict=True):
        assert_close(ours, expected, "gradient")
    if zoneout == 1.0:
        assert_close(grads[0][0], 4 * h0.detach().cos(), "h_0.grad")
