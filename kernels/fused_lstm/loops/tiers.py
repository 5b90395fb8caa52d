"""Three ways to run all steps: a printed kernel, a loop over the part "step", the own loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call.layout import padded
from ..call.record import Call
from ..call.run import run, without_autocast
from ..call.spec import Spec
from .capture import Graph, Node
from .lower import Lowered
from .parts import BEFORE, FIXED, ONCE, STEP, Parts, Values
from .step import Inputs, Step, flattened, unflattened
from .tensors import Tensors
from .vectors import State, width_of

# Levels, as the library has them: what one launch covers.
NONE, HOISTED, STEPS = TIERS = "none", "hoisted", "steps"  # from the lowest


@dataclass
class Layout:
    """A map of a call's leaves to a step's arguments.

    x: structure of (x, keywords). fixed: structure, or None. state: structure, or None where a step
    takes no state. dims: where the batch is in each leaf of the state. hidden: tensors that the
    step's modules keep, (a dict, a key, a name): leaves of the state behind the others.
    """

    step: Step
    x: Any
    fixed: Any
    state: Any
    dims: tuple[int, ...]
    hidden: list[tuple[Any, str, str]]

    def call(
        self, x: list[Tensor], fixed: list[Tensor], state: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Any]:
        """Call the step; return y's leaves, the next state's, and y's structure."""
        arguments, keywords = unflattened(x, self.x) if self.x is not None else (x[0], {})
        count = len(self.dims)
        inputs = Inputs(arguments, keywords, unflattened(fixed, self.fixed) if fixed else {})
        for (store, key, _), value in zip(self.hidden, state[count:], strict=True):
            store[key] = value
        if self.state is None:
            y, after = self.step(inputs, None), []
        else:
            before = self.raw(state[:count])
            results = self.step(inputs, unflattened(before, self.state))
            y, after = self.step.split(results, self.state, before)
            after = self.by_rows(after)
        leaves, y_spec = flattened(y)
        return leaves, [*after, *(store[key] for store, key, _ in self.hidden)], y_spec

    def raw(self, state: list[Tensor]) -> list[Tensor]:
        """Return a state's leaves as the step has them."""
        return [s.movedim(0, d) if d else s for s, d in zip(state, self.dims, strict=True)]

    def by_rows(self, state: list[Tensor]) -> list[Tensor]:
        """Return a state's leaves with the batch first."""
        return [s.movedim(d, 0) if d else s for s, d in zip(state, self.dims, strict=True)]


@dataclass
class Loop:
    """The tensors of a call of a person's step over time.

    x: leaves, [T, B, ...]. fixed: leaves, [B, ...] or without a batch. state: leaves, [B, ...].
    resets [T, B] bool; lengths [B]. reset_to: leaves of the state that a reset row begins with;
    None: zeros. draws: random numbers of a step's nodes, or None: drawn here.
    """

    layout: Layout
    x: list[Tensor]
    fixed: list[Tensor]
    state: list[Tensor]
    resets: Tensor | None = None
    lengths: Tensor | None = None
    reset_to: list[Tensor] | None = None
    draws: list[Tensor] | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Return T and B."""
        return self.x[0].shape[0], self.x[0].shape[1]


@dataclass
class StepPlan:
    """A tier for steps of some shapes, and why not a higher one."""

    tier: str
    why: str
    graph: Graph | None = None
    parts: Parts | None = None
    printed: Printed | None = None
    hoisted: Hoisted | None = None
    is_told: bool = False
    hidden: list[Any] = field(default_factory=list)  # places of more states, for a new trace
    races: dict[Any, dict[str, float]] = field(default_factory=dict)  # sizes -> seconds of tiers

    @property
    def unread(self) -> list[int]:
        """Return the leaves of the state that a step sets before it reads them."""
        return [] if self.graph is None else self.graph.unread

    def tensors_outside(self) -> list[Tensor]:
        """Return the tensors that the step reads from outside."""
        return [] if self.graph is None else self.graph.values_outside()

    def run(self, tier: str, c: Loop) -> tuple[list[Tensor], list[Tensor], Any]:
        """Run a call; return y's leaves [T, B, ...], the last state's [B, ...], y's structure."""
        runs = {STEPS: self.printed, HOISTED: self.hoisted}.get(tier)
        if runs is None:
            return run_own(c)
        if not torch._C._is_any_autocast_enabled():
            return runs.run(c)
        with without_autocast(c.x[0].device):  # whose conversions are in the graph
            return runs.run(c)


class Printed:
    """Runs a step as a printed cell.

    Args:
        low: the step. stock: the library's cell that computes the same: its Spec, and the gates in
            the order of its rows; or None.
        engine: as of fused_lstm.LSTM. keeps_weights: make the weights in the first call alone.
    """

    def __init__(self, low: Lowered, stock: Any, engine: str, keeps_weights: bool) -> None:
        self.low, self.stock, self.engine = low, stock, engine
        self.keeps_weights = keeps_weights
        self.weights: list[Tensor] | None = None
        spec: Spec = low.spec if stock is None else stock.spec
        self.spec = spec if spec.bias == low.bias else replace(spec, bias=low.bias)
        self.tensors = Tensors(low, low.layout if stock is None else stock.layout)
        self.functions: dict[Any, Any] = {}
        kept = [k for several in low.kept.values() for k in several]
        self.wants_states = any(kind == "extra" or s != low.h for kind, s in kept)
        self.entering = [*self.tensors.once, *self.tensors.of_values]
        whole = [s.lo == 0 and prod(map(int, low.graph.shapes[n][1:])) == s.hi
                 for s, n in ((s, low.graph.state[s.leaf]) for s in low.states)]  # fmt: skip
        self.whole = dict(zip(low.states, whole, strict=True))  # whether one is all of its leaf
        in_c = [*low.order, *range(len(low.extra))] if self.spec.has_c else []
        self.in_c = [
            (s, k * low.H, k * low.H + width_of(low.extra[s] if isinstance(s, int) else s))
            for k, s in enumerate(in_c) if s != low.h
        ]  # fmt: skip
        leaves = [low.same_as.get(k, k) for k in range(len(low.graph.state))]
        self.leaves = [[s for s in low.states if s.leaf == k] for k in leaves]

    def run(self, c: Loop) -> tuple[list[Tensor], list[Tensor], Any]:
        """Run a call, as `StepPlan.run`."""
        low, B, H = self.low, c.sizes[1], self.low.H
        values = Values(low.parts, c.x, c.fixed, self.functions, c.draws)
        values.compute("entering", self.entering)
        weights = self.weights
        if weights is None:
            weights = self.tensors.weights(values, c.state[0])
            self.weights = weights if self.keeps_weights else None
        x = self.tensors.x(values)
        before = {s: self._state(s, c.state[s.leaf], B) for s in low.states}
        h0 = c0 = before[low.h].unsqueeze(0).contiguous()
        if self.spec.has_c:
            parts = [before[s] for s in low.order]
            parts += [h0.new_zeros(B, H)] * len(low.extra)
            c0 = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
            c0 = c0.unsqueeze(0).contiguous()
        rows = None if c.lengths is None else padded(x, c.lengths)
        call = Call(
            self.spec, x, h0, c0, weights, states=self.wants_states, rows=rows, hidden_size=H,
            output_size=H,
        )  # fmt: skip
        y, h_n, c_n, *states = run(call, self.engine, None, True, None, c.resets)
        last, after = {low.h: h_n.squeeze(0)}, {low.h: y}
        for s, lo, hi in self.in_c:
            last[s] = c_n.squeeze(0) if hi - lo == c_n.shape[-1] else c_n[0, :, lo:hi]
            if states:
                after[s] = states[1][0][..., lo:hi]
        for n, several in low.kept.items():
            values.of[n] = self._kept(n, several, before, after, c)
        values.compute("results", low.graph.y)
        results = [as_steps(values, n) for n in low.graph.y]
        leaves = [self._leaf(k, t, last) for k, t in enumerate(c.state)]
        return results, leaves, low.graph.y_spec

    def _state(self, s: State, leaf: Tensor, B: int) -> Tensor:
        """Return a state [B, H], with zeros behind one that is not as wide."""
        flat = leaf if leaf.dim() == 2 else leaf.reshape(B, -1)
        value = flat if self.whole[s] else flat[:, s.lo : s.hi]
        more = self.low.H - (s.hi - s.lo)
        return F.pad(value, (0, more)) if more else value

    def _kept(self, n: Node, several: list, before: Any, after: Any, c: Loop) -> Tensor:
        """Return a value of the loop, of all steps."""
        parts = []
        for kind, s in several:
            if kind == "before":
                first = before[s][None, :, : s.hi - s.lo]
                part = torch.cat([first, after[s][:-1]])
                if c.resets is not None:  # to 0: another state runs the loop
                    part = torch.where(c.resets[..., None], 0.0, part)
            else:
                part = after[s]
            parts.append(part)
        value = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        dtype, shape = n.meta["val"].dtype, self.low.graph.shapes[n][1:]
        value = value if value.dtype == dtype else value.to(dtype)
        return value if len(shape) == 1 else value.reshape(*value.shape[:2], *map(int, shape))

    def _leaf(self, k: int, like: Tensor, last: dict[Any, Tensor]) -> Tensor:
        parts = [last[s] for s in self.leaves[k]]
        value = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return value if value.shape == like.shape else value.reshape(like.shape)


def as_steps(values: Values, n: Node) -> Tensor:
    """Return a result of all steps; one of weights alone is the same at each."""
    value = values.per_step(n)
    if values.parts.of[n] == ONCE:
        value = value.expand(values.T, *value.shape)
    return value


class Hoisted:
    """Runs a step's part in a Python loop, and what is before and after it batched."""

    def __init__(self, parts: Parts, is_compiled: bool) -> None:
        self.parts, self.graph, self.is_compiled = parts, parts.graph, is_compiled
        self.functions: dict[Any, Any] = {}
        of, g = parts.of, parts.graph
        entering = parts.to_step
        self.weights = [n for n in entering if of[n] in (ONCE, FIXED)]
        self.per_step = [n for n in entering if of[n] == BEFORE]
        self.read = [n for n in parts.loop_results if n not in g.state]
        inputs = [*self.weights, *self.per_step, *g.state]
        step = parts.function(parts.part(STEP), inputs, [*g.after, *self.read])
        self.step = torch.compile(step) if is_compiled else step

    def run(self, c: Loop) -> tuple[list[Tensor], list[Tensor], Any]:
        """Run a call, as `StepPlan.run`."""
        g, (T, B) = self.graph, c.sizes
        values = Values(self.parts, c.x, c.fixed, self.functions, c.draws)
        values.compute("entering", [*self.weights, *self.per_step])
        weights, count = [values.of[n] for n in self.weights], len(g.state)
        xs = [values.of[n].unbind(0) for n in self.per_step]
        steps: list[list[Tensor]] = []
        befores: list[list[Tensor]] = []
        rows, state = Masks(c), c.state
        for t in range(T):
            entering = rows.reset(t, state)
            results = self.step(B, *weights, *[x[t] for x in xs], *entering)
            steps.append(list(results[count:]))
            befores.append(entering)
            state = rows.ended(t, list(results[:count]), state)
        for k, n in enumerate(self.read):
            values.of[n] = torch.stack([s[k] for s in steps])
        for k, n in enumerate(g.state):
            if n in self.parts.read_after:
                values.of[n] = torch.stack([b[k] for b in befores])
        values.compute("results", g.y)
        return [as_steps(values, n) for n in g.y], state, g.y_spec


def run_own(c: Loop) -> tuple[list[Tensor], list[Tensor], Any]:
    """Run the person's own loop, as `StepPlan.run`."""
    if len(c.x[0]) == 1 and c.resets is None and c.lengths is None:
        y, state, y_spec = c.layout.call([t[0] for t in c.x], c.fixed, c.state)
        return [t[None] for t in y], state, y_spec
    if not (any(c.layout.dims) or c.layout.hidden or c.resets is not None or c.lengths is not None):
        return run_plain(c)
    rows, state, steps, y_spec = Masks(c), c.state, [], None
    for t in range(c.sizes[0]):
        y, after, y_spec = c.layout.call([x[t] for x in c.x], c.fixed, rows.reset(t, state))
        steps.append(y)
        state = rows.ended(t, after, state)
    return [torch.stack(leaf) for leaf in zip(*steps, strict=True)], state, y_spec


def run_plain(c: Loop) -> tuple[list[Tensor], list[Tensor], Any]:
    """Run the person's own loop without masks, on a state as the step has it."""
    layout, step = c.layout, c.layout.step
    fixed = unflattened(c.fixed, layout.fixed) if c.fixed else {}
    leaves, steps, y_spec = c.state, [], None
    for x_t in zip(*(t.unbind(0) for t in c.x), strict=True):
        x, keywords = unflattened(list(x_t), layout.x) if layout.x is not None else (x_t[0], {})
        results = step(Inputs(x, keywords, fixed), unflattened(leaves, layout.state))
        y, leaves = step.split(results, layout.state, leaves)
        of_step, y_spec = flattened(y)
        steps.append(of_step)
    return [torch.stack(leaf) for leaf in zip(*steps, strict=True)], leaves, y_spec


class Masks:
    """Resets and lengths of a loop over steps."""

    def __init__(self, c: Loop) -> None:
        self._resets, self._live = c.resets, None
        self._first = c.reset_to or [torch.zeros_like(t) for t in c.state if c.resets is not None]
        if c.lengths is not None:
            device = c.x[0].device
            steps = torch.arange(c.sizes[0], device=device)[:, None]
            self._live = steps < c.lengths.to(device)

    def reset(self, t: int, state: list[Tensor]) -> list[Tensor]:
        """Return the state before a step: that of a reset in rows that begin anew."""
        if self._resets is None:
            return state
        return [torch.where(along_rows(self._resets[t], s), first, s)
                for s, first in zip(state, self._first, strict=True)]  # fmt: skip

    def ended(self, t: int, after: list[Tensor], before: list[Tensor]) -> list[Tensor]:
        """Return the state after a step: that before it in rows that have ended."""
        if self._live is None:
            return after
        return [torch.where(along_rows(self._live[t], a), a, b)
                for a, b in zip(after, before, strict=True)]  # fmt: skip


def along_rows(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask [B] in the shape of a tensor [B, ...]."""
    return mask.reshape(len(mask), *[1] * (like.dim() - 1))


def without_ended(y: list[Tensor], lengths: Tensor | None) -> list[Tensor]:
    """Return y's leaves [T, B, ...] with zeros in rows that have ended."""
    if lengths is None:
        return y
    results = []
    for t in y:
        live = torch.arange(len(t), device=t.device)[:, None] < lengths.to(t.device)
        zero = torch.zeros((), dtype=t.dtype, device=t.device)
        results.append(torch.where(live.reshape(*live.shape, *[1] * (t.dim() - 2)), t, zero))
    return results
