"""How far two right answers may be apart: the only such figures in the tests."""

from __future__ import annotations

import torch
from torch import Tensor

# dtype -> (relative, absolute). Both engines round every product and sum, in different orders.
TOLERANCE = {
    torch.float64: (1e-9, 1e-11),  # thousands of roundings of 1e-16, with room to spare
    torch.float32: (1e-4, 2e-5),  # the same of 6e-8; gradients of weights sum T * B terms
    torch.float16: (2e-2, 5e-3),  # h is rounded to 11 bits every step and fed back
    torch.bfloat16: (5e-2, 4e-2),  # the same with 8 bits
}
# The same where fewer roundings differ.
SAME_TERMS = (1e-6, 1e-7)  # float32: the same products, summed in another order
FEW_TERMS = (1e-14, 1e-14)  # float64: sums of at most 16 products
APPROXIMATE = (3e-7, 1e-7)  # float32: what PTX's approximate functions promise, and a rounding
GPU = (1e-3, 1e-4)  # float32 without TF32, sums of hundreds of terms; not yet measured on one
GPU_WEIGHTS = (1e-3, 1e-3)  # the same of gradients that are sums over T * B rows
# The error's norm as a part of the value's, on a GPU: TF32 keeps 10 bits of each factor, both ways.
GPU_NORM = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
HALF = 0.51  # of a unit in the last place: one rounding, of sums that differ by less than it shows


def near(pair: tuple[float, float]) -> dict[str, float]:
    """As torch.testing and numpy.testing name them."""
    return {"rtol": pair[0], "atol": pair[1]}


def assert_close(
    actual: Tensor, expected: Tensor, name: str, rounded: torch.dtype | None = None
) -> None:
    """Compare by the table; the message names what differs.

    rounded: the dtype of what was multiplied, where that is not the answer's own.
    """
    assert expected.isfinite().all(), f"{name}: the expected value is not finite"
    allowed = near(TOLERANCE[rounded or actual.dtype])
    torch.testing.assert_close(actual, expected, **allowed, msg=lambda text: f"{name}: {text}")


def ulps(actual: Tensor, exact: Tensor) -> float:
    """The largest distance, in units in the last place of the exact value in actual's dtype."""
    exact, info = exact.double(), torch.finfo(actual.dtype)
    unit = info.eps * 2.0 ** exact.abs().clamp(min=info.tiny).log2().floor()
    return ((actual.double() - exact).abs() / unit).max().item()


def error_norm(actual: Tensor, exact: Tensor) -> float:
    """The error's norm as a part of the value's."""
    exact = exact.double()
    return ((actual.double() - exact).norm() / exact.norm().clamp(min=1e-6)).item()
