"""Heads and the sLSTM in Triton's interpreter: values and gradients by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fused_lstm.integrations.dreamer import BlockGRU
from fused_lstm.triton import heads_plan, interpreter
from fused_lstm.triton.devices import AMD, DEVICES
from heads import MAKE, results, state_of
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    interpreter.too_old() is not None, reason=str(interpreter.too_old())
)


ROWS = {
    "lengths": torch.tensor([3, 1, 2]),
    "resets": torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0]]) > 0,
}


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
    got = results(module, x, state, **ROWS)
    module.engine = "loop"
    wide = tuple(s.double() for s in state) if isinstance(state, tuple) else state.double()
    for name, value in results(module.double(), x.double(), wide, **ROWS).items():
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


def in_parts(fit: int) -> heads_plan.HeadsPlan:
    """Return a plan of `fit` programs that are launched for each step."""
    made = heads_plan.in_parts("forward", 40, 4, 2, fit, DEVICES["H100"].smem)
    return replace(made, persistent=False)


# Of a head of 40 units; a launch a step, since no program can wait in the interpreter.
SHARED = {
    "weights on chip": in_parts(3),
    "two blocks a program": in_parts(2),
    "by blocks": heads_plan.HeadsPlan(2, 32, persistent=False),
}


def share(monkeypatch, shared: str) -> None:
    from fused_lstm.triton import heads

    monkeypatch.setattr(heads, "plan_of", lambda *_: SHARED[shared])


@pytest.mark.parametrize(
    ("cell", "dtype", "shared"),
    [
        ("slstm", torch.float64, "weights on chip"),
        ("rnn_tanh", torch.float64, "weights on chip"),
        ("gru", torch.bfloat16, "two blocks a program"),
        pytest.param("gru", torch.float64, "weights on chip", marks=pytest.mark.slow),
        pytest.param("lstm", torch.float64, "weights on chip", marks=pytest.mark.slow),
        pytest.param("rnn_relu", torch.float64, "two blocks a program", marks=pytest.mark.slow),
        pytest.param("slstm", torch.float64, "two blocks a program", marks=pytest.mark.slow),
        pytest.param("slstm_exponential", torch.float64, "by blocks", marks=pytest.mark.slow),
    ],
)
def test_programs_that_share_a_head(cell, dtype, shared, monkeypatch):
    """Check 40 units, of which the last block has 8, and most parts of K none."""
    torch.manual_seed(3)
    options = {"recurrent_clip": 0.05} if cell == "slstm" else {}
    module = MAKE[cell](2, 80, num_heads=2, engine="triton", dtype=dtype, **options)
    x, state = torch.randn(3, 3, 2).to(dtype), state_of(module, 3)
    share(monkeypatch, shared)
    got = results(module, x, state, **ROWS)
    module.engine = "loop"
    wide = tuple(s.double() for s in state) if isinstance(state, tuple) else state.double()
    for name, value in results(module.double(), x.double(), wide, **ROWS).items():
        assert_close(got[name].double(), value, name, dtype)


def test_programs_that_share_a_head_of_dreamers(monkeypatch):
    torch.manual_seed(4)
    gru = BlockGRU(2, 40, 1, engine="triton", dtype=torch.float64)
    x, state = torch.randn(3, 3, 2).double(), torch.randn(3, 40).double()
    outcomes = []
    for engine in ("triton", "loop"):
        gru.engine = engine
        share(monkeypatch, "weights on chip")
        leaves = [x.clone().requires_grad_(), state.clone().requires_grad_()]
        y, _ = gru(*leaves, ROWS["resets"])
        grads = torch.autograd.grad(y.sin().sum(), [*leaves, gru.kernel, gru.bias])
        outcomes.append((y.detach(), *grads))
    for name, got, expected in zip(("y", "x", "state", "kernel", "bias"), *outcomes, strict=True):
        assert_close(got, expected, name)


def test_the_plan_of_heads():
    """Programs of all heads and tiles of batch fit on the GPU at once; a small head has one."""
    for device in (*DEVICES.values(), *AMD.values()):
        for units in (1, 16, 33, 64, 100, 256, 768, 3000):
            for heads, batch in ((1, 0), (1, 1), (1, 16), (4, 16), (8, 40), (4, 600)):
                for dtype in ("bf16", "fp32", "fp64"):
                    shape = {"heads": heads, "units": units, "batch": batch, "dtype": dtype}
                    one = heads_plan.plan("backward", **shape, gates=4, device=device)
                    tiles = heads * -(-batch // heads_plan.BLOCK_B)  # none without rows
                    blocks = -(-units // one.block)
                    assert one.parts <= blocks, shape
                    assert one.meets == (one.parts > 1), shape
                    assert one.parts == 1 or tiles * one.parts <= device.sms, shape
                    assert one.k_parts * one.part_k * one.chunks >= units or one.k_parts == 1
                    assert not one.resident or one.parts == blocks, "of one block a program"
                    assert not one.amd or one.k_parts == 1
    h100 = {"batch": 16, "gates": 4, "device": DEVICES["H100"]}
    parts = {
        (heads, units): heads_plan.plan(
            "forward", heads=heads, units=units, dtype="bf16", **h100
        ).parts
        for heads, units in ((12, 32), (12, 64), (1, 768), (8, 256), (8, 768), (100, 768))
    }
    assert parts == {
        (12, 32): 1, (12, 64): 4, (1, 768): 48, (8, 256): 16, (8, 768): 16, (100, 768): 1,
    }  # fmt: skip
    # The backward at 768 units has 192 KiB of weights and vectors.
    shape = {"heads": 1, "units": 768, "batch": 16, "gates": 4, "dtype": "bf16"}
    cards = [
        name
        for name in ("H100", "A100", "L4")
        if heads_plan.plan("backward", **shape, device=DEVICES[name]).resident
    ]
    assert cards == ["H100"]


def test_one_launch_or_one_a_step():
    one = heads_plan.HeadsPlan(3, 16)
    assert one.launches(2) == [(0, 2)]
    assert replace(one, persistent=False).launches(2) == [(0, 1), (1, 2)]
    assert not replace(one, persistent=False).meets
