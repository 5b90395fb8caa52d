"""A record of the operations of ATen that a function runs, those of its derivatives among them.

torch.fx's make_fx records the same operations. Its first use in a process imports TorchDynamo,
which takes two seconds, and each use takes twenty times as long as this one, since it runs every
operation on fake tensors, too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .expressions import CannotExpress

LIFT, LIFT_COPY = torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default


@dataclass(frozen=True)
class Place:
    """A tensor among an operation's arguments: the number of the step that makes it."""

    number: int


@dataclass(frozen=True)
class Argument:
    """A step that is an argument of the function."""


@dataclass(frozen=True)
class Constant:
    """A step that is a tensor which the function makes of numbers, by torch.tensor."""

    tensor: Tensor


@dataclass(frozen=True)
class Part:
    """A step that is one of the several results of the operation `of`."""

    of: int
    index: int


@dataclass(frozen=True)
class Operation:
    """A step that is a call of ATen's.

    Attributes:
        args, kwargs: with a `Place` for each tensor.
        value: what it returned in the run that was recorded.
        name: the operator's, and how many calls of it come before: unique in a record.
    """

    function: Any
    args: tuple
    kwargs: dict[str, Any]
    value: Any
    name: str

    @property
    def operator(self) -> str:
        """Return the operator's name, without the overload's."""
        return self.function.overloadpacket.__name__

    @property
    def reads(self) -> list[int]:
        """Return the numbers of the steps that it needs."""
        return [x.number for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Place)]


Step = Argument | Constant | Part | Operation


@dataclass
class Record:
    """The steps of a run in their order. results: the numbers of those that were returned."""

    steps: list[Step] = field(default_factory=list)
    results: list[int] = field(default_factory=list)

    @property
    def is_functional(self) -> bool:
        """Return whether no operation changes a tensor in place."""
        calls = (step for step in self.steps if isinstance(step, Operation))
        return not any(step.function._schema.is_mutable for step in calls)

    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run all steps again, with other arguments."""
        arguments, values = iter(tensors), []

        def value(x: Any) -> Any:
            return values[x.number] if isinstance(x, Place) else x

        for step in self.steps:
            if isinstance(step, Argument):
                values.append(next(arguments))
            elif isinstance(step, Constant):
                values.append(step.tensor)
            elif isinstance(step, Part):
                values.append(values[step.of][step.index])
            else:
                args, kwargs = tree_map(value, (step.args, step.kwargs))
                values.append(step.function(*args, **kwargs))
        return tuple(values[n] for n in self.results)


class Recorded(Tensor):
    """A tensor that stands for a step. Operations alone can ask for its numbers.

    So NumPy and Python see none of them: a record would not have what these compute.
    """

    value: Tensor
    place: int
    is_known: bool  # whether it is one number, and depends on no argument

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(
        cls, value: Tensor, place: int, is_known: bool = False, requires_grad: bool = False
    ) -> Recorded:
        tensor = Tensor._make_wrapper_subclass(
            cls, value.shape, value.stride(), value.storage_offset(), dtype=value.dtype,
            layout=value.layout, device=value.device, requires_grad=requires_grad,
        )  # fmt: skip
        tensor.value, tensor.place, tensor.is_known = value, place, is_known
        return tensor

    def as_leaf(self) -> Recorded:
        """Return a tensor of the same step, by which autograd makes a gradient.

        requires_grad_() cannot be where a caller's torch.func transform is under way.
        """
        return Recorded(self.value, self.place, False, True)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise RuntimeError(f"{func} of a tensor whose trace has ended")


class Recorder(TorchDispatchMode):
    """A mode that writes each operation into `record`, and runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self._calls: Counter[str] = Counter()  # by operator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: PyTorch would import TorchDynamo; `recorded` skips it where it is there."""
        return False

    def add(self, step: Step) -> int:
        """Add a step; return its number."""
        self.record.steps.append(step)
        return len(self.record.steps) - 1

    def place_of(self, x: Tensor) -> int:
        """Return the number of the step that makes a tensor.

        Raises:
            CannotExpress: no step does.
        """
        if isinstance(x, Recorded):
            return x.place
        kind = "Parameter" if isinstance(x, torch.nn.Parameter) else "tensor"
        raise CannotExpress(
            f"a {kind} of shape {list(x.shape)} from outside",
            'weights="its name" for a vector that is trained, or for a constant number a keyword'
            " with a default: a kernel would not see its later values",
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func = LIFT_COPY if func is LIFT else func  # what changes its result leaves the constant
        is_fresh = func is LIFT_COPY and not isinstance(args[0], Recorded)
        both = args, kwargs or {}
        tensors = [x for x in tree_leaves(both) if isinstance(x, Tensor)]
        is_known = all(x.is_known for x in tensors if isinstance(x, Recorded)) and bool(tensors)
        real_args, real_kwargs = tree_map(lambda x: x.value if isinstance(x, Recorded) else x, both)
        if torch.Tag.data_dependent_output in func.tags:
            if not is_known:
                raise RuntimeError(f"{func} of a tensor that is traced")
            return func(*real_args, **real_kwargs)

        def place(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return Place(self.add(Constant(x)) if is_fresh else self.place_of(x))

        placed_args, placed_kwargs = tree_map(place, both)
        value, operator = func(*real_args, **real_kwargs), func.overloadpacket.__name__
        name = f"{operator}_{self._calls[operator]}"
        self._calls[operator] += 1
        number = self.add(Operation(func, placed_args, placed_kwargs, value, name))
        is_known &= torch.Tag.nondeterministic_seeded not in func.tags
        written = changed(func, *both)

        def result(x: Any, number: int) -> Any:
            if not isinstance(x, Tensor):
                return x
            for argument in written:
                if argument.value is x:  # an operation in place returns what it changes
                    argument.place, argument.is_known = number, is_known
                    return argument
            return Recorded(x, number, is_known and x.numel() <= 1)

        if isinstance(value, list | tuple):
            return type(value)([result(x, self.add(Part(number, k))) for k, x in enumerate(value)])
        return result(value, number)


def changed(func: Any, args: tuple, kwargs: dict[str, Any]) -> list[Recorded]:
    """Return the tensors that an operation changes in place."""
    arguments = func._schema.arguments
    by_name = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
    written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    values = tree_leaves([by_name[name] for name in written if name in by_name])
    return [x for x in values if isinstance(x, Recorded)]


def recorded(function: Callable, tensors: Sequence[Tensor]) -> Record:
    """Return what a function of tensors runs, without operations in place.

    The function may have torch.autograd inside, which torch.func.functionalize does not allow. So
    what it runs is recorded first, and operations in place in the record become others then.
    """
    run: Callable = _run
    if "torch._dynamo" in sys.modules:  # which would compile what runs here for a compiled caller
        run = torch.compiler.disable(_run)
    record = run(function, tensors)
    return record if record.is_functional else run(torch.func.functionalize(record.run), tensors)


def _run(function: Callable, tensors: Sequence[Tensor]) -> Record:
    with Recorder() as recorder:
        results = function(*(Recorded(x, recorder.add(Argument())) for x in tensors))
        recorder.record.results += map(recorder.place_of, results)
    return recorder.record
