"""`convert`: nn.LSTM inside a model becomes ours, and back, without a new parameter."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from .checks import check_plain
from .engines import check_engine
from .lstm import LSTM
from .recurrent import OWN

Model = TypeVar("Model", bound=nn.Module)


def convert(
    model: Model, engine: str = "auto", fuse: str | None = None, *, back: bool = False
) -> Model:
    """Make every nn.LSTM in a model a `fused_lstm.LSTM`, in place, or (`back`) the reverse.

    A module stays the object that it is, with its Parameters, hooks, parametrizations, training
    mode, device and dtype, and in every place that shares it: only its class changes, which both
    derive from nn.RNNBase. So optimizers, and references to it, go on as they were. A subclass of
    nn.LSTM is left alone: what it overrides is its own affair.

    Args:
        model: any module; it may be an nn.LSTM itself.
        engine, fuse: as fused_lstm.LSTM takes them, for every LSTM that is converted. One that is
            ours already takes them too.
        back: make every fused_lstm.LSTM an nn.LSTM, as torch.ao.quantization.quantize_dynamic or
            a check for isinstance(module, nn.LSTM) wants it.

    Returns:
        `model`, itself.

    Raises:
        ValueError: an unknown engine or level, one that has no cell such as a module's, or, back, a
            cell that nn.LSTM does not have; nothing has been changed then.
    """
    check_engine(engine, fuse)
    found = [module for module in model.modules() if _is_lstm(module)]
    for cell in (module.cell for module in found if isinstance(module, LSTM)):
        check_plain(cell, "nn.LSTM") if back else check_engine(engine, fuse, cell.on)
    if back:
        for module in found:
            _become(module, nn.LSTM)
            for name in OWN:
                vars(module).pop(name, None)
        return model
    for module in found:
        _become(module, LSTM)
        vars(module).update(engine=engine, fuse=fuse)
    return model


def _is_lstm(module: nn.Module) -> TypeGuard[nn.LSTM | LSTM]:
    return _own_class(module) in (nn.LSTM, LSTM)


def _own_class(module: nn.Module) -> type:
    """A module's class, without the one that torch.nn.utils.parametrize put before it."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _become(module: nn.Module, new: type) -> None:
    if parametrize.is_parametrized(module):
        own = type(module)  # made for this module alone: its properties are what it adds
        added = {k: v for k, v in vars(own).items() if k not in ("__dict__", "__weakref__")}
        new = type(own.__name__, (new,), added)
    module.__class__ = new
