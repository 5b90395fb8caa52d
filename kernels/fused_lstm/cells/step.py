"""A step and its vector-Jacobian product as expressions, with its products and sums in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from .expressions import Expressions
from .gates import Gates
from .record import Recorded
from .sums import MAXIMUM, PRODUCT, Totals
from .trace import CannotExpress, traced

# (k, a value of the step) -> the columns that product k makes of it
Product = Callable[[int, Tensor], list[Tensor]]
# function(parts of gates in the order of Gates.columns, states, weights, product) -> h, the states
# after
Step = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Product], tuple]


class Calls:
    """The products, sums and maxima of a step, in the order in which it calls them.

    Args:
        products: the columns that each product makes.
        columns: what all of them make; None: what they are of, where only the order is asked for.
        shares: of each of them, what `cells.sums.share` is.
        instead: calls that need none of their own, counted with the others: call -> an earlier one
            whose result it has, or None where nothing reads it.

    Attributes:
        kinds, fed, inner: of each, without those: its kind, what it is of, how many columns it has.
        place: number among all calls -> number among these.
    """

    def __init__(
        self,
        products: tuple[int, ...],
        instead: Mapping[int, int | None],
        columns: Iterable[Tensor] | None = None,
        shares: Mapping[int, Tensor] | None = None,
    ) -> None:
        self._products, self._instead, self._shares = products, instead, shares
        self._columns = None if columns is None else iter(columns)
        self.kinds: list[str] = []
        self.fed: list[Tensor] = []
        self.inner: list[int] = []
        self.place: dict[int, int] = {}
        self._made: list[list[Tensor]] = []  # by all calls
        self._last = 0  # call that was a sum

    def product(self, k: int, value: Tensor) -> list[Tensor]:
        """Return the columns that product k makes of a value."""
        return self._call(PRODUCT, value, self._products[k])

    def total(self, kind: str, value: Tensor) -> Tensor:
        """Return a sum or a maximum of a value's units. No gradient goes through a maximum."""
        self._last = len(self._made)
        return self._call(kind, value.detach() if kind == MAXIMUM else value, 1)[0]

    def share(self, value: Tensor) -> Tensor:
        """Return 1 over the number of units of a value, of which the last sum was."""
        last = self._instead.get(self._last, self._last)
        return value if last is None or not self._shares else self._shares[self.place[last]]

    def _call(self, kind: str, value: Tensor, count: int) -> list[Tensor]:
        number = len(self._made)
        if number in self._instead:
            earlier = self._instead[number]
            self._made.append([value] * count if earlier is None else self._made[earlier])
            return self._made[-1]
        self.place[number] = len(self.kinds)
        self.kinds.append(kind)
        self.fed.append(value)
        self.inner.append(count)
        made = [value] * count
        if self._columns is not None:
            made = [next(self._columns) for _ in range(count)]
        self._made.append(made)
        return made

    def run(self, step: Step, parts: Sequence, states: Sequence, weights: Sequence) -> tuple:
        """Run a step that calls these."""
        rows = parts[0].shape

        def total(kind: str, value: Tensor) -> Tensor:
            return self.total(kind, value.expand(rows))

        with Totals(total, self.share):
            return step(parts, states, weights, self.product)


@dataclass
class Traced:
    """A step's expressions, and the nodes of its results.

    fed: what products, sums and maxima are of. gradients: by gates, states, weights, what zoneout
    keeps, and what products make.
    """

    expressions: Expressions
    calls: Calls
    h: int
    after: list[int]
    fed: list[int]
    gradients: list[int]

    @property
    def results(self) -> tuple:
        """Return all nodes of results."""
        return self.h, self.after, self.fed, self.gradients, self.calls.kinds


def superfluous(t: Traced) -> dict[int, int | None]:
    """Return sums and maxima that an earlier one is too, or that nothing reads: see `Calls`."""
    e, calls, seen, found = t.expressions, t.calls, {}, {}
    number = {place: k for k, place in calls.place.items()}
    ends = list(accumulate(calls.inner, initial=0))
    by_products = len(t.gradients) - ends[-1]
    made = {}  # leaf -> the call that makes it
    roots = [t.h, *t.after, *t.gradients[:by_products]]
    for k, kind in enumerate(calls.kinds):
        if kind == PRODUCT:
            roots += [t.fed[k], *t.gradients[by_products + ends[k] : by_products + ends[k + 1]]]
            continue
        made[e.node("leaf", "product", ends[k])] = k
        first = seen.setdefault((kind, t.fed[k]), k)
        if first != k:
            found[number[k]] = number[first]
    unread, needed = dict(made), set()
    while roots:
        needed |= set(e.order(roots))
        read = [(n, k) for n, k in unread.items() if n in needed]
        roots = [n for _, k in read for n in (t.fed[k], t.gradients[by_products + ends[k]])]
        unread = {n: k for n, k in unread.items() if n not in needed}
    return dict.fromkeys((number[k] for k in unread.values()), None) | found


def expressed(
    step: Step,
    gates: Gates,
    states: tuple[str, ...],
    weights: tuple[str, ...],
    zoneout: bool,
    products: tuple[int, ...],
    instead: Mapping[int, int | None],
    shape: tuple[int, int],
    dtype: torch.dtype,
    follows: dict[str, bool],
    functions: bool = False,
) -> Traced:
    """Return a step, traced with tensors of a shape and dtype."""
    e = Expressions()
    numbers = torch.linspace(0.1, 1.0, shape[0] * shape[1], dtype=dtype, device="cpu")
    like = numbers.reshape(shape)
    calls = Calls(products, instead)
    with torch.no_grad():
        counts = len(gates.columns), len(states), len(weights)
        calls.run(step, *([like] * n for n in counts))
    inner, sums = calls.inner, [k for k, kind in enumerate(calls.kinds) if kind != PRODUCT]
    kinds = [*gates.columns, *(("state", k) for k in range(len(states)))]
    kinds += [("weight", k) for k in range(len(weights))] + [("zoneout", 0)] * zoneout
    kinds += [("product", j) for j in range(sum(inner))]
    count, parts = len(kinds), len(gates.columns)
    kinds += [("dh", 0), *(("dstate", k) for k in range(len(states)))]
    kinds += [("dfed", k) for k in range(len(inner))]
    kinds += [("share", k) for k in sums]
    leaves = [e.node("leaf", *kind) for kind in kinds]

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        nonlocal calls
        share_of = dict(zip(sums, shares, strict=True))
        rest = inputs[parts : count - sum(inner)]
        before, own = rest[: len(states)], rest[len(states) : len(states) + len(weights)]
        calls = Calls(products, instead, inputs[count - sum(inner) : count], share_of)
        h, after = calls.run(step, inputs[:parts], before, own)
        if zoneout:
            after = [a + rest[-1] * (b - a) for a, b in zip(after, before, strict=True)]
        return h, *after, *calls.fed

    def forward_and_backward(*inputs: Recorded) -> tuple[Tensor, ...]:
        nonlocal shares
        inputs, shares = inputs[: len(leaves) - len(sums)], inputs[len(leaves) - len(sums) :]
        return by_autograd(forward, inputs[:count], inputs[count:], functions)

    shares: Sequence[Tensor] = ()
    tensors = [(numbers + 0.01 * n).reshape(shape) for n in range(len(leaves))]
    h, *results = traced(e, forward_and_backward, leaves, tensors, follows)
    after, results = results[: len(states)], results[len(states) :]
    return Traced(e, calls, h, after, results[: len(inner)], results[len(inner) :])


def by_autograd(
    forward: Callable, inputs: Sequence[Recorded], gradients: Sequence[Tensor], functions: bool
) -> tuple[Tensor, ...]:
    """Return a function's results and its gradients by all inputs, by torch.autograd.

    functions: whether it may call a torch.autograd.Function, whose own backward is run then.

    Raises:
        CannotExpress: a result is no floating-point number, or there is such a Function.
    """
    leaves = [x.as_leaf() for x in inputs]
    outputs = forward(*leaves)
    for output in outputs:
        if not output.is_floating_point():
            expected = "the gates' dtype: of a comparison torch.where(x > 0, 1.0, 0.0)"
            raise CannotExpress(f"a result of {output.dtype}", expected)
    # An output that depends on nothing that has a gradient is left out.
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    if not functions and has_function(o.grad_fn for o, _ in pairs):
        raise CannotExpress(
            "a torch.autograd.Function",
            "torch's own operators; soft + (hard - soft).detach() has the value of hard, and"
            " the gradient of soft",
        )
    by_leaves: Sequence[Tensor | None] = [None] * len(leaves)
    if pairs:
        outs, by_outs = zip(*pairs, strict=True)
        # With a graph of the gradients: autograd then adds them up out of place, and takes
        # a backward apart that `trace.aten` has no operator for, such as silu's.
        by_leaves = torch.autograd.grad(outs, leaves, by_outs, allow_unused=True, create_graph=True)
    zeroed = zip(leaves, by_leaves, strict=True)
    return *outputs, *(torch.zeros_like(x) if g is None else g for x, g in zeroed)


def has_function(nodes: Iterable[Any]) -> bool:
    """Return whether a torch.autograd.Function is among nodes of autograd, or behind them."""
    seen, stack = set(), list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, BackwardCFunction):
            return True
        if node is not None and node not in seen:
            seen.add(node)
            stack += [behind for behind, _ in node.next_functions]
    return False
