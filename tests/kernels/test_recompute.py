"""recompute=k: what an ordinary call gives, its derivatives too, in less memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fused_lstm
from cases import rungs
from cells import each_cell
from lanes import KINDS, Case, call, make_inputs, run
from tolerance import assert_close

every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))


def check(case: Case, k: int, engine: str, fuse: str | None, **options) -> None:
    torch.manual_seed(case.seed)
    options |= {"engine": engine, "fuse": fuse, "dtype": torch.float64, **case.options}
    plain = fused_lstm.LSTM(case.I, case.H, **options)
    ours = fused_lstm.LSTM(case.I, case.H, **options, recompute=k)
    ours.load_state_dict(plain.state_dict())
    given = make_inputs(case, torch.float64)
    wanted = run(call, plain, case, given)
    for name, value in run(call, ours, case, given).items():
        assert_close(value, wanted[name], name)


@pytest.mark.parametrize("k", [1, 2, 7, 9])
@every_rung
def test_any_k(k, engine, fuse, whole):
    if engine == "triton" and k != 2 and not whole:
        pytest.skip("long in the interpreter: --slow")
    check(Case(T=7), k, engine, fuse)


@pytest.mark.parametrize("two", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("compile", slow=("triton-pointwise", "triton-steps"))
)
def test_rows_that_end_or_begin_anew(kind, two, engine, fuse, whole):
    if engine == "triton" and kind in ("plain", "unbatched", "packed") and not whole:
        pytest.skip("long in the interpreter, whose kernels see packed rows alone: --slow")
    resets = engine != "cudnn"  # which has none
    T = 3 if engine == "triton" else 7  # the interpreter takes seconds
    check(Case(kind, T, bidirectional=two, resets=resets, proj_size=2), 2, engine, fuse)


@each_cell
def test_every_cell_in_eval(options):
    """In training each chunk draws its own masks."""
    case, k = Case("lengths", T=5, bidirectional=True, resets=True), 2
    options = {"engine": "loop", "dtype": torch.float64, **case.options, **options}
    plain = fused_lstm.LSTM(3, 4, **options).eval()
    ours = fused_lstm.LSTM(3, 4, recompute=k, **options)
    ours.eval().load_state_dict(plain.state_dict())
    given = make_inputs(case, torch.float64)
    wanted = run(call, plain, case, given)
    for name, value in run(call, ours, case, given).items():
        assert_close(value, wanted[name], name)


def test_one_recurrent_mask_for_all_chunks():
    options = {"engine": "loop", "recurrent_dropout": 0.5, "num_layers": 2, "dtype": torch.float64}
    plain = fused_lstm.LSTM(3, 16, **options)
    ours = fused_lstm.LSTM(3, 16, **options, recompute=2)
    ours.load_state_dict(plain.state_dict())
    x, found = torch.randn(7, 4, 3, dtype=torch.float64), []
    for module in (plain, ours):
        torch.manual_seed(4)
        found.append(module(x, None, torch.tensor([7, 2, 1, 4]))[0])
    assert_close(found[1], found[0], "y")


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", "triton", top=True))
@pytest.mark.parametrize("two", [False, True], ids=["", "bidirectional"])
def test_a_backward_draws_what_the_forward_drew(engine, fuse, two, whole):
    """And can be differentiated again."""
    options = {"dropout": 0.5, "bidirectional": two, "recompute": 2}
    module = fused_lstm.LSTM(2, 2, 2, engine=engine, fuse=fuse, **options).double()
    if engine == "loop":
        module.cell = fused_lstm.Spec(zoneout=0.3, recurrent_dropout=0.3)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = dict(module.named_parameters())

    def function(x, *given):
        torch.manual_seed(2)
        own = dict(zip(weights, given, strict=True))
        return torch.func.functional_call(module, own, (x,))[0]

    inputs = x, *weights.values()
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    if not two or (whole and engine == "loop"):  # a minute on native
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


PEAK = """
import torch, fused_lstm
def peak():  # kB; not ru_maxrss, which is the parent's at first
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
torch.set_num_threads(1)
T, B, H, k = 4096, 8, 128, {k}
lstm = fused_lstm.LSTM(8, H, engine={engine!r}, recompute=k)
x = torch.randn(T, B, 8)
lstm(x[:100])[0].sum().backward()
before = peak()
lstm(x)[0].sum().backward()
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_memory():
    """An ordinary call keeps 6 H numbers a step and row; the other one y, and T / k states."""
    if (why := fused_lstm.available_engines("cpu")["native"]) is not None:
        pytest.skip(why)
    peaks = {}
    for k in (None, 64):
        code = PEAK.format(k=k, engine="native")
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        peaks[k] = int(ran.stdout) * 1024
    row = 4096 * 8 * 128 * 4  # bytes of one [T, B, H]
    assert peaks[None] > 6 * row
    assert peaks[64] < 4 * row  # y as chunks and whole, its gradient, and a chunk's


def test_what_is_refused():
    with pytest.raises(ValueError, match="recompute: got 0, should be None or a number of steps"):
        fused_lstm.LSTM(3, 4, recompute=0)
    assert "recompute=5" in repr(fused_lstm.LSTM(3, 4, recompute=5))
