"""`explain`: which code runs each recurrent layer of a model, and why."""

from __future__ import annotations

from typing import Any, overload

from torch import nn

from ..call.choose import Facts, choose, engine_module, why_never
from ..cells import Cell
from ..inference.prepare import Prepared
from ..layers.custom import Recurrent
from ..layers.in_model import OURS, TORCHS, check_model, compiled_or_quantized, spec_of
from ..layers.modules import SLSTM, RecurrentBase, RecurrentCell
from ..loops import Fused
from .install import is_installed


@overload
def explain(model: Cell | Fused) -> str: ...
@overload
def explain(model: nn.Module) -> dict[str, str]: ...
def explain(model: nn.Module | Cell) -> dict[str, str] | str:
    """Return which code runs each recurrent layer of a model, and why; or what a cell computes.

    Args:
        model: any module, which may be a recurrent layer itself; or what fused_lstm.cell or
            fused_lstm.fuse made.

    Returns:
        Of a cell, a text: its gates and states, a step and its backward as Python, and what a step
        saves and why. Of a layer that fuse made, a text: which code runs the steps and what decided
        it, and which operators run once a call, before the loop, in it, and after it. Of a model,
        each layer's name, as in named_modules -> an engine and its description, such as "native at
        layers: C++ kernels ...", or "torch's own: " and the reason; then the calls that differ.
        Under `install`, calls in a graph (torch.jit, torch.export, ONNX; of cells, torch.compile),
        under torch.func, under a TorchDispatchMode and on tensor subclasses run torch's own code
        too.
    """
    if isinstance(model, Cell | Fused):
        return model.explained()
    check_model(model)
    layers = {name: _explained(module) for name, module in model.named_modules()}
    return {name: what for name, what in layers.items() if what is not None}


def _explained(module: Any) -> str | None:
    """Return the text for a module, or None where it is not a recurrent layer."""
    if isinstance(module, Fused):
        return module.explained()
    if isinstance(module, Prepared):
        return f"native, with weights of {module.dtype} packed once, for inference"
    why = compiled_or_quantized(module)
    if why is None and not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return None
    ours = isinstance(module, RecurrentBase | RecurrentCell)
    if why is None and not ours and not is_installed():
        why = "fused_lstm.install() has not been called"
    if why is not None:
        return f"torch's own: {why}"
    kind = type(module)
    known = (*OURS, *TORCHS, SLSTM, Recurrent)
    base: Any = next((b for b in kind.__mro__ if b in known), None)
    if base is None:
        return f"its own: {kind.__name__} is a subclass of none of torch.nn's layers"
    is_cell = isinstance(module, nn.RNNCellBase)
    weight, spec = module.weight_ih if is_cell else module.weight_ih_l0, spec_of(module)
    why = None if ours else why_never(spec, weight.device, weight.dtype)
    if why is not None:
        return f"torch's own: {why}"
    engine, fuse = (module.engine, module.fuse) if ours else ("auto", None)
    name, level, reason = choose(engine, fuse, weight.device, spec, Facts(cell_module=is_cell))
    described = engine_module(name).describe(weight.device)
    what = f"{name}{f' at {level}' if level else ''}: {described}; {reason}"
    if kind.forward is not base.forward:
        what += f"; where {kind.__name__}'s forward calls {base.__name__}'s"
    return what
