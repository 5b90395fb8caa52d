"""What a call launches, moves and holds: bench.counts."""

from __future__ import annotations

import pytest
import torch

from bench import counts as count
from bench.cases import Shape, make_problem
from bench.contenders import BASE, LOOP, choose, engines
from bench.lstm import Local
from fused_lstm import native

CPU = torch.device("cpu")
SHAPE = Shape(3, 2, 5, 7, 2)


def runner(label: str) -> Local:
    return Local(*choose([label], engines()), make_problem(SHAPE))


def test_launches_of_the_loop():
    work, setup = runner(LOOP).work("inference")
    found = count.count(work, setup, CPU)
    T, L = SHAPE.T, SHAPE.L
    # A step of a layer: cat, product, 3 sigmoids, 2 tanh, 3 mul, 1 add. A layer: two cats of
    # weights and states, one sum of biases, one stack. Two stacks at the end.
    assert 11 * T * L <= found["launches"] <= 11 * T * L + 4 * L + 2
    weights = sum(w.nbytes for w in make_problem(SHAPE).reference.parameters())
    assert found["bytes"] > T * weights, "the loop reads all weights at every step"
    assert found["memory"] > 0


def test_nn_lstm_is_fused():
    work, setup = runner(BASE).work("step")
    found = count.count(work, setup, CPU)
    assert found["launches"] < SHAPE.T * SHAPE.L + 10


@pytest.mark.skipif(native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}")
def test_memory_of_native_is_what_its_tensors_take():
    shape = Shape(30, 20, 32, 64, 2)
    held = Local(*choose(["native-layers"], engines()), make_problem(shape))
    work, setup = held.work("step")
    T, B, _, H, L = shape
    saved = 4 * T * B * H * 6 * L  # bytes of the gates, c and h of all layers
    # The backward adds one layer's gradients of gates, the weights' and panels of packed operands.
    assert saved < count.count(work, setup, CPU)["memory"] < 3 * saved


def test_counting_is_silent(capfd):
    held = runner(BASE)
    work, setup = held.work("backward")
    count.count(work, setup, CPU)
    assert capfd.readouterr() == ("", "")


def test_a_compiled_function_is_not_watched():
    # Under a dispatch mode torch.compile would give its graph up for good.
    def eager(a):
        return (a @ a).sin()

    compiled = torch.compile(eager, backend="eager", fullgraph=True)
    a = torch.randn(4, 4)
    compiled(a)
    found = count.count(lambda: compiled(a), None, CPU)
    assert (found["launches"], found["bytes"]) == (None, None)
    assert torch.equal(compiled(a), eager(a))
