"""Bidirectional, projected, packed, with lengths and resets: all of nn.LSTM, and what it lacks."""

from __future__ import annotations

import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import fused_lstm
from cases import rungs
from fused_lstm.call import choose
from lanes import (
    KINDS,
    Case,
    call,
    check,
    expected,
    make_inputs,
    make_modules,
    run,
)
from tolerance import assert_close

SLOW = pytest.mark.slow
every_own = pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))

# --- every option with every other ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("two", [False, True], ids=["", "bidirectional"])
def test_cudnn_takes_all_but_resets(kind, two):
    check(Case(kind, bidirectional=two, proj_size=2), "cudnn", None)
    with pytest.raises(
        ValueError, match="resets: got a tensor with engine='cudnn', which does not have it"
    ):
        check(Case(kind, bidirectional=two, resets=True), "cudnn", None)


@SLOW  # of a minute's first compilation; below it compiles in a graph of the user's
def test_the_compile_engine():
    if (why := fused_lstm.available_engines("cpu")["compile"]) is not None:
        pytest.skip(why)
    check(Case("unsorted", T=2, L=1, proj_size=2, resets=True), "compile", None)


@every_own
def test_what_has_ended_is_nobodys(engine, fuse):
    """NaN in padding reaches neither a value nor a gradient."""
    case = Case("lengths", bidirectional=True)
    _, ours = make_modules(case, engine, fuse, torch.float64)
    given = make_inputs(case, torch.float64)
    found = []
    for filler in (0.0, torch.nan):
        dead = torch.arange(case.T)[:, None] >= given.lengths
        x = torch.where(dead[..., None], filler, given.x)
        found.append(run(call, ours, case, given._replace(x=x)))
        assert not found[-1]["x.grad"][dead].any()
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def test_auto_takes_our_own_for_all():
    own = [e for e in ("native",) if fused_lstm.available_engines("cpu")[e] is None] or ["loop"]
    case = Case("unsorted", bidirectional=True, proj_size=2, resets=True)
    _, ours = make_modules(case, "auto", None, torch.float64)
    _, named = make_modules(case, own[0], None, torch.float64)
    given = make_inputs(case, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # native may be missing
        pairs = zip(call(ours, case, given), call(named, case, given), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# --- dropout ---


# --- derivatives and transforms ---


# --- compiled, exported, under autocast ---


def graphs() -> list:
    """(kind, backend, engine, fuse); without --slow a kind on one engine, and an engine once.

    Dynamo traces what a kind asks for in one way above all engines; test_ops.py has inductor.
    """
    found = []
    every = rungs("compile", "cudnn", slow=())
    for rung, kind, backend in product(every, KINDS, ("aot_eager", "inductor")):
        engine, fuse = rung.values
        runs = backend == "aot_eager" and (
            (engine, fuse) == ("native", "layers")
            or (kind == "lengths" and (engine, fuse) == ("triton", "layers"))
        )
        marks = [*rung.marks, *([] if runs else [SLOW])]
        name = f"{rung.id}-{kind}-{backend}"
        found.append(pytest.param(kind, backend, engine, fuse, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("kind", "backend", "engine", "fuse"), graphs())
def test_torch_compile_in_one_graph(kind, backend, engine, fuse):
    case = Case(kind, T=3, bidirectional=True, proj_size=2, resets=True, state=kind != "packed")
    check_compiled(case, engine, fuse, backend)


def check_compiled(case: Case, engine: str, fuse: str | None = None, backend="aot_eager") -> None:
    """One graph gives what the module gives."""
    theirs, ours = make_modules(case, engine, fuse, torch.float64)
    given = make_inputs(case, torch.float64)
    wanted = run(expected, theirs, case, given)
    ours.compile(fullgraph=True, backend=backend)
    for name, value in run(call, ours, case, given).items():
        assert_close(value, wanted[name], name)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[SLOW] * (k != "unsorted")) for k in ("plain", "unsorted", "lengths")],
)
def test_the_compile_engine_in_a_graph_of_the_users(kind):
    check_compiled(Case(kind, T=3, bidirectional=True, proj_size=2, resets=True), "compile")


def test_cudnn_in_a_graph_takes_all_but_packed_rows():
    """PyTorch takes nn.LSTM apart there, by the numbers of rows, which a graph does not know."""
    check_compiled(Case("plain", T=3, bidirectional=True), "cudnn")
    for kind in ("unsorted", "lengths"):
        with pytest.raises(Exception, match="in a graph with engine='cudnn'"):
            check_compiled(Case(kind, T=3, bidirectional=True), "cudnn")


@pytest.mark.parametrize("kind", [pytest.param("unsorted", marks=SLOW), "lengths"])
def test_auto_in_a_graph_takes_packed_rows_without_native(kind, monkeypatch):
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "not built today")
    choose.choose.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_compiled(Case(kind, T=3), "auto")
    finally:
        choose.choose.cache_clear()
        choose._warn_that_it_is_missing.cache_clear()


def test_auto_takes_resets_without_native(monkeypatch):
    """By the loop: nn.LSTM, which it takes for all else, has none."""
    case = Case(resets=True)
    _, ours = make_modules(case, "auto", None, torch.float64)
    _, loop = make_modules(case, "loop", None, torch.float64)
    given = make_inputs(case, torch.float64)
    assert given.resets.any()
    wanted = call(loop, case, given)
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "not built today")
    choose.choose.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = call(ours, case, given)
    finally:
        choose.choose.cache_clear()
        choose._warn_that_it_is_missing.cache_clear()
    for name, a, b in zip(("y", "h_n", "c_n"), found, wanted, strict=True):
        assert_close(a, b, name)


class Rows(TorchFunctionMode):
    """Keeps the batch_sizes of each call of torch.lstm."""

    def __init__(self) -> None:
        super().__init__()
        self.of_calls: list[list[int]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ == "lstm":
            self.of_calls.append(args[1].tolist())
        return func(*args, **(kwargs or {}))


def test_no_step_without_rows_reaches_cudnn():
    """PyTorch's own loop takes one, and cuDNN none."""
    case = Case("lengths", T=6)
    _, ours = make_modules(case, "cudnn", None, torch.float64)
    given = make_inputs(case, torch.float64)._replace(lengths=torch.tensor([2, 4, 1]))
    with Rows() as rows:
        call(ours, case, given)
    assert rows.of_calls == [[3, 2, 1, 1]]


class Reader(nn.Module):
    def __init__(self, engine: str, fuse: str | None) -> None:
        super().__init__()
        self.lstm = fused_lstm.LSTM(3, 4, 2, bidirectional=True, engine=engine, fuse=fuse)

    def forward(self, x, lengths=None):
        return self.lstm(x, None, lengths)[0]


@pytest.mark.parametrize("with_lengths", [False, True], ids=["plain", "lengths"])
@pytest.mark.parametrize(
    ("engine", "fuse"),
    rungs(
        "compile",
        "cudnn",
        slow=(
            "triton-pointwise", "triton-hoisted", "triton-steps", "native-pointwise",
            "native-hoisted", "native-steps", "loop-hoisted",
        ),
    ),
)  # fmt: skip
def test_torch_export(with_lengths, engine, fuse, whole):
    """Any T and B where the engine has an operator; a loop has the T that it was exported with."""
    if engine == "loop" and not with_lengths and not whole:
        pytest.skip("long, and with lengths it has all of it: --slow")
    model = Reader(engine, fuse)
    B, T = torch.export.Dim("B", min=2, max=64), torch.export.Dim("T", min=2, max=512)
    dynamic = {0: T, 1: B} if fuse in ("steps", "layers") else {1: B}
    inputs = (torch.randn(5, 3, 3), torch.tensor([5, 2, 3]))[: 1 + with_lengths]
    shapes = (dynamic, {0: B})[: 1 + with_lengths]
    program = torch.export.export(model, inputs, dynamic_shapes=shapes).module()
    x = torch.randn(9 if 0 in dynamic else 5, 4, 3)
    inputs = (x, torch.tensor([1, 5, 2, 3]))[: 1 + with_lengths]
    assert_close(program(*inputs).detach(), model(*inputs).detach(), "y")


@pytest.mark.parametrize("kind", [pytest.param("LSTM", marks=SLOW), "GRU"])
def test_cudnn_in_a_graph_trains_with_dropout(kind):
    """The loop runs there: a GRU's masks come from a seed, which that call once did not have."""
    module = getattr(fused_lstm, kind)(3, 4, 2, dropout=0.5, engine="cudnn")
    x = torch.randn(3, 2, 3, requires_grad=True)
    y, _ = torch.compile(module, backend="aot_eager")(x)
    y.sum().backward()
    assert x.grad.isfinite().all()
