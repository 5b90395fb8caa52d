"""`fuse`: a layer of a person's own step, unchanged."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..cells.definition import TRACING
from ..cells.trace import CannotExpress
from ..operator.pullback import is_transformed
from .capture import ROWS, capture, name_of
from .check import RACED_STEPS, SHORT, differs, fastest, race, untouched
from .guards import Guards, Untouched, is_among
from .lower import Lowered
from .norms import expanded
from .parts import AFTER, BEFORE, FIXED, ONCE, SILENT, STEP, Parts
from .places import NoCell, Places
from .step import (
    Inputs,
    Step,
    Untraceable,
    described,
    first_state,
    flattened,
    spec_key,
    unflattened,
)
from .stock import stock_of
from .tiers import (
    HOISTED,
    NONE,
    STEPS,
    Hoisted,
    Layout,
    Loop,
    Printed,
    StepPlan,
    along_rows,
    run_own,
    without_ended,
)

LEVELS = None, NONE, HOISTED, STEPS
log = logging.getLogger("fused_lstm")


class Fused(nn.Module):
    """All steps of a recurrent loop; what `fuse` makes. See `fuse` for its arguments.

    Attributes:
        step: the person's step; where it is an nn.Module, its parameters are this module's.
    """

    def __init__(
        self,
        step: Callable,
        *,
        fuse: str | None = None,
        returns: str | None = None,
        unpack: bool | None = None,
        batch_first: bool = False,
        reverse: bool = False,
        engine: str = "auto",
        compile_step: bool = False,
        check: bool = True,
    ) -> None:
        super().__init__()
        self._step = Step(step, returns, unpack)
        if fuse not in LEVELS:
            words = ", ".join(repr(level) for level in LEVELS)
            raise ValueError(f"fuse: got {fuse!r}; expected one of {words}")
        if engine not in ("auto", "native", "triton"):
            raise ValueError(f"engine: got {engine!r}; expected 'auto', 'native' or 'triton'")
        self.step = step
        self.fuse, self.engine, self.check = fuse, engine, check
        self.batch_first, self.reverse, self.compile_step = batch_first, reverse, compile_step
        self._plans: dict[Any, StepPlan] = {}
        self._hidden: list[tuple[Any, str, str]] = []  # tensors that the step's modules keep
        self._quick: set[tuple] = set()  # calls of one step that the step itself runs
        self._keeps_weights = False  # see `prepare`

    def forward(
        self,
        input: Any,
        state: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: Any = None,
        fixed: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> tuple[Any, Any]:
        """Run all steps.

        Args:
            input: a pytree of tensors [T, B, ...], or [B, T, ...] with batch_first; a step gets
                one of T.
            state: the state before the first step, as the step takes it. None: the first step is
                called without one, and makes it, or the step's modules keep it.
            lengths: [B]: row b ends after so many steps; its y is 0 behind them, and its last state
                that of its last step.
            resets: [T, B] bool: row b begins anew at step t: its state before it is 0, or that of
                `reset_to`.
            reset_to: a state.
            fixed: keyword arguments of the step that are the same at each step: tensors [B, ...],
                or without a batch.
            inputs: other keyword arguments of the step, in the layout of `input`.

        Returns y, stacked [T, B, ...] (or [B, T, ...]), and the last state.

        Raises:
            ValueError: an argument, or a result of the step, is not as expected.
        """
        if torch.compiler.is_dynamo_compiling():  # a graph break: the layer runs as it is
            eager = torch.compiler.disable(self.forward)
            return eager(input, state, lengths=lengths, resets=resets, reset_to=reset_to,
                         fixed=fixed, **inputs)  # fmt: skip
        plain = lengths is None and resets is None and not (inputs or fixed)
        if plain and self._quick and state is not None:
            results = self._one_step(input, state)
            if results is not None:
                return results
        call = self._call(input, inputs, fixed, lengths, resets)
        if reset_to is not None:
            if resets is None:
                raise ValueError("reset_to: got a state without resets; expected None")
            call.reset_to = flattened(reset_to)[0]
        if self.reverse:
            reverse(call)
        ended = call.lengths
        y, spec, after = self._run(call, state)
        y = without_ended(y, ended)
        if self.reverse:
            y = [reversed_steps(t, ended) for t in y]
        if self.batch_first:
            y = [t.transpose(0, 1) for t in y]
        return unflattened(y, spec), after

    def _one_step(self, input: Any, state: Any) -> tuple[Any, Any] | None:
        """Return a call of one step, which the step itself runs; None where it is another call."""
        x, x_spec = flattened(input)
        leaves, spec = flattened(state)
        if one_step_key(x, x_spec, spec) not in self._quick:
            return None
        results = self._step(Inputs(unflattened([t[0] for t in x], x_spec), {}, {}), state)
        y, after = self._step.split(results, spec, leaves)
        y_leaves, y_spec = flattened(y)
        return unflattened([t[None] for t in y_leaves], y_spec), unflattened(after, spec)

    def _add_one_step(self, c: Loop, spec: Any) -> None:
        """Let calls like one of one step go to the step without a plan."""
        masked = c.lengths is not None or c.resets is not None
        if not (self.batch_first or self._hidden or c.fixed or masked):
            x, keywords = unflattened(c.x, c.layout.x) if c.layout.x is not None else (c.x[0], {})
            if not keywords:
                self._quick.add(one_step_key(*flattened(x), spec))

    def _call(
        self,
        input: Any,
        inputs: dict[str, Any],
        fixed: dict[str, Any] | None,
        lengths: Any,
        resets: Any,
    ) -> Loop:
        """Return a call without its state: leaves, checked."""
        x, spec = flattened((input, inputs)) if inputs else ([input], None)
        if spec is None and not isinstance(input, Tensor):
            x, spec = pytree.tree_flatten((input, {}))
        if not x:
            raise ValueError("input: got no tensor; expected tensors [T, B, ...]")
        alike = all(isinstance(t, Tensor) and t.shape[:2] == x[0].shape[:2] for t in x)
        if not alike or x[0].dim() < 2:
            self._refuse_inputs(input, inputs)
        if self.batch_first:
            x = [t.transpose(0, 1) for t in x]
        T, B = x[0].shape[:2]
        if T == 0:
            raise ValueError("input: got 0 steps; expected at least 1")
        if fixed is not None and not isinstance(fixed, dict):
            got = type(fixed).__name__
            raise ValueError(f"fixed: got {got}; expected a dict, name -> tensor")
        fixed_leaves, fixed_spec = pytree.tree_flatten(fixed) if fixed else ([], None)
        for t in fixed_leaves:
            if not isinstance(t, Tensor):
                raise ValueError(f"fixed: got {described(t)}; expected tensors")
        if resets is not None:
            is_mask = isinstance(resets, Tensor) and resets.dtype == torch.bool
            expected = (B, T) if self.batch_first else (T, B)
            if not is_mask or resets.shape != expected:
                got = described(resets)
                got += f" of {resets.dtype}" if isinstance(resets, Tensor) else ""
                raise ValueError(f"resets: got {got}; expected {list(expected)} of torch.bool")
            resets = resets.T if self.batch_first else resets
        if lengths is not None:
            lengths = checked_lengths(lengths, T, B)
        layout = Layout(self._step, spec, fixed_spec, None, (), [])
        return Loop(layout, x, fixed_leaves, [], resets, lengths)

    def _refuse_inputs(self, input: Any, inputs: dict[str, Any]) -> None:
        """Raise a ValueError for the first argument that is not as expected."""
        sizes, layout = None, "[B, T, ...]" if self.batch_first else "[T, B, ...]"
        for name, value in {"input": input, **inputs}.items():
            for t in pytree.tree_leaves(value):
                if not isinstance(t, Tensor) or t.dim() < 2:
                    raise ValueError(f"{name}: got {described(t)}; expected tensors {layout}")
                sizes = sizes or t.shape[:2]
                if t.shape[:2] != sizes:
                    expected = ", ".join(map(str, sizes))
                    raise ValueError(
                        f"{name}: got {described(t)}; expected [{expected}, ...]; what is the same"
                        f" at each step is an argument of fixed={{{name!r}: ...}}"
                    )

    def _run(self, c: Loop, state: Any, is_first: bool = True) -> tuple[list[Tensor], Any, Any]:
        """Run a call; return y's leaves, y's structure and the last state.

        is_first: whether a step may be called to make a state that is not there, or has no batch.
        """
        _, B = c.sizes
        leaves, spec = ([], None) if state is None else flattened(state)
        dims = [batch_dim(t, B) for t in leaves]
        kept = [store.get(key) for store, key, _ in self._hidden]
        keeps = [isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] == B for t in kept]
        if is_first and (None in dims or not all(keeps) or not (leaves or kept)):
            return self._run_first(c, state)
        if None in dims and spec is not None:  # it has none for good
            c.layout.state, c.layout.dims, c.state = spec, (0,) * len(dims), leaves
            y, after, y_spec = run_own(c)
            return y, y_spec, unflattened(after, spec)
        c.layout.state, c.layout.dims, c.layout.hidden = spec, tuple(dims), self._hidden  # type: ignore
        c.state = [*c.layout.by_rows(leaves), *kept]
        if c.reset_to is not None:
            if [t.shape for t in c.reset_to] != [t.shape for t in leaves]:
                got, expected = (described(tuple(s)) for s in (c.reset_to, leaves))
                raise ValueError(f"reset_to: got {got}; expected shapes as of state, {expected}")
            c.reset_to = [*c.layout.by_rows(c.reset_to), *map(torch.zeros_like, kept)]
        plan = self._plan(c)
        if len(plan.hidden) > len(self._hidden):  # found by the trace
            self._hidden = plan.hidden
            return self._run(c, state, is_first)
        for k in plan.unread:  # of a call before, whose graph may be gone
            c.state[k] = c.state[k].detach()
        tier = self._tier(plan, c)
        if tier == NONE and c.sizes[0] == 1 and spec is not None and not any(dims):
            self._add_one_step(c, spec)
        y, after, y_spec = plan.run(tier, c)
        if not plan.is_told:
            self._tell(plan)
        for (store, key, _), value in zip(self._hidden, after[len(leaves) :], strict=True):
            store[key] = value
        raw = c.layout.raw(after[: len(leaves)])
        return y, y_spec, None if spec is None else unflattened(raw, spec)

    def _run_first(self, c: Loop, state: Any) -> tuple[list[Tensor], Any, Any]:
        """Call the step once for the first step, which makes the state, then run the others."""
        if c.resets is not None:
            raise ValueError("state: got none [B, ...] with resets; expected a state, or no resets")
        guards = Guards(self.step)
        arguments, keywords = unflattened([t[0] for t in c.x], c.layout.x) if c.layout.x else (
            c.x[0][0], {},
        )  # fmt: skip
        inputs = Inputs(
            arguments, keywords, unflattened(c.fixed, c.layout.fixed) if c.fixed else {}
        )
        with Untouched(guards, restores=False) as watched:
            results = self._step(inputs, state)
        hidden = [p for p in watched.replaced if not is_among(p, self._hidden)]
        self._hidden = [*self._hidden, *hidden]
        if state is None and self._hidden:
            y, after = results, None
        elif state is None:
            y, after = self._first_state(results, inputs, guards)
        else:
            leaves, spec = flattened(state)
            y, after = self._step.split(results, spec, leaves, same_shapes=False)
            after = unflattened(after, spec)
        leaves, y_spec = flattened(y)
        for t in leaves:
            if not isinstance(t, Tensor):
                raise ValueError(f"the step's results: got {described(y)}; expected tensors")
        if c.sizes[0] == 1:
            return [t[None] for t in leaves], y_spec, after
        if after is None and not self._hidden:
            raise ValueError("the step's results: got no state; expected y and the next state")
        c.x = [t[1:] for t in c.x]
        first, has_ended = after, None
        if c.lengths is not None:
            has_ended, c.lengths = c.lengths == 1, (c.lengths - 1).clamp(min=1)
        rest, _, after = self._run(c, after, is_first=False)
        if has_ended is not None and after is not None:  # a row of one step keeps its state
            pairs = zip(flattened(first)[0], flattened(after)[0], strict=True)
            kept = [kept_rows(has_ended, a, b) for a, b in pairs]
            after = unflattened(kept, flattened(after)[1])
        return [torch.cat([a[None], b]) for a, b in zip(leaves, rest, strict=True)], y_spec, after

    def _first_state(self, results: Any, inputs: Inputs, guards: Guards) -> tuple[Any, Any]:
        """Return y and the state of a step that was given none: the step has to take that state."""
        why: Exception | None = None
        for kind in self._step.kinds:
            y, state = first_state(results, kind)
            leaves, spec = flattened(state)
            if not leaves or not all(isinstance(t, Tensor) for t in leaves):
                continue
            try:
                with untouched(guards), torch.no_grad():
                    self._step.split(self._step(inputs, state), spec, leaves)
            except Exception as error:  # of the person's own code
                why = error
                continue
            self._step.kinds = [kind]
            return y, state
        raise ValueError(
            f"the step's results: got {described(results)} for no state; expected the next state,"
            " or y and the next state, which the step takes"
        ) from why

    # --- plans ---

    def _plan(self, c: Loop) -> StepPlan:
        """Return the plan for tensors of these shapes and dtypes, and this mode."""
        B = c.sizes[1]
        key = (
            spec_key(c.layout.x), spec_key(c.layout.fixed), spec_key(c.layout.state),
            c.layout.dims, len(c.layout.hidden),
            *((t.shape[2:], t.dtype, t.device) for t in c.x),
            *((t.shape[t.shape[:1] == (B,) :], t.shape[:1] == (B,), t.dtype) for t in c.fixed),
            *((t.shape[1:], t.dtype) for t in c.state), min(B, ROWS[0]),
            torch._C._is_any_autocast_enabled(),
        )  # fmt: skip
        plan = self._plans.get(key)
        if plan is None and is_transformed():
            return StepPlan(NONE, "torch.func, before the first call")
        if plan is None or (plan.graph is not None and plan.graph.guards.changed() is not None):
            with TRACING:
                plan = self._new_plan(c)
            if plan.hidden:
                return plan
            self._plans[key] = plan
        return plan

    def _tell(self, plan: StepPlan) -> None:
        """Write to the log what runs the steps, after a call that did."""
        plan.is_told = True
        is_last = plan.tier == NONE and self.fuse != NONE
        text = described_plan(plan)
        log.log(logging.WARNING if is_last else logging.INFO, "fused_lstm.fuse(%s): %s",
                self._name(), text)  # fmt: skip

    def _name(self) -> str:
        return getattr(self.step, "__name__", type(self.step).__name__)

    def _new_plan(self, c: Loop) -> StepPlan:
        """Trace the step, and return the highest tier that is right."""
        if self.fuse == NONE:
            return StepPlan(NONE, "fuse='none'")
        guards = Guards(self.step, c.layout.hidden)
        try:
            plan = self._traced(c, guards)
        except Untraceable as error:
            return self._lower(StepPlan(NONE, str(error)))
        if plan.hidden or not self.check or c.sizes[1] == 0 or c.x[0].is_meta:
            return plan
        parameters = [slot.tensor for slot in guards.slots if slot.tensor.is_floating_point()]
        parameters = list({id(p): p for p in parameters}.values())
        while plan.tier != NONE:
            why = differs(plan, plan.tier, c, parameters)
            if why is None:
                break
            plan.why = f"{plan.tier}: {why}"
            plan.tier = HOISTED if plan.tier == STEPS else NONE
            self._lower(plan)
        return plan

    def _lower(self, plan: StepPlan) -> StepPlan:
        """Check that a plan has the level that was asked for."""
        order = [NONE, HOISTED, STEPS]
        if order.index(plan.tier) < order.index(self.fuse or NONE):
            raise ValueError(
                f"fuse: got {self.fuse!r}; expected {plan.tier!r} for this step: {plan.why}"
            )
        return plan

    def _traced(self, c: Loop, guards: Guards) -> StepPlan:
        for name, module in guards.modules:
            for kind in ("backward", "backward_pre", "forward", "forward_pre"):
                if getattr(module, f"_{kind}_hooks"):
                    raise Untraceable(f"a {kind} hook of {name or 'the module'}")
        B = c.sizes[1]
        graph, replaced = capture(
            c.layout.call, [t[0] for t in c.x], c.fixed, c.state, guards, B, c.layout.hidden
        )
        if graph is None:
            return StepPlan(NONE, "", hidden=[*self._hidden, *replaced])
        parts = Parts(graph)
        if not parts.rows_are_apart():
            parts = Parts(graph, hoists=False)
        plan = StepPlan(
            HOISTED, "fuse='hoisted'", graph, parts, hoisted=Hoisted(parts, self.compile_step)
        )
        if self.fuse == HOISTED:
            return plan
        try:
            low = Lowered(Places(expanded(parts)))
            stock = stock_of(low)
            if stock is None:
                on_cpu = c.state[0].device.type == "cpu" and self.engine != "triton"
                why = low.cell.prepare("native" if on_cpu else "triton", low.spec)
                if why is not None:
                    raise NoCell(why)
            plan.printed = Printed(low, stock, self.engine, self._keeps_weights)
        except (NoCell, CannotExpress, ValueError) as error:
            plan.why = str(error)
            return self._lower(plan)
        except Exception as error:  # a person's loop does not end for it
            plan.why = (
                f"a fault of fused_lstm, which please report: {type(error).__name__}: {error}"
            )
            return self._lower(plan)
        plan.tier, plan.why = STEPS, ""
        return plan

    def _tier(self, plan: StepPlan, c: Loop) -> str:
        """Return the tier that runs a call: of short calls the fastest."""
        if plan.tier == STEPS and c.reset_to is not None:
            return HOISTED
        T, B = c.sizes
        is_sure = plan.printed is not None and T >= SHORT
        is_forced = self.fuse is not None or B == 0 or is_transformed() or c.x[0].is_meta
        if plan.tier == NONE or is_forced or is_sure:
            return plan.tier
        trains = torch.is_grad_enabled() and any(
            t.requires_grad for t in (*c.x, *c.state, *plan.tensors_outside())
        )
        key = min(T, RACED_STEPS).bit_length(), B.bit_length(), trains
        if key not in plan.races:
            plan.races[key] = race(plan, c, trains)
        return fastest(plan.races[key])

    def with_weights_of_now(self) -> Fused:
        """Return a copy for inference, which makes the weights of its kernels once."""
        layer = copy.deepcopy(self).requires_grad_(False)
        layer._keeps_weights = True
        layer.register_load_state_dict_post_hook(forget_weights)
        return layer

    def __getstate__(self) -> dict:  # plans hold the step's tensors, and are made again
        return {**super().__getstate__(), "_plans": {}, "_hidden": [], "_quick": set()}

    @property
    def kind(self) -> str:
        """Return what the step was last found to return, as of `returns`."""
        return self._step.kinds[0]

    def explained(self) -> str:
        """Return what runs the steps, and why; then the operators of each part of a step."""
        plans = [
            "\n".join([described_plan(plan), *operators_of(plan)]) for plan in self._plans.values()
        ]
        return "\n".join(dict.fromkeys(plans)) or "not called yet"

    def extra_repr(self) -> str:
        options = {"fuse": self.fuse, "batch_first": self.batch_first, "reverse": self.reverse}
        return ", ".join(f"{k}={v!r}" for k, v in options.items() if v)


def forget_weights(layer: Fused, _: Any) -> None:
    """Remove the weights that a prepared layer has made, since others were loaded."""
    layer._plans.clear()


def fuse(
    step: Callable,
    *,
    fuse: str | None = None,
    returns: str | None = None,
    unpack: bool | None = None,
    batch_first: bool = False,
    reverse: bool = False,
    engine: str = "auto",
    compile_step: bool = False,
    check: bool = True,
) -> Fused:
    """Make a layer of a step as you have it, which runs all steps.

        layer = fused_lstm.fuse(cell)
        y, state = layer(x, state)  # for x_t in x: y_t, state = cell(x_t, state)

    The step is traced once and taken apart: what depends on weights alone is computed once a call,
    what depends on x alone for all steps before the loop, what feeds no state for all steps after
    it. What is left is printed as a C++ or a Triton kernel, with its backward, where it consists of
    products with weights and of elementwise operations; otherwise a Python loop runs it. Where the
    step cannot be traced, or its own loop is faster for a call's sizes, the step is called at each
    step. `fused_lstm.explain` tells which, and why; so does the logger "fused_lstm", once.

    Random numbers that a step draws (dropout, noise) are drawn before the loop, for all steps at
    once, in the order in which the step draws them: the same distribution, other numbers.

    Args:
        step: an nn.Module or a function, `step(x_t, state) -> (y_t, state)`, or `-> state`, whose
            first tensor is y then. Both are pytrees of tensors [B, ...]. A step that keeps its
            state on a module takes x_t alone.
        fuse: the level, as of fused_lstm.LSTM: "steps", the printed kernel; "hoisted"; or "none",
            the step in a loop. None: the highest that is right and not slower.
        returns: "state", "y, state" or "y, *state", where the results do not say which.
        unpack: whether the step takes the state's parts as arguments of their own; by default where
            its signature has as many.
        batch_first: tensors of all steps are [B, T, ...].
        reverse: from a row's last step to its first.
        engine: "auto", "native" or "triton", of the printed tier.
        compile_step: compile what stays in the loop of level "hoisted" by torch.compile: one step,
            in ten to thirty seconds, whatever T is. It has no second derivatives.
        check: compare the first call of a shape with the person's own loop, on a few steps and
            rows, values and all gradients.

    Raises:
        ValueError: an argument is not one of these.
    """
    return Fused(
        step, fuse=fuse, returns=returns, unpack=unpack, batch_first=batch_first, reverse=reverse,
        engine=engine, compile_step=compile_step, check=check,
    )  # fmt: skip


def described_plan(plan: StepPlan) -> str:
    """Return a line on a plan: the tier, and what decided it."""
    if plan.tier == NONE or plan.parts is None:
        return f"none: the step is called in a Python loop; {plan.why}"
    if plan.tier == HOISTED or plan.printed is None:
        loop = "a Python loop over what the state enters"
        loop += ", compiled" if plan.hoisted is not None and plan.hoisted.is_compiled else ""
        text = f"hoisted: {loop}; no kernel: {plan.why}"
    elif plan.printed.stock is not None:
        text = f"steps: the library's cell {plan.printed.spec.cell!r}"
    else:
        low = plan.printed.low
        products = [len(p.columns) for p in low.products]
        counted = {"gates": len(low.layout.names) - len(low.inputs), "inputs": len(low.inputs),
                   "products inside": products, "sums inside": len(low.cell.program().sums),
                   "states": len(low.order) or 1,
                   "vectors": len(low.vectors)}  # fmt: skip
        told = ", ".join(f"{name} {n}" for name, n in counted.items() if n)
        text = f"steps: a printed kernel, {low.cell.name}: {told}"
    others = [told_race(key, times) for key, times in plan.races.items() if
              fastest(times) != plan.tier]  # fmt: skip
    return "; ".join([text, *others])


def told_race(key: tuple[int, int, bool], times: dict[str, float]) -> str:
    """Return the text of a race that a lower tier has won."""
    T, B, trains = key
    sizes = f"{2 ** (T - 1)} to {2**T - 1} steps" if 2**T <= RACED_STEPS else "more steps"
    rows = f"{2 ** (B - 1)} to {2**B - 1} rows{' in training' if trains else ''}"
    each = ", ".join(f"{tier} {1e3 * seconds:.2f} ms" for tier, seconds in times.items())
    return f"{fastest(times)} for {sizes} of {rows}, where it was faster ({each})"


WHEN = {ONCE: "once a call", FIXED: "once a call, of what is fixed", BEFORE: "before the loop",
        STEP: "in the loop", AFTER: "after the loop"}  # fmt: skip


def operators_of(plan: StepPlan) -> list[str]:
    """Return a line for each part of a step: ATen's operators, and how many of each."""
    lines: list[str] = []
    if plan.parts is None:
        return lines
    for part, when in WHEN.items():
        names = Counter(name_of(n) for n in plan.parts.part(part) if name_of(n) not in SILENT)
        if names:
            counts = [name if n == 1 else f"{n} {name}" for name, n in names.items()]
            lines.append(f"  {when}: {', '.join(counts)}")
    return lines


def one_step_key(x: list[Any], x_spec: Any, spec: Any) -> tuple:
    """Return what decides that the step itself runs a call of one step.

    x: leaves, of a structure. spec: the structure of the state.
    """
    return (
        spec_key(x_spec), spec_key(spec), *((t.shape, t.dtype) for t in x),
        torch.is_grad_enabled(), torch._C._is_any_autocast_enabled(),
    )  # fmt: skip


def batch_dim(t: Any, B: int) -> int | None:
    """Return which dimension of a state's leaf is the batch: the first of size B, or None."""
    if not isinstance(t, Tensor):
        raise ValueError(f"state: got {described(t)}; expected tensors [B, ...]")
    return next((d for d, size in enumerate(t.shape) if size == B), None)


def kept_rows(rows: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Return a leaf of the last state, with some rows of the first one."""
    dim = batch_dim(last, len(rows)) or 0
    mask = along_rows(rows.to(last.device), last.movedim(dim, 0)).movedim(0, dim)
    return torch.where(mask, first, last)


def checked_lengths(lengths: Any, T: int, B: int) -> Tensor:
    """Return lengths as a tensor of whole numbers."""
    t = torch.as_tensor(lengths)
    if t.shape != (B,) or t.is_floating_point() or t.dtype == torch.bool:
        raise ValueError(f"lengths: got {described(t)} of {t.dtype}; expected whole numbers [{B}]")
    if B and not bool(((t >= 1) & (t <= T)).all()):
        raise ValueError(f"lengths: got {int(t.min())} to {int(t.max())}; expected 1 to {T}")
    return t


def reverse(c: Loop) -> None:
    """Turn a call's steps round, each row's own."""
    c.x = [reversed_steps(t, c.lengths) for t in c.x]
    c.resets = None if c.resets is None else reversed_steps(c.resets, c.lengths)


def reversed_steps(t: Tensor, lengths: Tensor | None) -> Tensor:
    """Return a tensor [T, B, ...] with each row's steps from the last to the first."""
    if lengths is None:
        return t.flip(0)
    steps = torch.arange(len(t), device=t.device)[:, None]
    last = lengths.to(t.device) - 1
    index = torch.where(steps <= last, last - steps, steps)
    return t.gather(0, index.reshape(*index.shape, *[1] * (t.dim() - 2)).expand(t.shape))


def as_resets(dones: Tensor, *, after: bool) -> Tensor:
    """Return `resets` [T, B] of a rollout's flags.

    Args:
        dones: [T, B], bool or 0 and 1: whether an episode has ended at a step.
        after: True where a flag says that the episode ended with its step, so that the next one
            begins anew (skrl, rsl_rl: states are zeroed after the step). The state after the last
            step stays as it is: it is the caller's to be set to 0 where `dones[-1]` is true. False
            where a flag says that an episode begins with its step, and the state is zeroed before
            it (CleanRL, Stable-Baselines3, TorchBeast, rl_games).
    """
    if not isinstance(dones, Tensor) or dones.dim() != 2:
        raise ValueError(f"dones: got {described(dones)}; expected a tensor [T, B]")
    flags = dones.bool()
    return torch.cat([torch.zeros_like(flags[:1]), flags[:-1]]) if after else flags
