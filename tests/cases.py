"""What the tests of engines share: who runs here, which shapes, and the comparison by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import fused_lstm
from fused_lstm import native
from fused_lstm.call import choose
from fused_lstm.cells.compile import files_of
from tolerance import assert_close

CPU = torch.device("cpu")
needs_native = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


class Shape(NamedTuple):
    T: int
    B: int
    I: int
    H: int
    L: int

    def __str__(self) -> str:
        return "-".join(f"{name}{size}" for name, size in zip("TBIHL", self, strict=True))


class LanesCase(NamedTuple):
    """An operator's T, B, I, H, L, and what is not plain about them."""

    shape: Shape
    directions: int = 1
    projected: int = 0
    lengths: tuple[int, ...] | None = None  # of B rows, falling; None: T each, in [T, B, I]
    dead: int = 0  # rows of x behind those of all steps
    resets: bool = False
    bias: bool = True
    dropout: float = 0.0

    def __str__(self) -> str:
        said = [f"{k}={v}" for k, v in self._asdict().items() if v != self._field_defaults.get(k)]
        return " ".join([str(self.shape), *said[1:]])

    @property
    def batch_sizes(self) -> Tensor | None:
        if self.lengths is None:
            return None
        return (torch.tensor(self.lengths) > torch.arange(self.shape.T)[:, None]).sum(1)

    @property
    def rows(self) -> tuple[int, ...]:
        """All dimensions of the operator's x but the last."""
        return self.shape[:2] if self.lengths is None else (sum(self.lengths) + self.dead,)


SHAPES = [
    Shape(1, 1, 1, 1, 1),
    Shape(1, 3, 5, 3, 2),
    Shape(6, 1, 4, 17, 1),
    Shape(3, 2, 63, 3, 3),
    Shape(5, 4, 17, 63, 2),
    Shape(2, 7, 9, 130, 2),
    Shape(4, 5, 130, 1, 3),
]


# Triton's levels that have no kernel of their own: a step's is `pointwise`'s, and that of all steps
# `layers`'. The interpreter takes seconds for each.
BETWEEN = "triton-hoisted", "triton-steps"


def rungs(
    *exclude: str, top: bool = False, slow: Sequence[str] = BETWEEN, but: Sequence[str] = ()
) -> list:
    """(engine, fuse) for all that the table holds; skipped with the reason where it cannot run.

    top: only the level that each engine takes by itself, for what does not depend on the level.
    slow: those that run with --slow alone, by how their names begin. but: levels that are left out.
    """
    found, why_not = [], fused_lstm.available_engines("cpu")
    for name, engine in choose.ENGINES.items():
        if name in exclude:
            continue
        why = why_not[name]
        marks = [] if why is None else [pytest.mark.skip(reason=f"{name}: {why}")]
        for fuse in (engine.default,) if top else engine.fuses or (None,):
            if fuse in but:
                continue
            label = name if fuse is None else f"{name}-{fuse}"
            own = [*marks, pytest.mark.slow] if label.startswith(tuple(slow)) else marks
            found.append(pytest.param(name, fuse, marks=own, id=label))
    return found


def in_turn(cases: Mapping[str, object], rungs: list, turns: int) -> pytest.MarkDecorator:
    """Parametrize "case", "engine" and "fuse": each case on one rung of `turns`.

    What a case asks for is worked out above the engines, and what a level does is the same for all
    cases, so a product of all finds what pairs find. --slow has it; native-layers, which takes
    milliseconds, has every case.
    """
    return pytest.mark.parametrize(
        ("case", "engine", "fuse"),
        [
            pytest.param(
                case, *rung.values, id=f"{name}-{rung.id}",
                marks=rung.marks if is_its_turn else [*rung.marks, pytest.mark.slow],
            )
            for n, (name, case) in enumerate(cases.items())
            for r, rung in enumerate(rungs)
            for is_its_turn in [(n - r) % turns == 0 or rung.id == "native-layers"]
        ],
    )  # fmt: skip


def cells_in_turn(name: str, cells: Mapping[str, object]) -> pytest.MarkDecorator:
    """Parametrize `name` and "every_isa": each cell on the best set, every third on another too.

    Each is compiled for each of its sets, half a second's work; --slow has all. A set whose float
    and double kernels are the best one's, as avx512's are amx's, has no turn.
    """
    isas = [] if native.missing(CPU) else native.OPS.isa_names(None)
    best, *others = [isa for isa in isas if isa != "emulated"] or [""]  # no cell is emulated
    own = [isa for isa in others if files_of(isa)["cell"] != files_of(best)["cell"]]
    turns = [turn for isa in own for turn in (isa, None, None)] or [None]
    return pytest.mark.parametrize(
        (name, "every_isa"),
        [
            pytest.param(
                cell, isa, id=f"{label}-{isa}",
                marks=[] if isa in (best, turns[n % len(turns)]) else pytest.mark.slow,
            )
            for n, (label, cell) in enumerate(cells.items())
            for isa in (best, *others)
        ],
        indirect=["every_isa"],
    )  # fmt: skip


def native_lstm(x, h0, c0, weights, dropout: float, fuse: str) -> tuple[Tensor, Tensor, Tensor]:
    """The engine `native` on weights given at the call: y, h_n, c_n."""
    y, state = fused_lstm.lstm(x, (h0, c0), weights, dropout, "native", fuse)
    return y, *state


def make_pair(
    shape: Shape, engine: str, fuse: str | None, dtype: torch.dtype, **options
) -> tuple[nn.LSTM, fused_lstm.LSTM]:
    """nn.LSTM and ours with the same weights."""
    theirs = nn.LSTM(shape.I, shape.H, shape.L, dtype=dtype, **options)
    ours = fused_lstm.LSTM(
        shape.I, shape.H, shape.L, dtype=dtype, engine=engine, fuse=fuse, **options
    )
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def run(module: nn.Module, x: Tensor, state: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """Outputs, final state and every gradient of a loss that uses all of them, by name."""
    x = x.detach().requires_grad_()
    if state is not None:
        state = tuple(s.detach().requires_grad_() for s in state)
    y, (h_n, c_n) = module(x, state)
    # A weight for each element: a gradient that lands in the wrong place must show.
    loss = sum((out * _pattern(out)).sum() for out in (y, h_n, c_n))
    module.zero_grad()
    loss.backward()
    found = {"y": y.detach(), "h_n": h_n.detach(), "c_n": c_n.detach(), "x.grad": x.grad}
    if state is not None:
        found |= {"h_0.grad": state[0].grad, "c_0.grad": state[1].grad}
    return found | {f"{name}.grad": p.grad for name, p in module.named_parameters()}


def _pattern(out: Tensor) -> Tensor:
    return torch.linspace(-1, 1, out.numel(), dtype=out.dtype).cos().reshape(out.shape)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, name)


def make_state(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    h0, c0 = torch.randn(2, shape.L, shape.B, shape.H, dtype=dtype)
    return h0, c0


def pytorchs_own_inputs(theirs: type, dtype: torch.dtype, training: bool) -> list:
    """What PyTorch tests nn.LSTM or nn.GRU with: modules and their inputs."""
    pytest.importorskip("expecttest", reason="PyTorch's own tests need expecttest")
    from torch.testing._internal.common_modules import module_db

    torch.backends.__allow_nonbracketed_mutation_flag = True  # which that import takes away
    (info,) = (info for info in module_db if info.module_cls is theirs)
    options = {"device": "cpu", "dtype": dtype, "requires_grad": True, "training": training}
    return list(info.module_inputs_func(info, **options))


def assert_agree_on_pytorchs_inputs(
    theirs: type, ours: type, dtype: torch.dtype, training: bool, engine: str, fuse: str | None
) -> int:
    """Values and gradients of each of those inputs; returns how many there are."""
    every = pytorchs_own_inputs(theirs, dtype, training)
    for n, given in enumerate(every):
        arguments, inputs = given.constructor_input, given.forward_input
        both = {**arguments.kwargs, "dtype": dtype, "dropout": 0.0}  # masks are each engine's own
        torch.manual_seed(n)
        modules = (
            theirs(*arguments.args, **both),
            ours(*arguments.args, **both, engine=engine, fuse=fuse),
        )
        modules[1].load_state_dict(modules[0].state_dict())
        found = []
        for module in modules:
            y, state = module.train(training)(*inputs.args, **inputs.kwargs)
            y = y.data if isinstance(y, PackedSequence) else y
            outputs = [y, *(state if isinstance(state, tuple) else (state,))]
            leaves = [inputs.args[0], *module.parameters()]
            loss = sum(out.sin().sum() for out in outputs)
            found.append([*outputs, *torch.autograd.grad(loss, leaves)])
        for m, (wanted, actual) in enumerate(zip(*found, strict=True)):
            assert_close(actual, wanted, f"input {n}, result {m}: {arguments.kwargs}")
    return len(every)


def assert_autocasts(module: nn.Module, x: Tensor) -> None:
    """In bfloat16 under autocast, near what float32 gives, with gradients of float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = module(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())
    assert_close(y.float(), module(x)[0], "y", torch.bfloat16)


def of_one_leaf(function: Callable, tensors: Sequence[Tensor]) -> tuple[Callable, Tensor]:
    """The function of one flat tensor, and that: gradcheck calls it anew for each input."""
    flat = torch.cat([t.detach().flatten() for t in tensors]).requires_grad_()

    def of_flat(flat: Tensor):
        parts = flat.split([t.numel() for t in tensors])
        return function(*(part.view_as(t) for part, t in zip(parts, tensors, strict=True)))

    return of_flat, flat
