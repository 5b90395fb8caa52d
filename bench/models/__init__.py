"""Models of other packages, with torch's own recurrent layers and with this library's.

A file is a package: its `case()` makes a model with random weights and a call of it. Both
contenders run that one model, `torch` as it is and `install` under `fused_lstm.install()`. Torch's
recurrent layers are timed alone too, on the inputs which they get in it. A third, `resets`, is the
same model with a module of fused_lstm.integrations, where a case has one. `make models` installs
the packages, each of which may be missing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import fused_lstm

from .. import core as bench
from .case import Case, floats

MODES = "inference", "train", "layers-inference", "layers-train"
NAMES = [m.name for m in pkgutil.iter_modules(__path__) if m.name != "case"]
LABELS = {"torch": nullcontext, "install": fused_lstm.install}


@dataclass(frozen=True, eq=False)
class LayerCall:
    """A recurrent layer and what it was called with in its model."""

    layer: nn.Module
    arguments: tuple
    options: dict[str, Any]


class Model:
    """A package's case, and the calls of its recurrent layers in each mode."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.calls = {
            "layers-inference": self._calls(self.infer),
            "layers-train": self._calls(self.train),
        }

    def infer(self) -> Any:
        """Return the model's outputs, keeping nothing."""
        self.case.model.eval()
        with torch.no_grad():
            return self.case.infer()

    def train(self) -> Tensor:
        """Run forward and backward in training mode; return the loss."""
        return self._step(self.case.model.train())

    def _step(self, model: nn.Module) -> Tensor:
        model.zero_grad()
        loss = self.case.loss()
        loss.backward()
        return loss.detach()

    def outputs(self) -> Tensor:
        """Return all real numbers that inference returns."""
        return torch.cat([t.flatten() for t in floats(self.infer())])

    def gradients(self) -> dict[str, Tensor]:
        """Return the loss and each parameter's gradient by name, without what falls in training."""
        loss, named = self._step(self.case.model.eval()), self.case.model.named_parameters()
        return {"loss": loss[None]} | {n: p.grad for n, p in named if p.grad is not None}

    def answer(self) -> dict[str, Tensor]:
        """Return the outputs, the loss, and the gradients in one tensor."""
        outputs, grads = self.outputs(), self.gradients()
        loss = grads.pop("loss")
        flat = torch.cat([grad.flatten() for grad in grads.values()])
        return {"outputs": outputs, "loss": loss, "gradients": flat}

    def layers(self, mode: str) -> None:
        """Run the recurrent layers alone, on the inputs that they get in the model."""
        trains = mode == "layers-train"
        self.case.model.train(trains)
        with torch.set_grad_enabled(trains):
            for call in self.calls[mode]:
                outputs = floats(call.layer(*call.arguments, **call.options))
                wanted = [t for t in outputs if t.requires_grad]
                if wanted:
                    torch.autograd.backward(wanted, [torch.ones_like(t) for t in wanted])

    def _calls(self, run: Callable[[], Any]) -> list[LayerCall]:
        """Return the calls of recurrent layers in a run, in order."""
        calls: list[LayerCall] = []

        def note(layer: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
            calls.append(LayerCall(layer, kept(arguments), kept(options)))

        layers = [
            m for m in self.case.model.modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)
        ]
        hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in layers]
        run()
        for hook in hooks:
            hook.remove()
        return calls


def kept(value: Any) -> Any:
    """Return a call's arguments without their history; those that had one want a gradient."""
    if isinstance(value, PackedSequence):
        return PackedSequence(kept(value.data), *value[1:])
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: kept(part) for name, part in value.items()}
    return tuple(map(kept, value)) if isinstance(value, tuple | list) else value


def call_of(label: str, model: Model) -> bench.Call:
    """Return the call of torch's own layers, or of ours in them or in their place."""
    modes: dict[str, Any] = {"inference": model.infer, "train": model.train}
    if label == "torch":
        modes |= {mode: partial(model.layers, mode) for mode in MODES[2:]}
    facts = lambda mode, rounds: {"calls": len(model.calls.get(mode, ()))}  # noqa: E731
    return bench.Call(modes, model.answer, under=LABELS.get(label, nullcontext), facts=facts)


def cases(o: Any) -> list[str]:
    """Return the names of the packages, or those that --engines asks for."""
    wanted = o.engines.split(",") if o.engines else NAMES
    for name in wanted:
        if name not in NAMES:
            raise ValueError(f"--engines: got {name!r}; expected of {', '.join(NAMES)}")
    return wanted


def setup(name: str, o: Any) -> bench.Work:
    """Return a package's model; one that is not there, or does not load here, says why."""
    torch.manual_seed(0)
    try:
        model = Model(importlib.import_module(f"{__name__}.{name}").case())
    except Exception as error:  # another's package: what it raises is its own affair
        return bench.Work({}, absent={"install": f"does not load: {bench.reason(error)}"})
    calls = {label: partial(call_of, label, model) for label in LABELS}
    if model.case.resets is not None:
        calls["resets"] = partial(call_of, "resets", Model(model.case.resets))
    return bench.Work(calls, model.answer)
