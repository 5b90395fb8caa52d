"""What a call launches, moves and holds: bench.measure.counts."""

from __future__ import annotations

import time

import pytest
import torch

from bench.alone import Local, Shape, make_problem
from bench.contenders import BASE, LOOP, choose, engines
from bench.measure import counts as count
from fused_lstm import native

CPU = torch.device("cpu")
SHAPE = Shape(3, 2, 5, 7, 2)


def runner(label: str) -> Local:
    return Local(*choose([label], engines()), make_problem(SHAPE))


def test_launches_of_the_loop():
    work, setup = runner(LOOP).work("inference")
    found = count.count(work, CPU, setup)
    T, L = SHAPE.T, SHAPE.L
    # A step of a layer: cat, product, 3 sigmoids, 2 tanh, 3 mul, 1 add. A layer: two cats of
    # weights and states, one sum of biases, one stack. Two stacks at the end.
    assert 11 * T * L <= found.launches <= 11 * T * L + 4 * L + 2
    assert found.seconds["products"] > 0
    assert found.seconds["fused"] == 0
    weights = sum(w.nbytes for w in make_problem(SHAPE).reference.parameters())
    assert found.bytes > T * weights, "the loop reads all weights at every step"
    assert found.peak_memory > 0


def test_nn_lstm_is_fused():
    work, setup = runner(BASE).work("step")
    found = count.count(work, CPU, setup)
    assert found.launches < SHAPE.T * SHAPE.L + 10
    assert found.seconds["fused"] > found.seconds["pointwise"]


@pytest.mark.skipif(native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}")
def test_memory_of_native_is_what_its_tensors_take():
    shape = Shape(30, 20, 32, 64, 2)
    held = Local(*choose(["native-layers"], engines()), make_problem(shape))
    work, setup = held.work("step")
    T, B, _, H, L = shape
    saved = 4 * T * B * H * 6 * L  # bytes of the gates, c and h of all layers
    # The backward adds one layer's gradients of gates, the weights' and panels of packed operands.
    assert saved < count.count(work, CPU, setup).peak_memory < 3 * saved


def test_counting_is_silent(capfd):
    held = runner(BASE)
    work, setup = held.work("backward")
    count.count(work, CPU, setup)
    assert capfd.readouterr() == ("", "")


def test_a_compiled_function_is_not_watched():
    # Under a dispatch mode torch.compile would give its graph up for good.
    def eager(a):
        return (a @ a).sin()

    compiled = torch.compile(eager, backend="eager", fullgraph=True)
    a = torch.randn(4, 4)
    compiled(a)
    found = count.count(lambda: compiled(a), CPU)
    assert found.launches == 2
    assert found.bytes is None
    assert torch.equal(compiled(a), eager(a))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aten::addmm", "products"),
        ("aten::sigmoid", "pointwise"),
        ("aten::cat", "copies"),
        ("fused_lstm_native::lstm_backward", "fused"),
        ("fused_lstm_native::cell", "pointwise"),
        ("aten::mkldnn_rnn_layer", "fused"),
        ("sm90_xmma_gemm_f32", "products"),
        ("Memcpy DtoD", "copies"),
    ],
)
def test_kind_of_a_launch(name, expected):
    assert count.kind(name) == expected


def test_overhead_is_what_the_same_run_took_beyond_its_launches():
    work, _ = runner(LOOP).work("inference")
    found = count.count(lambda: (time.sleep(0.05), work()), CPU)
    assert found.seconds["overhead"] > 0.05
    parts = count.shares(found.seconds)
    assert parts.keys() == set(count.KINDS)
    assert sum(parts.values()) == pytest.approx(1)
