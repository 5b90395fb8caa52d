"""float32 follows cuDNN's LSTM switch, in the plan and in the products around the kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fused_lstm.triton import around, devices

# What a program may do before it calls an LSTM -> whether nn.LSTM's cuDNN then uses TF32.
SWITCHES = {
    "": True,
    "cudnn.allow_tf32 = False": False,
    "cudnn.allow_tf32 = True": True,
    "cudnn.rnn.fp32_precision = 'ieee'": False,
    "cudnn.rnn.fp32_precision = 'tf32'": True,
    "cudnn.conv.fp32_precision = 'ieee'": True,
    "cudnn.fp32_precision = 'ieee'": False,
    "fp32_precision = 'ieee'": False,
    "cuda.matmul.allow_tf32 = True": True,
    "cuda.matmul.fp32_precision = 'ieee'": True,
}
# Each in a process of its own: torch refuses to read an old switch once a new one is set.
PROGRAM = """
import os, sys, torch
from fused_lstm.triton import precision
for switch in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    exec(f"torch.backends.{switch}")
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with precision.matmul_as_rnn(torch.float32):
        seen = matmul.fp32_precision
    assert matmul.fp32_precision == before, matmul.fp32_precision
    print(switch, precision.tf32(), seen == "tf32", sep=";", flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_as_nn_lstm_does():
    switches = [switch or "__name__" for switch in SWITCHES]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *switches], capture_output=True, text=True, timeout=300
    )
    wanted = [f"{s};{tf32};{tf32}" for s, tf32 in zip(switches, SWITCHES.values(), strict=True)]
    assert done.stdout.splitlines() == wanted, done.stderr


@pytest.fixture
def switches():
    """Restored afterwards."""
    before = torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("allowed", ["tf32", "ieee"])
def test_the_kernels_plan(allowed, monkeypatch):
    monkeypatch.setattr(devices, "current", lambda device: devices.DEVICES["H100"])
    torch.backends.cudnn.rnn.fp32_precision = allowed
    plan = around._plan("layers", "forward", torch.zeros(1), around.Shape(2, 1, 3, 64, 0), False)
    assert plan.precision == allowed


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("function", [around.lstm, around.lstm_backward])
def test_the_products_around_them(function, monkeypatch):
    """What runs inside sees the switch; an error leaves it as it was; halves leave it alone."""
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    seen = []

    def stop(*_):
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        raise RuntimeError("far enough")

    monkeypatch.setattr(around, "_plan", stop)
    for dtype in (torch.float32, torch.bfloat16):
        x, h0, c = (
            torch.zeros(2, 3, 4, dtype=dtype),
            torch.zeros(1, 3, 5, dtype=dtype),
            torch.zeros(1, 2, 3, 5),
        )
        weights = [torch.zeros(20, 4, dtype=dtype), torch.zeros(20, 5, dtype=dtype)]
        y = torch.zeros(2, 3, 5, dtype=dtype)
        arguments = {
            "lstm": (x, h0, h0, weights, 0.0, None, "layers", True),
            "lstm_backward": (
                *[None] * 3,
                x,
                h0,
                h0,
                weights,
                0.0,
                None,
                "layers",
                y,
                y,
                c,
                y,
                True,
            ),
        }
        with pytest.raises(RuntimeError, match="far enough"):
            function(*arguments[function.__name__])
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert seen == ["tf32", "ieee"]
