"""The first call of a shape: compared with the person's own loop, and raced with it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .capture import draw
from .guards import Guards, Untouched
from .tiers import TIERS, Loop, StepPlan, run_own

CHECKED_STEPS, CHECKED_ROWS = 3, 2
# Relative to 1 + the largest number. A check of half precision sees gross faults only.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SHORT, RACED_STEPS, ROUNDS = 8, 32, 5  # steps of a short call, at most in a race
SLOW = 0.1  # seconds of a short call
MUCH = 1.05  # how many times as fast a lower tier has to be


def differs(plan: StepPlan, tier: str, c: Loop, parameters: list[Tensor]) -> str | None:
    """Return how results or gradients of a few steps differ from the person's own loop, or None.

    Gradients tell what a trace has lost: a hook, or a gradient that stops. Random numbers of the
    step are the same in both.

    Args:
        c: a call. parameters: tensors beside those of the call whose gradients are compared.
    """
    assert plan.graph is not None
    B = min(c.sizes[1], CHECKED_ROWS)

    def few(t: Tensor, steps: bool) -> Tensor:
        t = t[:CHECKED_STEPS, :B] if steps else t[:B] if t.shape[:1] == c.x[0].shape[1:2] else t
        return t.detach().requires_grad_(t.is_floating_point())

    some = replace(
        c, x=[few(t, True) for t in c.x], fixed=[few(t, False) for t in c.fixed],
        state=[few(t, False) for t in c.state], resets=None, lengths=None,
    )  # fmt: skip
    graph = plan.graph
    leaves = [t for t in (*some.x, *some.fixed, *some.state) if t.is_floating_point()]
    leaves += [p for p in parameters if p.requires_grad]
    results = []
    with untouched(graph.guards), torch.enable_grad():
        some.draws = [draw(n, some.sizes, c.x[0].device) for n in graph.draws]
        for run in (lambda: plan.run(tier, some), lambda: replayed(some)):
            try:
                y, state, _ = run()
                ends = [t for t in (*y, *state) if t.requires_grad]
                by = torch.autograd.grad(ends, leaves, [cotangent(t) for t in ends],
                                         allow_unused=True) if ends else ()  # fmt: skip
            except Exception as error:  # of a tier, or of the step itself, which says it again
                return f"{type(error).__name__}: {str(error)[:200]}"
            gradients = [torch.zeros_like(t) if g is None else g
                         for t, g in zip(leaves, by, strict=False)]  # fmt: skip
            results.append([*(t.detach() for t in (*y, *state)), *gradients])
    for a, b in zip(*results, strict=True):
        if a.shape != b.shape:
            return f"a result of shape {list(a.shape)}, not {list(b.shape)}"
        if a.dtype != b.dtype:
            return f"a result of {a.dtype}, not {b.dtype}"
        near = 0.05 if torch._C._is_any_autocast_enabled() else TOLERANCE.get(b.dtype, 0.05)
        scale = 1 + float(b.abs().max()) if b.numel() and b.is_floating_point() else 1.0
        if not torch.allclose(a, b, rtol=near, atol=near * scale, equal_nan=True):
            error = float((a.double() - b.double()).abs().max())
            return f"results or gradients differ from the step's own by {error:.1e}"
    return None


def cotangent(t: Tensor) -> Tensor:
    """Return a gradient of a result, the same at each call."""
    return torch.linspace(-1.0, 1.0, t.numel(), dtype=t.dtype, device=t.device).reshape(t.shape)


def replayed(c: Loop) -> tuple:
    """Run the person's own loop with the call's random numbers in place of its own."""
    with Replay(c.draws or []):
        return run_own(c)


class Replay(TorchDispatchMode):
    """Hands out random numbers that were drawn before, in the order in which steps draw them."""

    def __init__(self, draws: list[Tensor]) -> None:
        super().__init__()
        self._draws = iter([t for step in zip(*draws, strict=True) for t in step])

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        numbers = next(self._draws)
        return args[0].copy_(numbers) if func._schema.is_mutable else numbers.clone()


@contextmanager
def untouched(guards: Guards) -> Iterator[None]:
    """Leave random state, and all that a step may change, as it was."""
    with Untouched(guards), torch.random.fork_rng():
        yield


def race(plan: StepPlan, c: Loop, trains: bool) -> dict[str, float]:
    """Return the seconds of a plan's tiers for a call's sizes: its own, and those below it.

    trains: with the backward. The tiers take turns; of a slow step fewer steps and turns are run.
    """
    assert plan.graph is not None
    state = [t.detach().requires_grad_(t.requires_grad) for t in c.state]

    def some(steps: int) -> Loop:
        x = [t[:steps].detach().requires_grad_(t.requires_grad) for t in c.x]
        return replace(c, x=x, state=state, resets=None, lengths=None, draws=None)

    def seconds(tier: str, short: Loop) -> float:
        start = time.perf_counter()
        y, state, _ = plan.run(tier, short)
        ends = [t for t in (*y, *state) if t.requires_grad]
        if trains and ends:
            every = (*plan.tensors_outside(), *short.x, *short.state)
            leaves = [t for t in every if t.requires_grad]
            torch.autograd.grad(ends, leaves, [torch.ones_like(t) for t in ends],
                                allow_unused=True)  # fmt: skip
        return time.perf_counter() - start

    tiers = TIERS[: TIERS.index(plan.tier) + 1]
    if c.sizes[0] == 1:  # with nothing to hoist
        tiers = tuple(tier for tier in tiers if tier in ("none", "steps"))
    with untouched(plan.graph.guards):
        short = some(SHORT)
        is_slow = max([seconds(tier, short) for tier in tiers]) > SLOW
        short, count = (short, 2) if is_slow else (some(RACED_STEPS), ROUNDS)
        for tier in () if is_slow else tiers:  # once more, of as many steps
            seconds(tier, short)
        rounds = [{tier: seconds(tier, short) for tier in tiers} for _ in range(count)]
    return {tier: statistics.median(r[tier] for r in rounds) for tier in tiers}


def fastest(times: dict[str, float]) -> str:
    """Return the tier that is fastest; the highest where others are hardly faster."""
    least = min(times.values())
    return next(tier for tier in reversed(times) if times[tier] <= MUCH * least)
