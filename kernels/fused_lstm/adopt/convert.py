"""`convert`: torch.nn's recurrent layers inside a model become ours, and back, in place."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..call.choose import check_engine
from ..call.run import check_torchs
from ..inference.prepare import Prepared
from ..layers.in_model import OURS, TORCHS, class_of, recurrent_layers, replace_modules, spec_of
from ..layers.modules import ADDED, SLSTM

Model = TypeVar("Model", bound=nn.Module)

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
            torch.ao.quantization.quantize_dynamic and isinstance(module, nn.LSTM) need it. A layer
            that `prepare` made becomes a new one of torch.nn's, with its weights as rounded.

    Returns:
        `model`; or torch.nn's layer, with `back` and a model that is itself a layer of `prepare`'s.

    Raises:
        ValueError: the engine or the level is unknown or does not have a layer's cell, or, with
            `back`, torch.nn does not have it. The model is then unchanged.
    """
    check_engine(engine, fuse)
    plan = _plan(model, back)
    packed = [m for m in model.modules() if isinstance(m, Prepared)] if back else []
    restored: dict[int, nn.Module] = {id(m): m.restored() for m in packed}
    for module, reason in plan.values():
        if reason is not None or id(module) in restored:
            continue
        spec = spec_of(module)
        if back:
            kind = class_of(module)
            check_torchs(spec, "torch.nn" if kind is SLSTM else f"nn.{TORCHS[kind].__name__}")
        else:
            check_engine(engine, fuse, spec)
    for name, (module, reason) in plan.items():
        if reason is not None:
            log.warning("left %s, a %s: %s", name or "the model", type(module).__name__, reason)
            continue
        before = type(module).__name__
        if (layer := restored.get(id(module))) is not None:
            log.info("made %s, a %s, torch's %s", name or "the model", before, type(layer).__name__)
            continue
        spec = spec_of(module)
        if back:
            _become(module, TORCHS[class_of(module)])
            for attribute in ADDED:
                vars(module).pop(attribute, None)
        else:
            _become(module, OURS.get(class_of(module), class_of(module)))
            vars(module).update(engine=engine, fuse=fuse, spec=spec)
        what = f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"
        log.info("made %s, a %s, %s", name or "the model", before, what)
    replace_modules(model, restored)
    return restored.get(id(model), model)  # pyrefly: ignore[bad-return]


def conversions(model: nn.Module, *, back: bool = False) -> dict[str, str | None]:
    """Return each recurrent layer's name -> None if `convert` takes it, or why it leaves it."""
    return {name: reason for name, (_, reason) in _plan(model, back).items()}


def _plan(model: nn.Module, back: bool) -> dict[str, tuple[Any, str | None]]:
    """Name each recurrent layer: name -> (layer, why it is left or None)."""
    plan = recurrent_layers(model)
    for name, module in model.named_modules() if back else ():
        if isinstance(module, Prepared):
            plan[name] = module, None
    if back:
        plan = {n: (m, why) for n, (m, why) in plan.items() if class_of(m) not in OURS}
    return plan


def _become(module: nn.Module, new: type) -> None:
    if parametrize.is_parametrized(module):
        kind = type(module)  # a class of this module only, which adds properties
        added = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        new = type(kind.__name__, (new,), added)
    module.__class__ = new
