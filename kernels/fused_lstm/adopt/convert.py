"""`convert`: torch.nn's recurrent layers inside a model become ours, and back, in place."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..call.choose import check_engine
from ..call.run import check_torchs
from ..call.spec import Spec
from ..layers.modules import (
    ADDED,
    GRU,
    LSTM,
    RNN,
    SLSTM,
    GRUCell,
    LSTMCell,
    RecurrentBase,
    RecurrentCell,
    RNNCell,
)

Model = TypeVar("Model", bound=nn.Module)

OURS = {
    nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN,
    nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell, nn.RNNCell: RNNCell,
}  # fmt: skip
TORCHS = {ours: torchs for torchs, ours in OURS.items()}

log = logging.getLogger("fused_lstm")


def convert(
    model: Model, engine: str = "auto", fuse: str | None = None, *, back: bool = False
) -> Model:
    """Replace torch.nn's recurrent layers in a model by this library's, in place, or the reverse.

    That covers every nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell and nn.RNNCell. A module
    keeps its identity, Parameters, hooks, parametrizations, training mode, device and dtype: only
    its class changes, and both classes derive from nn.RNNBase or nn.RNNCellBase. So optimizers and
    other references to the module stay valid. A subclass of a torch.nn layer is left alone, since
    it may override what would change, and so is a layer that is quantized or compiled by torch.jit.
    `fused_lstm.install` changes no class, and reaches models that are built later.

    The logger "fused_lstm" names each layer that was converted (INFO), and each that was left and
    why (WARNING). `conversions` returns the same as data.

    Args:
        model: any module; it may be a recurrent layer itself.
        engine, fuse: fused_lstm.LSTM's arguments, set on every layer that is converted and on every
            layer that is this library's already.
        back: replace this library's layers by torch.nn's, as
            torch.ao.quantization.quantize_dynamic and isinstance(module, nn.LSTM) need it.

    Returns:
        `model`.

    Raises:
        ValueError: the engine or the level is unknown or does not have a layer's cell, or, with
            `back`, torch.nn does not have it. The model is then unchanged.
    """
    check_engine(engine, fuse)
    plan = _plan(model, back)
    for module, reason in plan.values():
        if reason is not None:
            continue
        spec = spec_of(module)
        if back:
            kind = _class_of(module)
            check_torchs(spec, "torch.nn" if kind is SLSTM else f"nn.{TORCHS[kind].__name__}")
        else:
            check_engine(engine, fuse, spec)
    for name, (module, reason) in plan.items():
        if reason is not None:
            log.warning("left %s, a %s: %s", name or "the model", type(module).__name__, reason)
            continue
        before, spec = type(module).__name__, spec_of(module)
        if back:
            _become(module, TORCHS[_class_of(module)])
            for attribute in ADDED:
                vars(module).pop(attribute, None)
        else:
            _become(module, OURS.get(_class_of(module), _class_of(module)))
            vars(module).update(engine=engine, fuse=fuse, spec=spec)
        what = f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"
        log.info("made %s, a %s, %s", name or "the model", before, what)
    return model


def conversions(model: nn.Module, *, back: bool = False) -> dict[str, str | None]:
    """Return each recurrent layer's name -> None if `convert` takes it, or why it leaves it."""
    return {name: reason for name, (_, reason) in _plan(model, back).items()}


def _plan(model: nn.Module, back: bool) -> dict[str, tuple[Any, str | None]]:
    """Name each recurrent layer: name -> (layer, why it is left or None)."""
    check_model(model)
    plan: dict[str, tuple[Any, str | None]] = {}
    for name, module in model.named_modules():
        kind, why = _class_of(module), compiled_or_quantized(module)
        if why is not None:
            plan[name] = module, why
        elif kind in TORCHS or kind is SLSTM or (kind in OURS and not back):
            plan[name] = module, None
        elif kind not in OURS and isinstance(module, nn.RNNBase | nn.RNNCellBase):
            base = next((b.__name__ for b in kind.__mro__ if b in OURS or b in TORCHS), "RNNBase")
            why = (
                f"it is a subclass of {base} and may override what would change; where it calls"
                f" nn.{base}'s forward, fused_lstm.install() reaches it"
            )
            plan[name] = module, why
    return plan


def check_model(model: Any) -> None:
    """Check that a model is a module."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}; expected a torch.nn.Module")


def compiled_or_quantized(module: nn.Module) -> str | None:
    """Return why a recurrent layer is neither torch.nn's nor ours any more; else None."""
    if isinstance(module, torch.jit.ScriptModule):
        names = {kind.__name__ for kind in OURS}
        return "torch.jit has compiled it" if module.original_name in names else None
    quantized = torch.ao.nn.quantized.dynamic.modules.rnn
    if isinstance(module, quantized.RNNBase | quantized.RNNCellBase):
        return "it is quantized, with integers for weights"
    return None


def _class_of(module: nn.Module) -> type:
    """Return a module's class, below the one that torch.nn.utils.parametrize makes."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def spec_of(module: Any) -> Spec:
    """Return the Spec of a recurrent layer of torch.nn or of this library."""
    if isinstance(module, RecurrentBase | RecurrentCell):
        return module.spec
    if isinstance(module, nn.RNNBase):
        directions, projection = 1 + module.bidirectional, module.proj_size > 0
        return Spec(
            module.mode.lower(), layers=module.num_layers, directions=directions, bias=module.bias,
            projection=projection, dropout=float(module.dropout),
        )  # fmt: skip
    if isinstance(module, nn.RNNCell):
        return Spec(f"rnn_{module.nonlinearity}", bias=module.bias)
    return Spec("lstm" if isinstance(module, nn.LSTMCell) else "gru", bias=module.bias)


def _become(module: nn.Module, new: type) -> None:
    if parametrize.is_parametrized(module):
        kind = type(module)  # a class of this module only, which adds properties
        added = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        new = type(kind.__name__, (new,), added)
    module.__class__ = new
