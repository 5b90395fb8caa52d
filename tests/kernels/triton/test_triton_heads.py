"""Heads and the sLSTM in Triton's interpreter: values and gradients by name."""

from __future__ import annotations

import pytest
import torch

from fused_lstm.integrations.dreamer import BlockGRU
from fused_lstm.triton import interpreter
from fused_lstm.triton.choice import choose
from fused_lstm.triton.devices import AMD, DEVICES
from fused_lstm.triton.plan import Plan
from heads import MAKE, results, state_of
from plans import PATHS, PATHS_BACKWARD, make_plan
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    interpreter.too_old() is not None, reason=str(interpreter.too_old())
)


ROWS = {
    "lengths": torch.tensor([3, 1, 2]),
    "resets": torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0]]) > 0,
}


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


def test_a_head_of_many_units_and_more_rows_than_a_tile():
    """Two blocks of 256 units, chunks of 512, 17 rows."""
    torch.manual_seed(6)
    module = MAKE["slstm"](2, 600, num_heads=2, engine="triton", dtype=torch.float64)
    x, state = torch.randn(2, 17, 2, dtype=torch.float64), state_of(module, 17)
    got = results(module, x, state)
    module.engine = "loop"
    for name, value in results(module, x, state).items():
        assert_close(got[name], value, name)


# Of a head of 40 units; a launch a step, since no program can wait in the interpreter.
SHARED = {
    "weights on chip": PATHS["resident"],
    "streamed": PATHS["many programs and chunks"],
    "sums in parts": PATHS["sums in 8 parts"],
    "groups of rows": PATHS["groups of rows"],
    "a gate each": PATHS_BACKWARD["resident parts"],
}


def share(monkeypatch, shared: str) -> None:
    from fused_lstm.triton import op

    def planned(fuse: str, direction: str, dtype, device, shape, *, gates, **options) -> Plan:
        path = SHARED[shared]
        if direction == "forward" and "split" in path:
            path = {}
        return make_plan(fuse, direction, shape.H, shape.B, shape.L, dtype, path, gates=gates)

    monkeypatch.setattr(op, "plan_of", planned)


@pytest.mark.parametrize(
    ("cell", "dtype", "shared"),
    [
        ("slstm", torch.float64, "weights on chip"),
        ("rnn_tanh", torch.float64, "weights on chip"),
        ("gru", torch.bfloat16, "streamed"),
        ("slstm", torch.float64, "a gate each"),
        ("gru", torch.float64, "sums in parts"),
        pytest.param("lstm", torch.float64, "sums in parts", marks=pytest.mark.slow),
        pytest.param("rnn_relu", torch.float64, "streamed", marks=pytest.mark.slow),
        pytest.param("slstm_exponential", torch.float64, "groups of rows", marks=pytest.mark.slow),
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
    """Programs of a launch's heads run on the GPU at once; a small head has one to itself."""
    for device in (*DEVICES.values(), *AMD.values()):
        for units in (1, 16, 33, 64, 100, 256, 768, 3000):
            for heads, batch in ((1, 1), (1, 16), (4, 16), (8, 40), (4, 600)):
                for dtype in ("bf16", "fp32", "fp64"):
                    shape = {"hidden": units, "batch": batch, "dtype": dtype, "device": device}
                    one = choose("backward", layers=1, heads=heads, **shape)
                    assert one.kind == "heads"
                    assert heads % one.layers == 0, shape
                    assert one.padded_batch >= batch
                    assert not one.persistent or one.alone or one.programs <= device.sms, shape
    h100 = {"batch": 16, "dtype": "bf16", "device": DEVICES["H100"], "layers": 1}
    found = {
        (heads, units): choose("forward", hidden=units, heads=heads, **h100)
        for heads, units in ((12, 32), (1, 768), (8, 256), (8, 768), (100, 768))
    }
    # A launch's heads, and the programs of each.
    assert {key: (one.layers, one.blocks // one.layers) for key, one in found.items()} == {
        (12, 32): (12, 1), (1, 768): (1, 48), (8, 256): (8, 16), (8, 768): (8, 12),
        (100, 768): (10, 12),
    }  # fmt: skip


def test_heads_that_do_not_run_at_once_take_several_launches(monkeypatch):
    """Two launches of two heads each, on both ways."""
    from fused_lstm.triton import op

    def planned(fuse: str, direction: str, dtype, device, shape, *, gates, **options) -> Plan:
        return make_plan(fuse, direction, shape.H, shape.B, 2, dtype, {}, gates=gates)

    torch.manual_seed(5)
    module = MAKE["slstm"](2, 20, num_heads=4, engine="triton", dtype=torch.float64)
    x, state = torch.randn(3, 3, 2, dtype=torch.float64), state_of(module, 3)
    monkeypatch.setattr(op, "plan_of", planned)
    got = results(module, x, state, **ROWS)
    module.engine = "loop"
    for name, value in results(module, x, state, **ROWS).items():
        assert_close(got[name], value, name)
