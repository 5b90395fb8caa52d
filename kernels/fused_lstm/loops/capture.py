"""From a person's step to a graph of ATen's operators: one step traced at two batch sizes.

A tensor that the step reads from outside (a parameter, a buffer, a tensor of a closure) is a node
of its own, found by identity, so that no list of parameters is needed.

What a dispatcher's trace loses is kept by two operators of our own: `stop`, where a gradient ends
(detach, .data, torch.no_grad), and `function`, a call of a torch.autograd.Function.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from .guards import Guards, Place, Slot, Untouched, is_among
from .step import Untraceable

if TYPE_CHECKING:

    class Node(Any):
        """fx's node, whose arguments are of so many types that no checker can tell them apart."""

else:
    from torch.fx import Node

# Batch sizes of the two traces: far apart, so that a branch on the batch size shows in most cases.
ROWS = 5, 67
GETITEM = operator.getitem
aten = torch.ops.aten


# --- operators that stand for what a trace would lose ---

_LIB = torch.library.Library("fused_lstm_loops", "FRAGMENT")
_LIB.define("stop(Tensor x) -> Tensor")
_LIB.define("function(int id, Tensor[] xs) -> Tensor[]")
_FUNCTIONS: list[tuple[Any, list[Any]]] = []  # a Function, and its arguments with TENSOR in places
TENSOR = object()
_APPLY = torch.autograd.Function.__dict__["apply"]


def call_function(id: int, tensors: list[Tensor]) -> list[Tensor]:
    """Call a recorded torch.autograd.Function, with its own backward."""
    function, template = _FUNCTIONS[id]
    rest = iter(tensors)
    out = _APPLY.__get__(None, function)(*(next(rest) if a is TENSOR else a for a in template))
    return list(out) if isinstance(out, tuple | list) else [out]


def _without_gradient(id: int, xs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [y.clone() for y in call_function(id, xs)]


_LIB.impl("stop", lambda x: x.clone(), "CompositeExplicitAutograd")
_LIB.impl("function", _without_gradient, "CompositeExplicitAutograd")
STOP = torch.ops.fused_lstm_loops.stop.default
FUNCTION = torch.ops.fused_lstm_loops.function.default


def _recorded(function: Any, *args: Any, **kwargs: Any) -> Any:
    if kwargs:
        raise Untraceable(f"{function.__name__}.apply is called with keywords")
    tensors = [a for a in args if isinstance(a, Tensor)]
    call = function, [TENSOR if isinstance(a, Tensor) else a for a in args]
    if call not in _FUNCTIONS:  # the second trace finds the first one's
        _FUNCTIONS.append(call)
    out = FUNCTION(_FUNCTIONS.index(call), tensors)
    return out[0] if len(out) == 1 else tuple(out)


class Functions:
    """A context in which this thread's calls of autograd Functions become `function` nodes."""

    def __enter__(self) -> None:
        self._before = torch.autograd.Function.__dict__["apply"]
        thread = threading.get_ident()

        def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return _APPLY.__get__(None, function)(*args, **kwargs)
            return _recorded(function, *args, **kwargs)

        torch.autograd.Function.apply = classmethod(apply)

    def __exit__(self, *_: Any) -> None:
        torch.autograd.Function.apply = self._before


HOOKS = {torch.Tensor.register_hook, torch.Tensor.retain_grad, torch.Tensor.requires_grad_,
         torch.Tensor.backward, torch.autograd.grad}  # fmt: skip
_TENSOR: Any = torch.Tensor
REQUIRES_GRAD = _TENSOR.requires_grad.__get__
DETACH = {torch.Tensor.detach, torch.detach, _TENSOR.data.__get__}


class Stops(TorchFunctionMode):
    """Puts a `stop` where a gradient ends."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in HOOKS:
            raise Untraceable(f"{func.__name__} in a step")
        if func == REQUIRES_GRAD and not isinstance(args[0], nn.Parameter):
            return True  # a step that asks for it is one in training
        if func in DETACH:
            return STOP(args[0])
        if func is torch.einsum and (product := as_product(args)) is not None:
            func, args, kwargs = torch.matmul, product, {}
        out = func(*args, **kwargs)
        return out if torch.is_grad_enabled() else stopped(out)


def stopped(value: Any) -> Any:
    """Return a result of torch.no_grad, whose numbers have no gradient."""
    if isinstance(value, Tensor):
        return STOP(value) if value.is_floating_point() else value
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(stopped(v) for v in value)
    return value


def as_product(args: Any) -> tuple | None:
    """Return the factors of torch.einsum("bi,ij->bj", x, w), or None where it is another."""
    if len(args) != 3 or not isinstance(args[0], str):
        return None
    left, _, out = args[0].replace(" ", "").partition("->")
    a, _, b = left.partition(",")
    if not (a and len(b) == 2 and a[-1] in b and out[:-1] == a[:-1] and len(set(a)) == len(a)):
        return None
    other = b.replace(a[-1], "")
    if len(other) != 1 or other in a or out[-1:] != other:
        return None
    return args[1], args[2] if b[0] == a[-1] else args[2].transpose(0, 1)


# --- the trace ---


class OfBatch(int):
    """A number of a graph's arguments that is this many times the batch size."""


@dataclass
class Graph:
    """A step's operators. Arguments and shapes that depend on the batch size are `OfBatch`.

    Leaves are nodes without operands: those of x, of what is fixed, and of the state; tensors from
    outside; and `draws`, random numbers, which are drawn before the loop.
    """

    nodes: list[Node]  # calls, in order
    x: list[Node]
    fixed: list[Node]
    state: list[Node]
    slots: dict[Node, Slot]  # tensors that the step reads from outside, wherever they lie now
    constants: dict[Node, Tensor]  # tensors of no such place
    draws: list[Node]
    y: list[Node]
    after: list[Node]
    y_spec: Any
    shapes: dict[Node, Any]  # None: no tensor; a list: of several tensors
    device: torch.device
    guards: Guards = field(repr=False)

    @cached_property
    def unread(self) -> list[int]:
        """Return the leaves of the state, by number, that no operator and no result reads."""
        return [k for k, n in enumerate(self.state) if not n.users and n not in self.y + self.after]

    @cached_property
    def outside(self) -> list[Node]:
        """Return the nodes of tensors from outside."""
        return [*self.slots, *self.constants]

    def values_outside(self) -> list[Tensor]:
        """Return the tensors of `outside`, as they are now."""
        return [*(slot.tensor for slot in self.slots.values()), *self.constants.values()]


def graph_of(function: Callable, tensors: Sequence[Tensor]) -> GraphModule:
    """Return the graph of a function of tensors, without operations in place."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    def marked(*arguments: Tensor) -> Any:
        with Stops():
            return function(*arguments)

    table = decompositions()
    with (
        tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))), Functions(),
        torch.enable_grad(),
    ):  # fmt: skip
        graph = make_fx(torch.func.functionalize(marked), decomposition_table=table)(*tensors)
        if any(is_in_place(n) for n in graph.graph.nodes):  # inside nn.LSTMCell
            graph.graph.eliminate_dead_code()
            graph = make_fx(torch.func.functionalize(graph))(*tensors)
    merge(graph)
    return graph


@cache
def decompositions() -> dict:
    """Return ATen's own definitions of operators that no table here has."""
    from torch._decomp import get_decompositions

    names = ("glu", "_fused_rms_norm", "rms_norm", "addmv")
    table = get_decompositions([getattr(aten, n) for n in names if hasattr(aten, n)])
    # PyTorch's own of these are operators without a gradient.
    table[aten.var_mean.correction] = partial(_with_mean, aten.var.correction)
    table[aten.std_mean.correction] = partial(_with_mean, aten.std.correction)
    return table


def _with_mean(
    spread: Callable, x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a variance, or its root, and the mean."""
    mean = x.mean(dim, keepdim)
    return spread(x, dim, correction=correction, keepdim=keepdim), mean


def merge(module: GraphModule) -> None:
    """Compute each value once: a step of people's has the same expression in several places."""
    first: dict[Any, Node] = {}

    def key(a: Any) -> Any:
        if isinstance(a, tuple | list):
            return "list", *map(key, a)
        return (type(a), a)

    for n in list(module.graph.nodes):
        if n.op == "get_attr":
            what: Any = ("get_attr", id(getattr(module, n.target)))
        elif n.op == "call_function" and not is_in_place(n) and not is_random(n):
            what = n.target, key(n.args), tuple((k, key(v)) for k, v in n.kwargs.items())
        else:
            continue
        try:
            same = first.setdefault(what, n)
        except TypeError:  # an argument without a hash
            continue
        if same is not n:
            n.replace_all_uses_with(same)
            module.graph.erase_node(n)


def is_in_place(n: Node) -> bool:
    """Return whether an operator changes an argument."""
    schema = getattr(n.target, "_schema", None)
    return n.op == "call_function" and schema is not None and schema.is_mutable


def is_random(n: Node) -> bool:
    """Return whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())


def capture(
    step: Callable[..., tuple[list[Tensor], list[Tensor], Any]],
    x: list[Tensor],
    fixed: list[Tensor],
    state: list[Tensor],
    guards: Guards,
    batch: int,
    hidden: Sequence[Place] = (),
) -> tuple[Graph | None, list[Place]]:
    """Trace a step.

    Args:
        step: (leaves of x, of fixed, of the state) -> leaves of y, of the next state, y's spec.
        x, state: tensors of one step, [B, ...] each. fixed: [B, ...], or without a batch.
        guards: the values that are watched.
        batch: B; a step may do something else for a few rows, and is traced with as many too.
        hidden: places of the state's leaves that modules keep.

    Returns the graph; or None, and the places of tensors that the step replaces: more states.

    Raises:
        Untraceable: with the reason.
    """
    structure: list[Any] = []
    few = batch if 0 < batch < ROWS[0] else None

    def flat_step(*tensors: Tensor) -> tuple[Tensor, ...]:
        a, b = len(x), len(x) + len(fixed)
        y, after, y_spec = step(list(tensors[:a]), list(tensors[a:b]), list(tensors[b:]))
        structure[:] = y_spec, len(y)
        return *y, *after

    graphs = []
    untouched = Untouched(guards)
    with untouched, torch.random.fork_rng(devices=[]):
        for rows in (*ROWS, *([few] if few else ())):
            rng = torch.Generator().manual_seed(rows)
            tensors = [sample(t, rows, rng, batch) for t in (*x, *fixed, *state)]
            try:
                graphs.append(graph_of(flat_step, tensors))
            except Untraceable:
                raise
            except Exception as error:
                raise Untraceable(why_untraceable(error)) from error
    if (name := untouched.changed or guards.changed()) is not None:
        raise Untraceable(f"a step changes {name}")
    if replaced := [p for p in untouched.replaced if not is_among(p, hidden)]:
        return None, replaced
    first, second = (list(g.graph.nodes) for g in graphs[:2])
    check_alike(first, second)
    tensors_outside = {n: getattr(graphs[0], n.target) for n in first if n.op == "get_attr"}
    others = {n.target: getattr(graphs[1], n.target) for n in second if n.op == "get_attr"}
    for n, t in tensors_outside.items():
        is_made = any(u.target is aten.lift_fresh_copy.default for u in n.users)
        if t is not others.get(n.target) and not (is_made and torch.equal(t, others[n.target])):
            raise Untraceable("a tensor that each step makes anew")
    shapes = {}
    for a, b in zip(first, second, strict=True):
        check_allowed(a)
        a.args, a.kwargs = joined(a.args, b.args), joined(a.kwargs, b.kwargs)
        shapes[a] = shape_of(a, b)
    if few:
        check_few(first, list(graphs[2].graph.nodes), few)
    places = [n for n in first if n.op == "placeholder"]
    (output,) = (n for n in first if n.op == "output")
    results: list[Any] = list(output.args[0])
    if not all(isinstance(n, Node) for n in results):
        raise Untraceable("a result that is no tensor")
    y_spec, count = structure
    a, b = len(x), len(x) + len(fixed)
    after = results[count:]
    if [shapes[n] for n in after] != [shapes[n] for n in places[b:]]:
        raise Untraceable("a state that changes its shape")
    slots = {n: guards.slot_of(t) for n, t in tensors_outside.items()}
    for n in first:  # of the traced values only shapes and dtypes are kept
        n.meta["val"] = without_numbers(n.meta.get("val"))
    graphs[0].graph._owning_module = None
    nodes = [n for n in first if n.op == "call_function"]
    draws = [drawn(n, shapes) for n in nodes if is_random(n)]
    return Graph(
        [n for n in nodes if n not in draws], places[:a], places[a:b], places[b:],
        slots={n: slot for n, slot in slots.items() if slot is not None},
        constants={n: t for n, t in tensors_outside.items() if slots[n] is None},
        draws=draws, y=results[:count], after=after, y_spec=y_spec, shapes=shapes,
        device=x[0].device, guards=guards,
    ), []  # fmt: skip


def check_alike(first: list[Node], second: list[Node]) -> None:
    """Check that two traces have the same operators."""
    same = len(first) == len(second) and all(
        a.op == b.op and (a.op != "call_function" or a.target is b.target)
        for a, b in zip(first, second, strict=False)
    )
    if not same:
        raise Untraceable("operations that depend on the batch size")


def check_allowed(n: Node) -> None:
    """Check that an operator may be replayed."""
    if n.op != "call_function" or n.target in (STOP, FUNCTION, GETITEM):
        return
    if is_in_place(n):
        raise Untraceable(f"{name_of(n)!r} changes a tensor from outside the step")
    trains = True in [a for a in n.args if isinstance(a, bool)]
    if name_of(n) == "_native_batch_norm_legit" or ("batch_norm" in name_of(n) and trains):
        raise Untraceable("batch normalization in training, over the rows of a step")


def check_few(nodes: list[Node], few: list[Node], rows: int) -> None:
    """Check that a trace of a few rows is that of many, with another number of them."""
    check_alike(nodes, few)

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Node):
            return True  # the same operators, in the same order
        if isinstance(a, tuple | list):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict):
            return all(same(a[k], b[k]) for k in a)
        return rows * a == b if isinstance(a, OfBatch) else a == b or (a != a and b != b)

    for a, b in zip(nodes, few, strict=True):
        value = b.meta.get("val")
        shapes = [v.shape for v in (value if isinstance(value, tuple | list) else [value])
                  if isinstance(v, Tensor)]  # fmt: skip
        several = a.meta.get("val")
        like = [v.shape for v in (several if isinstance(several, tuple | list) else [several])
                if isinstance(v, Tensor)]  # fmt: skip
        if a.op != "output" and ([len(s) for s in shapes] != [len(s) for s in like] or (
            a.op == "call_function" and not (same(a.args, b.args) and same(a.kwargs, b.kwargs))
        )):  # fmt: skip
            raise Untraceable(f"operations that are others for {rows} rows")


# Random numbers of no other value. ATen's name -> torch's function.
DRAWS = {"rand_like": "rand", "randn_like": "randn", "bernoulli": "bernoulli", "rand": "rand",
         "randn": "randn", "normal_functional": "normal"}  # fmt: skip


def drawn(n: Node, shapes: dict[Node, Any]) -> Node:
    """Check that random numbers depend on no value of the step; return their node."""
    name, shape = name_of(n), shapes[n]
    probability = n.args[1] if name == "bernoulli" and len(n.args) > 1 else None
    by_value = name == "bernoulli" and not isinstance(probability, float)
    rows = isinstance(shape, tuple) and [isinstance(k, OfBatch) for k in shape[:1]] == [True]
    if name not in DRAWS or by_value or not rows or shape[0] != 1:
        raise Untraceable(f"random numbers: torch's operator {name!r}")
    numbers = [probability]
    if name == "normal_functional":
        numbers = [*n.args[1:3], *[0.0, 1.0][len(n.args) - 1 :]]
        if not all(isinstance(a, float | int) for a in numbers):
            raise Untraceable(f"random numbers: torch's operator {name!r}")
    n.meta["draw"] = DRAWS[name], numbers
    return n


def draw(n: Node, rows: Sequence[int], device: torch.device) -> Tensor:
    """Draw the random numbers of a node: `rows`, such as [T, B], of them."""
    kind, numbers = n.meta["draw"]
    value = n.meta["val"]
    shape = [*rows, *value.shape[1:]]
    if kind in ("bernoulli", "normal"):
        return getattr(torch.empty(shape, dtype=value.dtype, device=device), f"{kind}_")(*numbers)
    return getattr(torch, kind)(shape, dtype=value.dtype, device=device)


def without_numbers(value: Any) -> Any:
    """Return a traced value as tensors of the device "meta", which hold no memory."""
    if isinstance(value, tuple | list):
        return [without_numbers(v) for v in value]
    if not isinstance(value, Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def sample(t: Tensor, rows: int, rng: torch.Generator, batch: int) -> Tensor:
    """Return a tensor like one of a step, of so many rows where it has `batch` of them."""
    if t.shape[:1] != (batch,):
        return t.detach()
    shape = rows, *t.shape[1:]
    if t.is_floating_point():
        return torch.rand(shape, generator=rng, dtype=torch.float32).to(t)
    return torch.zeros(shape, dtype=t.dtype, device=t.device)


def joined(a: Any, b: Any) -> Any:
    """Return arguments with `OfBatch` where two traces differ by their batch size."""
    if isinstance(a, tuple | list):
        return type(a)([joined(p, q) for p, q in zip(a, b, strict=True)])
    if isinstance(a, dict):
        return {k: joined(a[k], b[k]) for k in a}
    if not isinstance(a, int | float) or a == b or (a != a and b != b):
        return a
    times = int(a) // ROWS[0]
    if isinstance(a, int) and a == times * ROWS[0] and b == times * ROWS[1]:
        return OfBatch(times)
    raise Untraceable("a number that depends on the batch size")


def shape_of(a: Node, b: Node) -> Any:
    """Return a value's shape, with `OfBatch` in it; of several values, a list."""
    p, q = a.meta.get("val"), b.meta.get("val")
    if isinstance(p, Tensor) and isinstance(q, Tensor):
        return tuple(joined(tuple(p.shape), tuple(q.shape)))
    if isinstance(p, tuple | list) and isinstance(q, tuple | list):
        return [
            tuple(joined(tuple(m.shape), tuple(n.shape))) if isinstance(m, Tensor) else None
            for m, n in zip(p, q, strict=True)
        ]
    return None


def why_untraceable(error: Exception) -> str:
    """Return what an error of a trace says of the step."""
    text = str(error)
    line = text.splitlines()[0][:160] if text else ""
    if "get a value out of" in text or "get value out of" in text or "data-dependent" in text:
        return "control flow, or a Python number, that depends on a tensor's values"
    if ("mutating" in text and "functional" in text) or "in-place operation" in text:
        return f"a change in place of a tensor from outside the step ({line})"
    return f"{type(error).__name__}: {line}"


def name_of(n: Node) -> str:
    """Return ATen's name of a node's operator."""
    packet = getattr(n.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(n.target, "__name__", "")


def function_of(n: Node) -> Callable:
    """Return the function that a node calls in a replay, with its gradient."""
    if n.target is STOP:
        return torch.Tensor.detach
    if n.target is FUNCTION:
        return call_function
    if n.target is aten.copy.default:
        return written
    return QUICK.get(n.target, n.target)


def written(into: Tensor, value: Tensor, *_: Any) -> Tensor:
    """Return what a tensor is after a copy into it; ATen's operator has no derivative."""
    return value.to(into.dtype).expand_as(into)


# Python's bindings cost less a call than torch.ops.aten's.
QUICK: dict[Any, Callable] = {
    aten.view.default: torch.Tensor.view, aten._unsafe_view.default: torch.Tensor.view,
    aten.expand.default: torch.Tensor.expand,
}  # fmt: skip
QUICK |= {
    getattr(getattr(aten, name), overload): getattr(torch, name)
    for overload, names in {
        "default": "mm bmm addmm sigmoid tanh exp relu neg unsqueeze cat stack clone t",
        "Tensor": "add sub mul div split",
    }.items()
    for name in names.split()
}
