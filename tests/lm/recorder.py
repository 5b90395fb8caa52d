"""What a CUDA graph does with a step, on a CPU: its operators are recorded once, and replayed."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded:
    """Graphs for `lm.graph.GraphedStep` whose replays call no Python of the step.

    A replay calls the operators that the capture called, with the same numbers, on the memory that
    the tensors had then; random numbers go on. So a rate, a mask or a tensor that the step holds
    in Python is replayed as it was, as a GPU would: a step that is right here keeps what changes
    in tensors that stay. The capture itself changes nothing, as a GPU's runs nothing.
    """

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def warm_up(self, run) -> None:
        run()

    def capture(self, run):
        self.captures += 1
        random, recorder = torch.get_rng_state(), _Recorder()
        with recorder:
            run()
        recorder.undo()
        torch.set_rng_state(random)

        def replay() -> None:
            self.replays += 1
            recorder.replay()

        return replay


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls, self._before, self._own = [], {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            for tensor in _tensors((args, kwargs)):
                self._keep(tensor)
        found = function(*args, **kwargs)
        inputs = {_place(tensor) for tensor in _tensors((args, kwargs))}
        outputs = _tensors(found)
        # Views share their input's memory, where what is written lies already.
        own = [tensor for tensor in outputs if _place(tensor) not in inputs]
        self._own.update(map(_place, own))
        if own or not outputs or function._schema.is_mutable:
            self._calls.append((function, args, kwargs, found, torch.is_grad_enabled()))
        return found

    def _keep(self, tensor: torch.Tensor) -> None:
        """Memory that was there before the capture has its content back afterwards."""
        place = _place(tensor)
        if place not in self._own and place not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self._before[place] = whole, whole.clone()

    def undo(self) -> None:
        for whole, before in self._before.values():
            whole.copy_(before)

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():  # as they were called when they were recorded
            for function, args, kwargs, found, gradients in self._calls:
                with torch.set_grad_enabled(gradients):
                    again = function(*args, **kwargs)
                for old, new in zip(_tensors(found), _tensors(again), strict=True):
                    if _place(old) != _place(new):
                        old.copy_(new)


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
