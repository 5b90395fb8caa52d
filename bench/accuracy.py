"""How near the C++ engine's results are to float64's, beside PyTorch's: nothing here is timed.

Products by themselves, a whole LSTM and the softmax layer, in every way that this CPU has to hold a
number: float32, the bfloat16 terms that PyTorch's switches ask for (of a matrix unit, or of its
emulation, which gives the same bits), bfloat16 in pairs, and widened to float32. An error is the
root of the mean square of the differences over that of the right values, which are float64's on the
same tensors. "rounded first" are tensors of bfloat16 that float64 is given too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import fused_lstm
from fused_lstm import native

from . import kernels
from .cases import Problem, Shape, make_problem
from .contenders import NN_LSTM, Contender
from .core import Record, surroundings
from .lstm import Local
from .products import Product
from .suites import Options, Suite
from .switches import onednn_float32
from .training import VOCABULARY

OURS = Contender("native-layers", "native", "layers")
DEPTHS, ROWS = (200, 650, 1500), 64  # of the products
SHAPE = Shape(20, 20, 200, 200, 2)  # the LSTM's
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
WIDENED = "bfloat16, widened"


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
    """Both of PyTorch's switches and the instruction set, until the end of the block."""
    try:
        native.OPS.use_isa(way.isa)
        with onednn_float32(way.switch):
            yield
    finally:
        native.OPS.use_isa("")


def errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each result, as the module's text says."""
    return {
        name: float((found[name].double() - value).norm() / value.norm())
        for name, value in exact.items()
    }


# --- products ---


def of_products(depth: int) -> dict[str, float]:
    """Of ROWS x ROWS sums of so many products of normal numbers."""
    torch.manual_seed(0)
    left, right = torch.randn(2, ROWS, depth)
    exact = {"product": left.double() @ right.double().T}
    found = {}
    for name, way in ways().items():
        if name == WIDENED:
            continue  # its products are float32's
        factors = left.to(way.dtype), right.to(way.dtype)
        with in_use(way):
            found[name] = Product("input", *factors, 1, "nt").run()[0]
    for dtype in (FLOAT32, BFLOAT16):
        found[theirs(dtype)] = left.to(dtype) @ right.to(dtype).T
    return {name: errors({"product": p}, exact)["product"] for name, p in found.items()}


def theirs(dtype: torch.dtype) -> str:
    """The name of PyTorch's column."""
    return f"PyTorch {str(dtype).removeprefix('torch.')}"


# --- a whole LSTM ---


def converted(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same numbers, rounded where the dtype asks for it."""
    names = ("x", "h0", "c0", "dy")
    tensors = {name: getattr(problem, name).to(dtype) for name in names}
    return replace(problem, reference=copy.deepcopy(problem.reference).to(dtype), **tensors)


def of_lstm(start: torch.dtype) -> dict[str, dict[str, float]]:
    """Column -> result -> error, of tensors that had that dtype to begin with."""
    problem = converted(make_problem(SHAPE), start)
    exact = Local(NN_LSTM, converted(problem, torch.float64)).answer()
    found = {}
    for name, way in ways().items():
        with in_use(way):
            found[name] = errors(Local(OURS, converted(problem, way.dtype)).answer(), exact)
    for dtype in (FLOAT32, BFLOAT16):
        found[theirs(dtype)] = errors(Local(NN_LSTM, converted(problem, dtype)).answer(), exact)
    return found


# --- the softmax layer ---


def of_softmax(shape: Shape) -> dict[str, dict[str, float]]:
    """The same of loss, dhidden, dweight and dbias, of numbers that bfloat16 has.

    bfloat16 is autocast here: its hidden state has that dtype, the weights are float32. By the
    emulation it would take minutes.
    """
    torch.manual_seed(0)
    H, target = shape.H, torch.randint(VOCABULARY, (shape.tokens,))
    sizes = {(shape.tokens, H): 1.0, (VOCABULARY, H): H**-0.5, (VOCABULARY,): 0.1}
    given = [(torch.randn(size) * scale).bfloat16().float() for size, scale in sizes.items()]
    exact = gradients(plain, torch.float64, [t.double() for t in given], target)
    found = {}
    for name, way in ways().items():
        if way.isa != "emulated":
            with in_use(way):
                own = gradients(fused_lstm.linear_cross_entropy, way.dtype, given, target)
            found[name] = errors(own, exact)
    for dtype in (FLOAT32, BFLOAT16):
        found[theirs(dtype)] = errors(gradients(plain, dtype, given, target), exact)
    return found


def plain(hidden: Tensor, weight: Tensor, target: Tensor, *, linear_bias: Tensor) -> Tensor:
    """PyTorch's two operators."""
    return F.cross_entropy(F.linear(hidden, weight, linear_bias), target)


def gradients(
    function: Any, dtype: torch.dtype, given: list[Tensor], target: Tensor
) -> dict[str, Tensor]:
    """The loss and what it leaves, under autocast where the dtype is bfloat16."""
    hidden, weight, bias = leaves = [t.clone().requires_grad_() for t in given]
    with torch.autocast("cpu", BFLOAT16, enabled=dtype == BFLOAT16):
        loss = function(hidden.to(dtype), weight, target, linear_bias=bias)
    names = ("dhidden", "dweight", "dbias")
    grads = dict(zip(names, torch.autograd.grad(loss, leaves), strict=True))
    return {"loss": loss.detach(), **grads}


# --- the suite ---


def run(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Yield a record for each way to hold numbers and each result: "rms", and no time."""
    tables: dict[tuple[str, str], dict] = {}
    for depth in DEPTHS:
        errors_of = of_products(depth)
        tables["product", str(depth)] = {way: {"product": e} for way, e in errors_of.items()}
    tables["lstm", "float32"], tables["lstm", "rounded first"] = of_lstm(FLOAT32), of_lstm(BFLOAT16)
    for case in suite.cases:
        tables["softmax", case.name] = of_softmax(case.shape)
    common = surroundings(torch.device("cpu"))
    for (what, about), ways_of in tables.items():
        for way, results in ways_of.items():
            for result, rms in results.items():
                facts = {"of": what, "rms": rms}
                yield Record(name, about, way, result, extra=facts, **common)
