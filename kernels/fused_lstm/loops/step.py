"""A person's step: how it is called, and what of its results is the next state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

RETURNS = "state", "y, state", "y, *state"
LEAF = pytree.tree_structure(None)  # of one tensor


class Untraceable(Exception):
    """A reason why a step cannot be taken apart; the person's own loop runs then."""


class Inputs(NamedTuple):
    """A step's arguments beside the state; of all steps, or of one."""

    x: Any  # a pytree
    keywords: dict[str, Any]  # one value a step
    fixed: dict[str, Any]  # the same at each step


class Step:
    """A step, which is called with `Inputs` and a state.

    Args:
        function: an nn.Module or a function.
        returns: one of RETURNS, or None: found by structure and shapes.
        unpack: whether the state's parts are arguments of their own; None: where the signature has
            as many.
    """

    def __init__(self, function: Callable, returns: str | None, unpack: bool | None) -> None:
        if not callable(function):
            got = type(function).__name__
            raise ValueError(f"step: got {got}; expected an nn.Module or a function")
        if returns not in (None, *RETURNS):
            raise ValueError(f"returns: got {returns!r}; expected one of {', '.join(RETURNS)}")
        self.function, self.returns, self.unpack = function, returns, unpack
        self.kinds = [returns] if returns else list(RETURNS)  # the one that fitted last is first
        self._required = required_of(function)

    def __call__(self, inputs: Inputs, state: Any) -> Any:
        """Call the person's step; a state of None is left out where the step can be without."""
        keywords = inputs.keywords | inputs.fixed if inputs.fixed else inputs.keywords
        required = len(self._required)
        if keywords:
            required -= len([name for name in self._required if name in keywords])
        if state is None:
            arguments = () if required < 2 else (None,)
        elif self.unpacks(state, required):
            arguments = tuple(state)
        else:
            arguments = (state,)
        return self.function(inputs.x, *arguments, **keywords)

    def unpacks(self, state: Any, required: int) -> bool:
        """Return whether the parts of a state are arguments of their own.

        required: how many positional arguments the step needs.
        """
        if self.unpack is not None:
            return self.unpack
        several = isinstance(state, tuple | list) and len(state) > 1
        return several and required == 1 + len(state)

    def split(
        self,
        results: Any,
        spec: pytree.TreeSpec,
        before: Sequence[Tensor],
        same_shapes: bool = True,
    ) -> tuple[Any, list[Tensor]]:
        """Return y and the leaves of the next state.

        Args:
            results: of the step.
            spec, before: the structure and the leaves of the state that it had.
            same_shapes: whether the next state has its shapes, as all but the first one have.

        Raises:
            ValueError: no part of the results looks like the state.
        """
        for kind in self.kinds:
            parts = parted(results, kind, len(before))
            if parts is None:
                continue
            y, state = parts
            leaves, own_spec = flattened(state)
            if is_like(state, leaves, own_spec, spec, before if same_shapes else None):
                if kind is not self.kinds[0]:
                    self.kinds.remove(kind)
                    self.kinds.insert(0, kind)
                return (leaves[0] if kind == "state" else y), leaves
        got = described(results)
        state = described(pytree.tree_unflatten(list(before), spec))
        raise ValueError(
            f"the step's results: got {got}; expected the next state, {state}, or y and that state"
        )


def first_state(results: Any, kind: str) -> tuple[Any, Any]:
    """Return y and the state of results of a kind; a state of () where they are not of it."""
    many = isinstance(results, tuple | list)
    if kind == "state":
        return flattened(results)[0][0], results
    if kind == "y, state" and many and len(results) == 2:
        return results[0], results[1]
    if kind == "y, *state" and many and len(results) > 2:
        return results[0], tuple(results[1:])
    return None, ()


def parted(results: Any, kind: str, count: int) -> tuple[Any, Any] | None:
    """Return y and the state of results of a kind, or None where they are not of it."""
    many = isinstance(results, tuple | list)
    if kind == "state":
        return None, results
    if kind == "y, state" and many and len(results) == 2:
        return results[0], results[1]
    if kind == "y, *state" and many and len(results) == 1 + count:
        return results[0], tuple(results[1:])
    return None


def is_like(
    state: Any, leaves: list, spec: Any, before_spec: Any, before: Sequence[Tensor] | None
) -> bool:
    """Return whether a value has the structure of a state, and the shapes of `before`."""
    alike = spec is before_spec or spec == before_spec or (  # a list for a tuple
        isinstance(state, tuple | list) and before_spec.type in (tuple, list)
        and len(leaves) == before_spec.num_leaves == len(state)
    )  # fmt: skip
    if not alike or not all(isinstance(t, Tensor) for t in leaves):
        return False
    return before is None or all(a.shape == b.shape for a, b in zip(leaves, before, strict=True))


def flattened(value: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """Return a pytree's leaves and its structure; of the usual ones without torch's walk."""
    if isinstance(value, Tensor):
        return [value], LEAF
    if type(value) is tuple and all(isinstance(v, Tensor) for v in value):
        count = len(value)
        if count not in TUPLES:
            TUPLES[count] = pytree.tree_structure((None,) * count)
        return list(value), TUPLES[count]
    return pytree.tree_flatten(value)


TUPLES: dict[int, pytree.TreeSpec] = {}


def unflattened(leaves: list[Any], spec: pytree.TreeSpec) -> Any:
    """Return the pytree of leaves and a structure."""
    if spec is LEAF:
        return leaves[0]
    if spec is TUPLES.get(len(leaves)):
        return tuple(leaves)
    return pytree.tree_unflatten(leaves, spec)


def spec_key(spec: pytree.TreeSpec | None) -> Any:
    """Return what stands for a structure in a key: its hash takes a walk."""
    is_usual = spec is LEAF or (spec is not None and spec is TUPLES.get(spec.num_leaves))
    return id(spec) if is_usual else spec


def described(value: Any) -> str:
    """Return what a message calls a pytree: shapes in its structure."""
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, tuple | list):
        return f"({', '.join(described(v) for v in value)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {described(v)}" for k, v in value.items()) + "}"
    return type(value).__name__


def required_of(function: Callable) -> list[str]:
    """Return the names of a step's positional arguments that have no default."""
    try:
        signature = inspect.signature(
            function.forward if isinstance(function, nn.Module) else function
        )
    except (TypeError, ValueError):  # a builtin
        return ["x", "state"]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    several = [p for p in signature.parameters.values() if p.kind in kinds]
    return [p.name for p in several if p.default is p.empty]
