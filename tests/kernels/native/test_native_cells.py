"""Cells on `native` in bfloat16: as near to float64 as PyTorch's own."""

from __future__ import annotations

import statistics

import pytest
import torch

import fused_lstm
from cells import CELLS
from fused_lstm.call import choose

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
