"""float32 follows cuDNN's LSTM switch, in the plan and in the products around the kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

import fresh
import fused_lstm
from fused_lstm import reference, zoo
from fused_lstm.call.spec import PLAIN
from fused_lstm.triton import devices, launch, op, precision, rounding, tile
from plans import make_plan

# What a program may do before it calls an LSTM -> whether nn.LSTM's cuDNN then uses TF32.
SWITCHES = {
    "": True,
    "cudnn.allow_tf32 = False": False,
    "cudnn.allow_tf32 = True": True,
    "cudnn.rnn.fp32_precision = 'ieee'": False,
    "cudnn.rnn.fp32_precision = 'tf32'": True,
    "cudnn.conv.fp32_precision = 'ieee'": True,
    "cudnn.fp32_precision = 'ieee'": None,  # as torch has it: 2.11 as if not set
    "fp32_precision = 'ieee'": None,
    "cuda.matmul.allow_tf32 = True": True,
    "cuda.matmul.fp32_precision = 'ieee'": True,
}
# Each in a process of its own: torch refuses to read an old switch once a new one is set.
PROGRAM = """
import os, torch
from fused_lstm.triton import precision
for switch in {switches}:
    if os.fork():
        os.wait()
        continue
    exec(f"torch.backends.{{switch}}")
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with precision.matmul_as_rnn(torch.float32):
        seen = matmul.fp32_precision
    assert matmul.fp32_precision == before, matmul.fp32_precision
    of_rnn = torch._C._get_fp32_precision_getter("cuda", "rnn")
    print(switch, precision.tf32(), seen == "tf32", of_rnn == "tf32", sep=";", flush=True)
    os._exit(0)
"""


def test_as_nn_lstm_does():
    switches = [switch or "__name__" for switch in SWITCHES]
    said = fresh.python(PROGRAM.format(switches=switches))
    for line, switch, tf32 in zip(said.splitlines(), switches, SWITCHES.values(), strict=True):
        found, *taken, of_torch = line.split(";")
        assert [found, *taken] == [switch, of_torch, of_torch]
        assert tf32 is None or str(tf32) == of_torch, switch


OLDER = """
import threading, torch
from fused_lstm.triton import precision
matmul, found = torch.backends.cuda.matmul, []
def read():
    found.append((torch.get_float32_matmul_precision(), matmul.allow_tf32))
for allowed in (None, True, False):
    if allowed is not None:
        matmul.allow_tf32 = allowed
    torch.backends.cudnn.rnn.fp32_precision = "ieee" if allowed else "tf32"
    read()
    with precision.matmul_as_rnn(torch.float32):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    read()
print(found)
"""


def test_another_thread_can_read_the_older_switch_meanwhile():
    """Inductor does; where the two disagree torch raises."""
    off, on = ("highest", False), ("high", True)
    assert eval(fresh.python(OLDER)) == [off, on, off, on, off, on, off, on, off]


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
    shape = op.Shape(2, 1, 3, 64, 0, 64)
    of = "layers", "forward", torch.float32, torch.device("cpu"), shape
    plan = op.plan_of(*of, norm=False, gates=4, tf32=precision.tf32())
    assert plan.precision == allowed


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize("function", [op.lstm, op.lstm_backward])
def test_the_products_around_them(function, monkeypatch):
    """What runs inside sees the switch; an error leaves it as it was; halves leave it alone."""
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    seen = []

    def stop(*_, **__):
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        raise RuntimeError("far enough")

    monkeypatch.setattr(op, "plan_of", stop)
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


# --- TF32 factors are rounded, not cut ---


@triton.jit
def rounded_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    n = tl.arange(0, SIZE)
    tl.store(y_ptr + n, tile.rounded(tl.load(x_ptr + n), True))


def exactly_rounded(x: torch.Tensor) -> torch.Tensor:
    """To 10 bits of fraction, ties away from zero, by way of float64."""
    fraction, exponent = torch.frexp(x.double())
    scaled = fraction * 2**11
    return torch.ldexp((scaled.abs() + 0.5).floor() * scaled.sign(), exponent - 11).float()


def test_factors_are_rounded_to_the_nearest():
    x = torch.randn(1024)
    x[:4] = torch.tensor([1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 0.0])  # ties, and less
    y = torch.empty_like(x)
    rounded_kernel[(1,)](x, y, SIZE=1024)
    assert torch.equal(y, exactly_rounded(x))
    assert torch.equal(precision.rounded(x), y)
    assert (y.view(torch.int32) & 0x1FFF == 0).all(), "a tensor core has nothing left to cut"
    worse = cut(x)
    assert (y - x).norm() < 0.55 * (worse - x).norm()
    assert ((y - x) * x.sign()).mean().abs() < 0.05 * ((worse - x) * x.sign()).mean().abs()


def test_what_is_no_number_stays_so():
    """A GPU's own NaN has all bits set: an addition to it would make it zero."""
    bits = [0x7FFFFFFF, -1, 0x7FC00000, 0x7F800001, 0x7F800000, -0x800000, 0x7F7FFFFF, 1]
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    y = torch.empty_like(x)
    rounded_kernel[(1,)](x, y, SIZE=8)
    for found in (y, precision.rounded(x)):
        assert found[:4].isnan().all()
        assert found[4:7].tolist() == [torch.inf, -torch.inf, torch.inf]
        assert found[7] == 0


def cut(x: torch.Tensor) -> torch.Tensor:
    """What a tensor core makes of a factor that nobody has rounded."""
    return (x.view(torch.int32) & -0x2000).view(torch.float32)


def stack_of(x, h0, weights, kind: str, r) -> torch.Tensor:
    """y of layers without biases, or of both directions, whose kernels' factors are r(.)."""
    outputs = []
    for lane in range(len(h0)):
        w_ih, w_hh = weights[2 * lane], weights[2 * lane + 1]
        read = x if lane == 0 or kind == "both" else outputs[-1]
        # In a wavefront an upper lane's inputs are the kernel's product; all others are torch's.
        by_x = r(read) @ r(w_ih).T if lane > 0 and kind == "layers" else read @ w_ih.T
        h, c, steps = h0[lane], h0[lane], {}
        for t in (2, 1, 0) if lane == 1 and kind == "both" else range(3):
            h, c = reference.cell(by_x[t] + r(h) @ r(w_hh).T, c)
            steps[t] = h
        outputs.append(torch.stack([steps[t] for t in range(3)]))
    return torch.cat(outputs, -1) if kind == "both" else outputs[-1]


@pytest.mark.parametrize("kind", ["steps", "layers", "both"])
def test_the_kernels_multiply_rounded_factors(kind, monkeypatch):
    """Weights, h, h0 and what the lane below hands on.

    Of a factor near the middle of two numbers a sum in another order may round to the other one, so
    that errors are compared: with rounded factors, with cut ones, with those as they are.
    """
    D = 2 if kind == "both" else 1
    x, h0 = torch.randn(3, 4, 17), torch.randn(2, 4, 17)
    weights = [torch.randn(68, 17) / 4 for _ in range(4)]

    def made(fuse, direction, dtype, device, shape, **options):
        plan = make_plan(kind, direction, 17, 4, shape.L // D, dtype, {})
        return replace(plan, precision="tf32")

    monkeypatch.setattr(op, "plan_of", made)
    y, *_ = op.lstm(x, h0, h0, weights, 0.0, None, kind, True, directions=D)
    models = [stack_of(x, h0, weights, kind, r) for r in (precision.rounded, cut, torch.clone)]
    error, *others = [(y - model).norm() for model in models]
    assert error < 0.2 * min(others)


CELLS = {
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "proj_size": {"proj_size": 9},
    "a product inside a step": {"cell": zoo.multiplicative_lstm},
}


@pytest.mark.parametrize("cell", CELLS)
def test_all_that_programs_exchange_is_rounded(cell, monkeypatch):
    """Forward and backward: h behind a mask, what a projection or a product multiplies, and the
    gradients by what a product made."""
    spaces, options = [], dict(CELLS[cell])
    chosen, workspace, told = op.plan_of, launch.workspace, options.pop("cell", None)

    def kept(*arguments):
        spaces.append(workspace(*arguments))
        return spaces[-1]

    monkeypatch.setattr(launch, "workspace", kept)
    monkeypatch.setattr(op, "plan_of", lambda *a, **o: replace(chosen(*a, **o), precision="tf32"))
    where = {"engine": "triton", "fuse": "steps"}
    if told is None:
        module = fused_lstm.LSTM(17, 17, **where, **options)
    else:
        module = fused_lstm.Recurrent(told, 17, 17, **where)
    module(torch.randn(3, 4, 17))[0].square().sum().backward()
    exchanged = [space.exchange for space in spaces]
    exchanged += [space.between for space in spaces if space.between is not None]
    assert len(exchanged) == (2 if cell == "recurrent_dropout" else 4)
    for values in exchanged:
        assert values.count_nonzero() > 0
        assert torch.equal(values, exactly_rounded(values))


# --- weights that stream are rounded before a launch ---


def test_one_launch_rounds_tensors_of_any_sizes():
    tensors = [torch.randn(*size) for size in ((3, 5), (4097, 2), (1, 1))]
    for x, y in zip(tensors, rounding.rounded(tensors), strict=True):
        assert torch.equal(y, exactly_rounded(x))


@pytest.mark.parametrize("kind", ["steps", "layers", "both"])
def test_weights_rounded_before_give_the_same_bits(kind, monkeypatch):
    """The large products around the launches still have the weights as they are."""
    D, P = 2 if kind == "both" else 1, 9 if kind == "layers" else 0
    columns = P or 17
    x, h0, c0 = torch.randn(3, 4, 17), torch.randn(2, 4, columns), torch.randn(2, 4, 17)
    weights = []
    for lane in range(2):
        weights += [torch.randn(68, 17 if lane < D else D * columns), torch.randn(68, columns)]
        weights += [torch.randn(68), torch.randn(68), *([torch.randn(P, 17)] if P else [])]

    def made(fuse, direction, dtype, device, shape, **options):
        plan = make_plan(kind, direction, 17, 4, shape.L // D, dtype, {}, projected=P)
        return replace(plan, precision="tf32")

    launches = []

    def noted(tensors, original=rounding.rounded):
        launches.append(len(tensors))
        return original(tensors)

    monkeypatch.setattr(op, "plan_of", made)
    monkeypatch.setattr(rounding, "rounded", noted)
    given, found = (x, h0, c0, weights, 0.0, None, kind), []
    for steps in (4, 3):  # from which a call's weights are rounded before its launches
        monkeypatch.setattr(rounding, "STEPS", steps)
        y, h_n, c_n, *saved = op.lstm(*given, True, directions=D)
        of = torch.ones_like(y), h_n, c_n
        dx, dh0, dc0, dweights = op.lstm_backward(*of, *given, y, *saved, True, directions=D)
        found.append([y, h_n, c_n, dx, dh0, dc0, *dweights])
    assert launches == [5 if P else 2] * 2, "one each way"
    for left, right in zip(*found, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("card", "H", "dtype", "before"),
    [
        ("H100", 650, torch.float32, False),  # all resident: rounded when they are loaded
        ("H100", 1500, torch.float32, True),
        ("A100", 650, torch.float32, True),
        ("A100", 1500, torch.bfloat16, False),
    ],
)
def test_weights_are_rounded_before_where_they_stream(card, H, dtype, before, monkeypatch):
    monkeypatch.setattr(devices, "current", lambda device: devices.DEVICES[card])
    shape = op.Shape(1, 1, 20, H, 0, H)
    for tf32, many_steps in ((True, True), (True, False), (False, True)):
        planned = op.plan_call.__wrapped__(
            op.plan_of, (), direction="forward", fuse="steps", dtype=dtype, tf32=tf32, shape=shape,
            device=torch.device("cuda"), cell=PLAIN, varlen=False, resets=False, save=True,
            states=dtype, many_steps=many_steps,
        )  # fmt: skip
        assert planned.rounds_before == (before and tf32 and many_steps)
        at_load = planned.launches.launches[0].constants(False).ROUND_WEIGHTS
        assert at_load == (dtype == torch.float32 and tf32 and not planned.rounds_before)
