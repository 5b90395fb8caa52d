"""Recurrent layers for BackendBench: a suite of ATen's lstm, gru and RNN, and a backend of ours.

BackendBench (meta-pytorch/BackendBench) asks whether a backend's kernels give what ATen's operators
give, and how fast they are. None of its suites has a recurrent layer. This file has both halves, as
they would be offered to it: `RecurrentTestSuite` for BackendBench/suite, `FusedLSTMBackend` for
BackendBench/backends. From a clone of it, with fused_lstm installed:

    PYTHONPATH=BackendBench python examples/backendbench/recurrent.py

prints how many tests of an operator are right and the geometric mean of its speeds over ATen's; the
exit status is 1 where one is wrong.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from BackendBench.backends.base import Backend
from BackendBench.eval import eval_one_op
from BackendBench.opregistry import get_operator, register_operator
from BackendBench.suite.base import OpTest, Test, TestSuite

from fused_lstm.adopt.install import FUNCTIONS

ATEN = torch.ops.aten
CELLS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}  # name -> gates


class Call(NamedTuple):
    """A call of a recurrent operator: its shape and options."""

    T: int
    B: int
    I: int
    H: int
    L: int = 1
    bias: bool = True
    bidirectional: bool = False
    batch_first: bool = False
    dtype: torch.dtype = torch.float32


CORRECT = [
    Call(1, 1, 3, 5), Call(7, 3, 5, 6), Call(5, 2, 4, 4, L=2), Call(5, 2, 4, 7, bias=False),
    Call(6, 3, 4, 5, L=2, bidirectional=True), Call(6, 3, 4, 5, batch_first=True),
    Call(9, 4, 8, 8, dtype=torch.float64), Call(9, 4, 16, 32, dtype=torch.bfloat16),
]  # fmt: skip
FAST = [Call(1, 1, 256, 256), Call(35, 20, 200, 200, L=2), Call(100, 32, 128, 256)]


def tensors(cell: str, call: Call) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the states [L * D, B, H] and the weights of a call, in nn.LSTM's order."""
    G, D = CELLS[cell], 1 + call.bidirectional
    draw = partial(torch.empty, dtype=call.dtype)
    states = [torch.randn(call.L * D, call.B, call.H, dtype=call.dtype)] * (1 + (cell == "lstm"))
    weights = []
    for lane in range(call.L * D):
        width = call.I if lane < D else D * call.H
        shapes = [(G * call.H, width), (G * call.H, call.H), *[(G * call.H,)] * (2 * call.bias)]
        weights += [draw(shape).uniform_(-(call.H**-0.5), call.H**-0.5) for shape in shapes]
    return states, weights


def test(cell: str, call: Call) -> Test:
    """Return BackendBench's test of a call of padded rows, whose arguments are made when asked."""
    shape = (call.B, call.T, call.I) if call.batch_first else (call.T, call.B, call.I)
    states, weights = tensors(cell, call)
    options = call.bias, call.L, 0.0, False, call.bidirectional, call.batch_first
    values: Sequence[Callable[[], Any]] = [
        lambda: torch.randn(shape, dtype=call.dtype),
        lambda: states if cell == "lstm" else states[0],
        lambda: weights,
        *(partial(lambda value: value, value) for value in options),
    ]
    return Test(*values)


def packed(cell: str) -> Test:
    """Return the test of rows of unequal length, packed: five steps of 4, 3, 3, 1 and 1 rows."""
    call, sizes = Call(5, 4, 6, 8, L=2), torch.tensor([4, 3, 3, 1, 1])
    states, weights = tensors(cell, call)
    options = call.bias, call.L, 0.0, False, call.bidirectional
    values: Sequence[Callable[[], Any]] = [
        lambda: torch.randn(int(sizes.sum()), call.I),
        lambda: sizes,
        lambda: states if cell == "lstm" else states[0],
        lambda: weights,
        *(partial(lambda value: value, value) for value in options),
    ]
    return Test(*values)


def op_tests() -> list[OpTest]:
    """Return the tests of each operator, of padded rows and of packed ones."""
    made = []
    for cell in CELLS:
        both = getattr(ATEN, cell)
        correct, fast = ([test(cell, call) for call in calls] for calls in (CORRECT, FAST))
        made.append(OpTest(get_operator(both.input), correct, fast))
        made.append(OpTest(get_operator(both.data), [packed(cell)], [packed(cell)]))
    return made


RecurrentTestSuite = TestSuite("recurrent", op_tests())


class FusedLSTMBackend(Backend):
    """fused_lstm's kernels under ATen's recurrent operators."""

    def __init__(self) -> None:
        super().__init__("fused_lstm")
        self.ops = {
            overload: getattr(FUNCTIONS, cell)
            for cell in CELLS
            for overload in (getattr(ATEN, cell).input, getattr(ATEN, cell).data)
        }
        for op in self.ops:
            register_operator(op)

    def __getitem__(self, key: Any) -> Callable[..., Any]:
        return self.ops[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.ops


def main() -> int:
    """Evaluate the backend on the suite; return 1 where a test is wrong."""
    torch.manual_seed(0)
    backend, wrong = FusedLSTMBackend(), 0
    for optest in RecurrentTestSuite:
        right, speed, results, _ = eval_one_op(
            optest.op, backend[optest.op], optest.correctness_tests, optest.performance_tests
        )
        wrong += right < 1
        print(f"{optest.op}: {right:.0%} of {len(results)} right, {speed:.2f} times as fast")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
