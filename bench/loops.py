"""People's recurrent loops, unchanged: the loop, torch.compile of it, torch's scan, and `fuse`.

The cells are those of `bench.written`, and of packages (`bench.packaged`). torch.compile unrolls
all steps and compiles for minutes, so it runs where `--engines all` asks for it, and so does
torch's scan, a prototype of PyTorch's. The answers are compared in float64. A record has the
seconds of a contender's first call, which traces and compiles.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import fused_lstm

from . import packaged
from .cases import Case, Shape
from .core import Call, Work, differentiable
from .written import CELLS

WAYS = ("loop", "fuse", "hoisted")
OTHERS = ("compiled step", "compile", "scan", "scan, compiled")


def step_of(module: Any, x: Any, state: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return (x_t, state) -> y_t, state, as a person calls a module of this kind."""
    layer = fused_lstm.fuse(module, fuse="none")
    with torch.no_grad():
        layer(pytree.tree_map(lambda t: t[:2], x), state)
    kind = layer.kind
    unpacks = isinstance(state, tuple) and module.forward.__code__.co_argcount == 2 + len(state) > 3

    def step(x_t: Any, state: Any) -> tuple[Any, Any]:
        out = module(x_t, *state) if unpacks else module(x_t, state)
        if kind == "state":
            return out[0] if isinstance(out, tuple) else out, out
        return out if kind == "y, state" else (out[0], tuple(out[1:]))

    return step


def unrolled(step: Callable, x: Any, state: Any) -> tuple[Any, Any]:
    """Run a step over all steps of x, as people do."""
    leaves, spec = pytree.tree_flatten(x)
    ys = []
    for x_t in zip(*(leaf.unbind(0) for leaf in leaves), strict=True):
        y, state = step(pytree.tree_unflatten(list(x_t), spec), state)
        ys.append(y)
    return pytree.tree_map(lambda *parts: torch.stack(parts), *ys), state


def scanned(step: Callable, x: Any, state: Any) -> tuple[Any, Any]:
    """Run a step by torch's scan, whose results may share no memory."""
    from torch._higher_order_ops import scan

    def combined(state: Any, x_t: Any) -> tuple[Any, Any]:
        y, after = step(x_t, state)
        return after, pytree.tree_map(torch.clone, y)

    last, y = scan(combined, state, x)
    return y, last


def setup(case: Case, o: Any) -> Work:
    """Return a cell by the loop, by ours at both levels, and where asked by torch's own ways."""
    T, B, I, H, _ = case.shape
    if case.cell in packaged.CELLS:
        if why := packaged.missing(case.cell):
            return Work({}, absent=dict.fromkeys(WAYS, why))
        written = packaged.CELLS[case.cell][1]
    else:
        written = CELLS[case.cell]
    torch.manual_seed(0)
    module = written.make(I, H)
    x, state = written.x(T, B, I, H, torch.randn), written.state(B, H, torch.randn)

    def of(how: str, dtype: torch.dtype = torch.float32) -> Call:
        own = copy.deepcopy(module).to(dtype)
        cast = partial(pytree.tree_map, lambda t: t.to(dtype))
        xs, before = cast(x), cast(state)
        leaves = {f"x {k}": t.requires_grad_() for k, t in enumerate(pytree.tree_leaves(xs))}
        leaves |= dict(own.named_parameters())
        run: Callable = partial(unrolled, step_of(own, xs, before))
        if how in ("fuse", "hoisted"):
            run = fused_lstm.fuse(own, fuse="hoisted" if how == "hoisted" else None)
        if how == "compiled step":
            run = fused_lstm.fuse(own, fuse="hoisted", compile_step=True)
        if how.startswith("scan"):
            run = partial(scanned, step_of(own, xs, before))
        if how in ("compile", "scan, compiled"):
            torch._dynamo.reset()
            run = torch.compile(run, dynamic=False)

        def results() -> Tensor:
            y, after = run(xs, before)
            ends = [t for t in pytree.tree_leaves((y, after)) if t.is_floating_point()]
            return torch.cat([t.flatten() for t in ends])

        count = results().numel()
        return differentiable(results, leaves, torch.linspace(-1, 1, count, dtype=dtype))

    def exact(how: str) -> dict[str, Tensor]:
        return {name: t.float() for name, t in of(how, torch.float64).answer().items()}

    def checked(how: str) -> Call:
        first = time.perf_counter()
        call = of(how)
        call.modes["step"]()
        seconds = time.perf_counter() - first
        call.facts = lambda mode, rounds: {"first": seconds}
        if how in WAYS:
            call.answer = partial(exact, how)
        return call

    ways = [*WAYS, *(OTHERS if o.engines == "all" else ())]
    facts = {"shape": case.shape._asdict(), "cell": case.cell, "call": case.call}
    return Work({how: partial(checked, how) for how in ways}, partial(exact, "loop"), facts)


def cases(shapes: list[Shape], cells: Iterable[str] = CELLS) -> list[Case]:
    """Return each cell at each shape."""
    return [
        Case(f"{name}, {call}", shape, cell=name, call=call)
        for shape in shapes
        for call in [f"T={shape.T}, B={shape.B}, H={shape.H}"]
        for name in cells
    ]
