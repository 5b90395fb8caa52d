"""fuse="steps" in the interpreter: a launch by hand; tests/conformance has values on every path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton.language as tl

from fused_lstm import reference
from fused_lstm.triton import interpreter, launch
from fused_lstm.triton.cells import KernelCell
from fused_lstm.triton.cells.activation import sigmoid
from fused_lstm.triton.helper import helper
from plans import make_plan
from tolerance import assert_close

pytestmark = pytest.mark.skipif(
    not interpreter.is_interpreted(), reason="tests/kernels/triton/test_gpu.py does these on a GPU"
)


def make_layer(T: int, B: int, H: int, dtype: torch.dtype):
    """x [T, B, H], h0, c0 [B, H] and a layer without biases."""
    x, h0, c0 = (torch.randn(*size, dtype=dtype) for size in ((T, B, H), (B, H), (B, H)))
    w_ih, w_hh = torch.randn(2, 4 * H, H, dtype=dtype) / H**0.5
    return x, h0, c0, reference.Layer(w_ih, w_hh, None, None)


def forward(plan, gates, w_hh, h0, c0, save, cell=None):
    """y [T, B, H] and c [T or 1, B, H]; gates become the activated ones."""
    T, (B, H) = len(gates), h0.shape
    y, c = gates.new_empty(T, B, H), c0.new_empty(T if save else 1, B, H)
    exchange, _, counters = launch.workspace(plan, gates, (1, 1, 2), 1)
    launch.feed(exchange, h0[None], plan, False)
    call = on_cell(launch.launches(plan, save=save), cell)
    call.run(
        call.arguments(
            gates_ptr=gates, w_hh_ptrs=(w_hh,), c0_ptr=c0, c_ptr=c, h_n_ptr=torch.empty_like(h0),
            c_n_ptr=torch.empty_like(c0), h_ptr=y, y_ptr=y, exchange_ptr=exchange,
            barrier_ptr=counters, T=T, B=B, top=0,
        ),
        T,
    )  # fmt: skip
    return y, c


def backward(plan, dy, dh_n, dc, gates, w_hh, c0, c, cell=None):
    """dgates [T, B, 4H]; dc becomes the gradient by c0."""
    exchange, _, counters = launch.workspace(plan, gates, (2, 4), 1)
    dgates = torch.empty_like(gates)
    partial = None if plan.split == 1 else c.new_empty(plan.split, *c0.shape)
    call = on_cell(launch.launches(plan), cell)
    call.run(
        call.arguments(
            dy_ptr=dy, dh_n_ptr=dh_n, gates_ptr=gates, w_hh_ptrs=(w_hh,), c0_ptr=c0, c_ptr=c,
            dc_ptr=dc, dgates_ptr=dgates, exchange_ptr=exchange, partial_ptr=partial,
            barrier_ptr=counters, T=len(c), B=len(c0), last=len(c0),
        ),
        len(c),
    )  # fmt: skip
    return dgates


def on_cell(call, cell):
    """A call's launches with another cell in its kernels."""
    if cell is None:
        return call
    launches = [launch.Launch(one.plan, cell, one.constants) for one in call.launches]
    return replace(call, launches=tuple(launches))


def test_nothing_is_saved_where_nothing_is_asked_for():
    x, h0, c0, layer = make_layer(4, 3, 17, torch.float32)
    expected_y, expected_c, _ = reference.layer_forward(x, h0, c0, layer)
    plan = make_plan("steps", "forward", 17, 3, 1, torch.float32, {})
    y, c = forward(plan, x @ layer.w_ih.T, layer.w_hh, h0, c0, save=False)
    assert c.shape == (1, 3, 17)
    assert_close(y, expected_y, "y")
    assert_close(c[0], expected_c[-1], "c")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_keeps_its_state_in_float32(dtype):
    x, h0, c0, layer = make_layer(5, 3, 17, dtype)
    expected, expected_c, _ = reference.layer_forward(x, h0, c0, layer)
    plan = make_plan("steps", "forward", 17, 3, 1, dtype, {})
    y, c = forward(plan, x @ layer.w_ih.T, layer.w_hh, h0, c0.float(), save=True)
    assert c.dtype == torch.float32
    assert_close(y, expected, "y")
    assert_close(c.to(dtype), expected_c.to(dtype), "c")


def test_two_runs_give_the_same_bits():
    x, h0, c0, layer = make_layer(3, 20, 63, torch.float32)
    path = {"units": 64, "split": 4, "block_k": 32}
    found = []
    for _ in range(2):
        gates = x @ layer.w_ih.T
        plan = make_plan("steps", "forward", 63, 20, 1, torch.float32, {"units": 16})
        y, c = forward(plan, gates, layer.w_hh, h0, c0, save=True)
        plan = make_plan("steps", "backward", 63, 20, 1, torch.float32, path)
        dc = torch.ones_like(c0)
        dgates = backward(plan, y, h0, dc, gates, layer.w_hh, c0, c)
        found.append((y, c, gates, dgates, dc))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


# --- a cell that is not the LSTM: one gate is not read, nothing is a tanh ---


@helper
def leaky_step(by_x, by_h, h_bias, states, options, HAS: tl.constexpr):
    i, f, g, o = by_x[0] + by_h[0], by_x[1] + by_h[1], by_x[2] + by_h[2], by_x[3] + by_h[3]
    f, o = sigmoid(f), sigmoid(o)
    c_next = f * states[0] + (1.0 - f) * g
    return o * c_next, (c_next,), (i, f, g, o)


@helper
def leaky_backward(saved, states, after, dh, dafter, options, HAS: tl.constexpr):
    i, f, g, o = saved
    dc = dafter[0] + dh * o
    df = dc * (states[0] - g) * f * (1.0 - f)
    dgates = i * 0.0, df, dc * (1.0 - f), dh * after[0] * o * (1.0 - o)
    return dgates, dgates, (dc * f,), ()


LEAKY = KernelCell("leaky", leaky_step, leaky_backward, sums=4, saved=4)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_kernel_s_arguments_are_given_by_name_and_kept_in_its_order(direction):
    call = launch.launches(make_plan("steps", direction, 17, 3, 1, torch.float64, {}))
    names = list(launch.KERNELS[direction].arg_names)
    x = torch.zeros(3)
    found = call.arguments(c_ptr=x, w_hh_ptrs=(x, x), T=5)
    given = dict(zip(names, found.tensors, strict=False))
    assert (given["c_ptr"], given["T"], given["w_ih_ptrs"]) == (x, 5, None)
    at = dict(zip(names, found.addresses, strict=False))
    assert at["c_ptr"] == x.data_ptr()
    assert at["w_hh_ptrs"] == (x.data_ptr(),) * 2
    with pytest.raises(KeyError, match="c_pointer"):
        call.arguments(c_pointer=x)


def test_another_cell_is_handed_in():
    T, B, H = 3, 5, 17
    x, h0, c0, layer = make_layer(T, B, H, torch.float64)
    inputs = (x @ layer.w_ih.T).requires_grad_()
    h, c, outputs = h0, c0.requires_grad_(), []
    for before in inputs:
        _, f, g, o = (before + h @ layer.w_hh.T).chunk(4, -1)
        c = f.sigmoid() * c + (1 - f.sigmoid()) * g
        h = o.sigmoid() * c
        outputs.append(h)
    expected, by = torch.stack(outputs), torch.randn(T, B, H, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, (inputs, c0), by)

    cell, gates, dc = LEAKY, inputs.detach().clone(), c0 * 0
    forwards, backwards = (
        make_plan("steps", direction, H, B, 1, torch.float64, {})
        for direction in ("forward", "backward")
    )
    with torch.no_grad():
        y, states = forward(forwards, gates, layer.w_hh, h0, c0, True, cell)
        dgates = backward(backwards, by, h0 * 0, dc, gates, layer.w_hh, c0, states, cell)
    assert_close(y, expected.detach(), "y")
    assert_close(dgates, wanted[0], "dgates")
    assert_close(dc, wanted[1], "dc0")
