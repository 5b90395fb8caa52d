"""Errors of the C++ engine's results against float64's, beside PyTorch's: nothing is timed.

Products by themselves, a whole LSTM and the softmax layer, in every way that this CPU has to hold a
number: float32, the bfloat16 terms that PyTorch's switches ask for (of a matrix unit, or of its
emulation, which gives the same bits), bfloat16 in pairs, and widened to float32. An error is the
root of the mean square of the differences over that of the right values, which are float64's on the
same tensors. "rounded first" are tensors of bfloat16 that float64 is given too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import fused_lstm
from fused_lstm import native

from . import kernels
from .cases import Problem, Shape, make_problem
from .contenders import NN_LSTM, Contender
from .core import CPU, Record, surroundings
from .lstm import Local
from .products import Product
from .switches import onednn_float32
from .training import VOCABULARY

OURS = Contender("native-layers", "native", "layers")
DEPTHS, ROWS = (200, 650, 1500), 64  # of the products
SHAPE = Shape(20, 20, 200, 200, 2)  # the LSTM's
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
WIDENED = "bfloat16, widened"
Answer = dict[str, Tensor]


class Way(NamedTuple):
    """To hold the numbers: the tensors' dtype, PyTorch's switch, and who multiplies."""

    dtype: torch.dtype
    switch: str = "ieee"
    isa: str = ""  # "": what the engine takes by itself


def ways() -> dict[str, Way]:
    """Return those that this CPU has, by their names in a table."""
    kernels.ops()  # and with them AMX emulated
    isas = native.OPS.isa_names(BFLOAT16)
    unit = "amx" if "amx" in native.OPS.isa_names() else "emulated"
    plain = next(isa for isa in native.OPS.isa_names() if isa not in isas)
    return {
        "float32": Way(FLOAT32),
        "two terms": Way(FLOAT32, "tf32", unit),
        "one term": Way(FLOAT32, "bf16", unit),
        "bfloat16": Way(BFLOAT16),
        WIDENED: Way(BFLOAT16, isa=plain),
        "bfloat16, matrix unit": Way(BFLOAT16, isa=unit),
    }


@contextmanager
def in_use(way: Way) -> Iterator[None]:
    """Hold both of PyTorch's switches and the instruction set until the end of the block."""
    try:
        native.OPS.use_isa(way.isa)
        with onednn_float32(way.switch):
            yield
    finally:
        native.OPS.use_isa("")


def errors(
    exact: Answer,
    ours: Callable[[torch.dtype], Answer],
    theirs: Callable[[torch.dtype], Answer],
    without: Callable[[str, Way], bool] = lambda name, way: False,
) -> dict[str, dict[str, float]]:
    """Return way -> result -> error, of our answer in every way and of PyTorch's two."""
    answers: dict[str, Answer] = {}
    for name, way in ways().items():
        if not without(name, way):
            with in_use(way):
                answers[name] = ours(way.dtype)
    for dtype in (FLOAT32, BFLOAT16):
        answers[f"PyTorch {str(dtype).removeprefix('torch.')}"] = theirs(dtype)
    return {
        name: {of: float((a[of].double() - t).norm() / t.norm()) for of, t in exact.items()}
        for name, a in answers.items()
    }


def of_products(depth: int) -> dict[str, dict[str, float]]:
    """Return those of ROWS x ROWS sums of so many products; what is widened is float32's."""
    torch.manual_seed(0)
    left, right = torch.randn(2, ROWS, depth)

    def ours(dtype: torch.dtype) -> Answer:
        return {"product": Product("input", left.to(dtype), right.to(dtype), 1, "nt").run()[0]}

    def theirs(dtype: torch.dtype) -> Answer:
        return {"product": left.to(dtype) @ right.to(dtype).T}

    exact = {"product": left.double() @ right.double().T}
    return errors(exact, ours, theirs, lambda name, way: name == WIDENED)


def converted(problem: Problem, dtype: torch.dtype) -> Problem:
    """Return the same numbers, rounded where the dtype asks for it."""
    tensors = {name: getattr(problem, name).to(dtype) for name in ("x", "h0", "c0", "dy")}
    return replace(problem, reference=copy.deepcopy(problem.reference).to(dtype), **tensors)


def of_lstm(start: torch.dtype) -> dict[str, dict[str, float]]:
    """Return those of tensors that had that dtype to begin with."""
    problem = converted(make_problem(SHAPE), start)

    def answer(contender: Contender, dtype: torch.dtype) -> Answer:
        return Local(contender, converted(problem, dtype)).answer()

    exact = answer(NN_LSTM, torch.float64)
    return errors(exact, partial(answer, OURS), partial(answer, NN_LSTM))


def of_softmax(shape: Shape) -> dict[str, dict[str, float]]:
    """Return those of loss, dhidden, dweight and dbias, of numbers that bfloat16 has.

    bfloat16 is autocast here: its hidden state has that dtype, the weights are float32. By the
    emulation it would take minutes.
    """
    torch.manual_seed(0)
    H, target = shape.H, torch.randint(VOCABULARY, (shape.tokens,))
    sizes = {(shape.tokens, H): 1.0, (VOCABULARY, H): H**-0.5, (VOCABULARY,): 0.1}
    given = [(torch.randn(size) * scale).bfloat16().float() for size, scale in sizes.items()]

    def plain(hidden: Tensor, weight: Tensor, target: Tensor, *, linear_bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight, linear_bias), target)

    def answer(function: Any, dtype: torch.dtype) -> Answer:
        wide = torch.float64 if dtype == torch.float64 else FLOAT32
        hidden, weight, bias = leaves = [t.to(wide, copy=True).requires_grad_() for t in given]
        with torch.autocast("cpu", BFLOAT16, enabled=dtype == BFLOAT16):
            loss = function(hidden.to(dtype), weight, target, linear_bias=bias)
        names = ("dhidden", "dweight", "dbias")
        grads = zip(names, torch.autograd.grad(loss, leaves), strict=True)
        return {"loss": loss.detach(), **dict(grads)}

    ours = partial(answer, fused_lstm.linear_cross_entropy)
    exact = answer(plain, torch.float64)
    return errors(exact, ours, partial(answer, plain), lambda name, way: way.isa == "emulated")


def run(name: str, suite: Any, options: Any) -> Iterator[Record]:
    """Yield a record for each way to hold numbers and each result: "rms", and no time."""
    tables = {("product", str(depth)): of_products(depth) for depth in DEPTHS}
    tables["lstm", "float32"], tables["lstm", "rounded first"] = of_lstm(FLOAT32), of_lstm(BFLOAT16)
    tables |= {("softmax", case.name): of_softmax(case.shape) for case in suite.cases}
    for (what, about), by_way in tables.items():
        for way, results in by_way.items():
            for result, rms in results.items():
                facts = {"of": what, "rms": rms}
                yield Record(name, about, way, result, extra=facts, **surroundings(CPU))
