"""How far two right answers may be apart, by dtype: the only such figures in the tests."""

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


def assert_close(actual: Tensor, expected: Tensor, name: str) -> None:
    """Compare by the table; the message names what differs."""
    rtol, atol = TOLERANCE[actual.dtype]
    assert expected.isfinite().all(), f"{name}: the expected value is not finite"
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}"
    )
