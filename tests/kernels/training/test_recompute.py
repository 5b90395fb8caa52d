"""recompute=k: what an ordinary call gives, its derivatives too, in less memory."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch.autograd import forward_ad

import fresh
import fused_lstm
from cases import rungs
from lanes import KINDS, Case, call, make_inputs
from tolerance import assert_close

every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))


@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("compile", "cudnn", "triton", but=("pointwise", "hoisted"))
)
def test_one_recurrent_mask_for_all_chunks(engine, fuse):
    options = {"engine": engine, "fuse": fuse, "dtype": torch.float64}
    options |= {"recurrent_dropout": 0.5, "num_layers": 2}
    plain = fused_lstm.LSTM(3, 16, **options)
    ours = fused_lstm.LSTM(3, 16, **options, recompute=2)
    ours.load_state_dict(plain.state_dict())
    x, found = torch.randn(7, 4, 3, dtype=torch.float64), []
    for module in (plain, ours):
        torch.manual_seed(4)
        found.append(module(x, None, torch.tensor([7, 2, 1, 4]))[0])
    assert_close(found[1], found[0], "y")


def test_masks_of_chunks_in_inference_mode():
    """Tensors of this mode count no changes."""
    module, found = fused_lstm.LSTM(3, 8, 2, dropout=0.5, recompute=2), []
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            torch.manual_seed(4)
            found.append(module(torch.ones(5, 2, 3))[0])
    assert torch.equal(*found)


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
T, B, H, k = 2048, 8, 128, {k}
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
    codes = [PEAK.format(k=k, engine="native") for k in (None, 64)]
    plain, chunks = (int(ran.stdout) * 1024 for ran in fresh.run(*codes))
    row = 2048 * 8 * 128 * 4  # bytes of one [T, B, H]
    assert plain > 6 * row
    assert chunks < 4 * row  # y as chunks and whole, its gradient, and a chunk's


def test_what_is_refused():
    with pytest.raises(ValueError, match="recompute: got 0; expected None or a number of steps"):
        fused_lstm.LSTM(3, 4, recompute=0)
    assert "recompute=5" in repr(fused_lstm.LSTM(3, 4, recompute=5))


@every_rung
def test_each_chunk_draws_its_own_masks(engine, fuse, whole):
    """Where zoneout keeps a unit its h is that of the step before."""
    if fuse in ("pointwise", "hoisted") or engine == "cudnn":
        pytest.skip("has nn.LSTM's cell alone")
    if engine == "triton" and fuse == "steps" and not whole:
        pytest.skip("long in the interpreter: --slow")
    module = fused_lstm.LSTM(3, 32, engine=engine, fuse=fuse, zoneout=(0.5, 0.0), recompute=2)
    y = module(torch.randn(8, 2, 3))[0].detach()
    kept = (y[1:] == y[:-1])[1:]  # of steps 2 to 7
    assert 0.4 < kept.float().mean() < 0.6
    for n, chunk in enumerate(kept.split(2)):
        for m, other in enumerate(kept.split(2)[:n]):
            assert not torch.equal(chunk, other), f"chunks {m + 1} and {n + 1} draw the same"


DRAWS = {
    "zoneout": {"zoneout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "dropout": {"dropout": 0.4, "num_layers": 2},
    "dropout, bidirectional": {"dropout": 0.4, "num_layers": 2, "bidirectional": True},
}


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "triton", top=True))
def test_a_call_without_gradients_draws_the_same(engine, fuse, draws):
    """A reentrant checkpoint differentiates the second of two calls, and returns the first's y."""
    if engine == "cudnn" and not draws.startswith("dropout"):
        pytest.skip("has nn.LSTM's cell alone")
    module = fused_lstm.LSTM(3, 8, engine=engine, fuse=fuse, recompute=2, **DRAWS[draws])
    x, found = torch.randn(5, 2, 3, requires_grad=True), []
    for grad in (False, True):
        torch.manual_seed(4)
        with torch.set_grad_enabled(grad):
            found.append(module(x, None, torch.tensor([5, 2]))[0].detach())
    assert_close(*found, "y")
    frozen = copy.deepcopy(module).requires_grad_(False)
    torch.manual_seed(4)
    assert_close(frozen(x.detach(), None, torch.tensor([5, 2]))[0], found[1], "frozen")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "triton", top=True))
def test_under_a_default_device(kind, engine, fuse):
    """Nothing is made where PyTorch's default is: here where there are no numbers."""
    case = Case(kind, bidirectional=True)
    module = fused_lstm.LSTM(case.I, case.H, **case.options, engine=engine, fuse=fuse, recompute=2)
    given = make_inputs(case, torch.float32)
    wanted = [t.detach() for t in call(module, case, given)]
    torch.set_default_device("meta")
    try:
        found = call(module, case, given)
    finally:
        torch.set_default_device(None)  # a device, even the CPU, would look at each later call
    for name, a, b in zip(("y", "h_n", "c_n"), found, wanted, strict=True):
        assert_close(a.detach(), b, name)


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True))
def test_in_forward_mode(engine, fuse):
    plain = fused_lstm.LSTM(2, 3, engine=engine, fuse=fuse, dtype=torch.float64)
    ours = fused_lstm.LSTM(2, 3, engine=engine, fuse=fuse, dtype=torch.float64, recompute=2)
    ours.load_state_dict(plain.state_dict())
    x, tangent, found = *torch.randn(2, 3, 2, 2, dtype=torch.float64), []
    for module in (plain, ours):
        with forward_ad.dual_level():
            y, _ = module(forward_ad.make_dual(x, tangent))
            found.append(forward_ad.unpack_dual(y))
    for name in ("primal", "tangent"):
        assert_close(getattr(found[1], name).detach(), getattr(found[0], name).detach(), name)


@pytest.mark.parametrize(
    "changed", ["x", "h_0", "c_0", "weight_ih_l0", "weight_hh_l1", "bias_hh_l0"]
)
@pytest.mark.parametrize("two", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "triton", top=True))
def test_what_is_changed_before_the_backward_is_an_error(engine, fuse, two, changed):
    """As nn.LSTM's: the forward that runs again would be another function."""
    options = {"engine": engine, "fuse": fuse, "bidirectional": two, "recompute": 2}
    module, lanes = fused_lstm.LSTM(3, 4, 2, **options), 2 + 2 * two
    tensors = {"x": torch.randn(5, 2, 3), "h_0": torch.randn(lanes, 2, 4)}
    tensors["c_0"] = torch.randn(lanes, 2, 4)
    y, _ = module(tensors["x"], (tensors["h_0"], tensors["c_0"]))
    with torch.no_grad():
        (tensors | dict(module.named_parameters()))[changed].mul_(2)
    with pytest.raises(RuntimeError, match=r"in.?place"):
        y.sum().backward()
