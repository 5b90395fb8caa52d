"""Heads and the sLSTM in Triton's interpreter: values and gradients by name."""

from __future__ import annotations

import pytest
import torch

from fused_lstm.triton import interpreter
from heads import MAKE, results, state_of
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    interpreter.too_old() is not None, reason=str(interpreter.too_old())
)


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [
        *[pytest.param(cell, torch.float64, id=cell) for cell in MAKE],
        pytest.param("slstm", torch.float32, id="slstm in float32"),
        pytest.param("gru", torch.bfloat16, id="gru in bfloat16"),
    ],
)
def test_both_ways_with_rows_that_end_and_begin_anew(cell, dtype):
    """A head of 18 units, in blocks of 32; rows of three lengths, backwards in time too."""
    torch.manual_seed(1)
    module = MAKE[cell](2, 36, num_heads=2, bidirectional=True, engine="triton", dtype=dtype)
    x, state = torch.randn(3, 3, 2).to(dtype), state_of(module, 3)
    rows = {
        "lengths": torch.tensor([3, 1, 2]),
        "resets": torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0]]) > 0,
    }
    got = results(module, x, state, **rows)
    module.engine = "loop"
    wide = tuple(s.double() for s in state) if isinstance(state, tuple) else state.double()
    for name, value in results(module.double(), x.double(), wide, **rows).items():
        assert_close(got[name].double(), value, name, dtype)


def test_many_blocks_of_units_and_of_rows_and_a_clip():
    """Two blocks of 32 units, two of 16 rows, all of them alive."""
    torch.manual_seed(2)
    options = {"recurrent_clip": 0.02, "dtype": torch.float64}
    module = MAKE["slstm"](2, 40, num_heads=1, engine="triton", **options)
    x, state = torch.randn(2, 17, 2, dtype=torch.float64), state_of(module, 17)
    got = results(module, x, state)
    with torch.no_grad():  # nothing kept for a backward
        assert_close(module(x, state)[0], got["y"], "inferred")
    module.engine = "loop"
    for name, value in results(module, x, state).items():
        assert_close(got[name], value, name)
