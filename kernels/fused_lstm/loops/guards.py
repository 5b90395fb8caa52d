"""Guards: what a step holds beside its arguments, tensors, plain values and containers.

A trace has plain values as constants, so `Guards` remembers them, and a change makes a new plan.
Tensors are read anew at each call, from where the step would read them: a parameter that
torch.func.functional_call or an optimizer has replaced is the one that is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ..cells.definition import names_of
from ..operator.pullback import version_of

PLAIN = bool | int | float | str | None | tuple
CONTAINERS = list | dict | set | deque
MOST_ITEMS = 10_000  # of a container that is watched
MISSING = object()
OF_TORCH = vars(nn.Module()).keys()  # a module's own containers: of parameters, of hooks


Place = tuple[Any, str, str]  # a dict, a key, a name


@dataclass
class Slot:
    """A place that a step reads a tensor from: a dict and a key."""

    store: Any
    key: str
    tensor: Tensor
    name: str


class Guards:
    """The tensors, plain values and containers of a step's modules, closures and globals.

    states: places of tensors that are states, which are not watched.
    """

    def __init__(self, step: Any, states: Sequence[Place] = ()) -> None:
        self.modules = modules_of(step)
        self.slots: list[Slot] = []
        self._states = states
        self.containers: list[tuple[str, Any]] = []
        self._plain: list[tuple[Any, str, Any, str]] = []  # a store, a key, a value, a name
        self._contents: list[tuple[Any, Any, str]] = []  # a container, a copy of it, a name
        for name, module in self.modules:
            for key, value in vars(module).items():
                self._watch(vars(module), key, value, f"{name}.{key}".lstrip("."))
            for store in (module._parameters, module._buffers, module._modules):
                for key, value in store.items():
                    self._watch(store, key, value, f"{name}.{key}".lstrip("."), is_member=True)
        for function in functions_of(step, self.modules):
            for name in names_of(function.__code__) & function.__globals__.keys():
                self._watch(function.__globals__, name, function.__globals__[name], name)
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
            for name, cell in cells:
                content = Content(cell)
                self._watch(content, name, content.get(name, MISSING), name)
        self._first = {id(slot.tensor): slot for slot in reversed(self.slots)}
        self._same = [(s, self._first[id(s.tensor)]) for s in self.slots
                      if self._first[id(s.tensor)] is not s]  # fmt: skip

    def _watch(self, store: Any, key: str, value: Any, name: str, is_member: bool = False) -> None:
        if is_among((store, key, name), self._states):
            return
        if isinstance(value, Tensor):
            self.slots.append(Slot(store, key, value, name))
        elif is_member or isinstance(value, PLAIN | FunctionType):
            self._plain.append((store, key, value, name))
        elif key not in OF_TORCH and isinstance(value, CONTAINERS) and len(value) < MOST_ITEMS:
            self.containers.append((name, value))
            self._plain.append((store, key, value, name))
            self._contents.append((value, copied(value), name))

    def slot_of(self, tensor: Tensor) -> Slot | None:
        """Return the first place that a tensor is read from, or None."""
        return self._first.get(id(tensor))

    def changed(self) -> str | None:
        """Read all tensors anew; return the name of another value that changed, or None.

        A tensor may be replaced by one of its shape, dtype and device. Places that shared one have
        to share the new one.
        """
        for store, key, value, name in self._plain:
            now = store.get(key, MISSING)
            if now is not value and (isinstance(value, nn.Module) or not equal(now, value)):
                return name
        for slot in self.slots:
            now = slot.store.get(slot.key, MISSING)
            if now is not slot.tensor:
                if not isinstance(now, Tensor) or not alike(now, slot.tensor):
                    return slot.name
                slot.tensor = now
        for slot, first in self._same:
            if slot.tensor is not first.tensor:
                return slot.name
        for value, before, name in self._contents:
            if not same_items(value, before):
                return name
        return None


def equal(a: Any, b: Any) -> bool:
    """Return whether two plain values are the same, NaN like NaN; a container is itself alone."""
    if isinstance(b, CONTAINERS) or type(a) is not type(b):
        return False
    return bool(a == b) or (a != a and b != b)


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether a tensor may stand where another was."""
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def copied(value: Any) -> Any:
    """Return a container's items: pairs of a dict, and the items of others in their order."""
    return list(value.items()) if isinstance(value, dict) else list(value)


def same_items(value: Any, before: list) -> bool:
    """Return whether a container has the items that it had, by identity or as plain values."""
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        return all(k in value and same_item(value[k], v) for k, v in before)
    return all(same_item(a, b) for a, b in zip(value, before, strict=True))


def same_item(a: Any, b: Any) -> bool:
    return a is b or (isinstance(b, PLAIN) and equal(a, b))


class Content:
    """The content of a closure's cell, read as a dict of one value."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def get(self, _: str, missing: Any) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError:  # empty
            return missing


class Untouched:
    """A context that puts back what a step changes, and tells which values these were.

    Tensors that the step's modules hold and that it replaces are `replaced`: they are states. All
    else is `changed`.
    """

    def __init__(self, guards: Guards, restores: bool = True) -> None:
        self._guards, self._restores = guards, restores
        self.changed: str | None = None
        self.replaced: list[Place] = []

    def __enter__(self) -> Untouched:
        stores = [
            (name, store, name)
            for name, m in self._guards.modules
            for store in (vars(m), m._parameters, m._buffers, m._modules)
        ]
        stores += [(n, value, n) for n, value in self._guards.containers if hasattr(value, "items")]
        self._stores = [(name, store, dict(store)) for name, store, _ in stores]
        self._items = [
            (name, value, list(value))
            for name, value in self._guards.containers
            if not hasattr(value, "items")
        ]
        self._tensors = [
            (slot.name, slot.tensor, version_of(slot.tensor),
             None if slot.tensor.requires_grad else slot.tensor.detach().clone())
            for slot in self._guards.slots if self._restores
        ]  # fmt: skip
        return self

    def __exit__(self, *_: Any) -> None:
        for name, store, before in self._stores:
            for key in [*before, *(key for key in store if key not in before)]:
                value, now = before.get(key, MISSING), store.get(key, MISSING)
                if value is now:
                    continue
                path = f"{name}.{key}".lstrip(".")
                if isinstance(now, Tensor):
                    self.replaced.append((store, key, path))
                else:
                    self.changed = self.changed or path
                if not self._restores:
                    continue
                if value is MISSING:
                    del store[key]
                else:
                    store[key] = value  # type: ignore[assignment]
        for name, value, before in self._items if self._restores else ():
            if not same_items(value, before):
                self.changed = self.changed or name
                value.clear()
                (value.extend if hasattr(value, "extend") else value.update)(before)
        for name, t, version, before in self._tensors:
            if version_of(t) != version:
                self.changed = self.changed or name
                if before is not None:
                    with torch.no_grad():
                        t.copy_(before)


def is_among(place: Place, places: Sequence[Place]) -> bool:
    """Return whether a place is one of several."""
    return any(place[0] is p[0] and place[1] == p[1] for p in places)


# --- what a step is made of ---


def functions_of(step: Any, modules: list[tuple[str, nn.Module]]) -> list[FunctionType]:
    """Return the Python functions of a step: its own, its modules' methods, what these call.

    Functions of torch, and those of another file that a step calls, are not among them: their
    globals are taken for constants.
    """
    kinds = [
        base for kind in {type(m) for _, m in modules} for base in kind.__mro__
        if not base.__module__.startswith("torch.") and base is not object
    ]  # fmt: skip
    waiting: list[Any] = [getattr(step, "__func__", step)]
    waiting += [vars(kind).get("forward") for kind in kinds]
    every: dict[int, FunctionType] = {}
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or id(function) in every:
            continue
        every[id(function)] = function
        for name in names_of(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, FunctionType) and value.__module__ == function.__module__:
                waiting.append(value)
            for method in (vars(kind).get(name) for kind in kinds):
                waiting.append(getattr(method, "fget", None) or getattr(method, "__func__", method))
    return list(every.values())


def modules_of(step: Any) -> list[tuple[str, nn.Module]]:
    """Return the modules that a step is, is a method of, closes over or reads, and theirs."""
    roots: list[tuple[str, Any]] = [("", step), ("", getattr(step, "__self__", None))]
    function = getattr(step, "__func__", step)
    if isinstance(function, FunctionType):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        roots += [(name, Content(cell).get(name, None)) for name, cell in cells]
        roots += [(name, function.__globals__.get(name)) for name in names_of(function.__code__)]
    every: dict[int, tuple[str, nn.Module]] = {}
    for name, root in roots:
        if isinstance(root, nn.Module):
            for path, module in root.named_modules():
                every.setdefault(id(module), (f"{name}.{path}".strip("."), module))
    return list(every.values())
