"""`convert`: torch.nn's recurrent layers inside a model become ours, and back, in place."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from .engines import check_engine
from .functional import check_torchs
from .modules import (
    ADDED,
    GRU,
    LSTM,
    RNN,
    SLSTM,
    GRUCell,
    LSTMCell,
    Recurrent,
    RecurrentCell,
    RNNCell,
)
from .spec import Spec

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
    """Make torch.nn's recurrent layers in a model ours, in place, or (`back`) the reverse.

    That is every nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell and nn.RNNCell. A module stays
    the object that it is, with its Parameters, hooks, parametrizations, training mode, device and
    dtype, and in every place that shares it: only its class changes, which both derive from
    nn.RNNBase or nn.RNNCellBase. So optimizers, and references to it, go on as they were. A
    subclass of one of these is left alone, since it may override what would change.

    The logger "fused_lstm" names what was converted (INFO), and what was left and why (WARNING);
    `conversions` has the same as data, before or after.

    Args:
        model: any module; it may be a recurrent layer itself.
        engine, fuse: as fused_lstm.LSTM takes them, for every layer that is converted. One that is
            ours already takes them too.
        back: make every layer of ours torch.nn's, as torch.ao.quantization.quantize_dynamic or
            a check for isinstance(module, nn.LSTM) wants it.

    Returns:
        `model`, itself.

    Raises:
        ValueError: an unknown engine or level, one that has no cell such as a module's, or, back, a
            cell that torch.nn does not have; nothing has been changed then.
    """
    check_engine(engine, fuse)
    plan = _plan(model, back)
    for module, reason in plan.values():
        if reason is not None:
            continue
        spec = _spec_of(module)
        if back:
            kind = _class_of(module)
            check_torchs(spec, "torch.nn" if kind is SLSTM else f"nn.{TORCHS[kind].__name__}")
        else:
            check_engine(engine, fuse, spec)
    for name, (module, reason) in plan.items():
        if reason is not None:
            log.warning("left %s, a %s: %s", name or "the model", type(module).__name__, reason)
            continue
        before, spec = type(module).__name__, _spec_of(module)
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
    """Return what `convert` does with each recurrent layer: name -> None, or why it leaves it."""
    return {name: reason for name, (_, reason) in _plan(model, back).items()}


def _plan(model: nn.Module, back: bool) -> dict[str, tuple[Any, str | None]]:
    """Name -> recurrent layer, and why it is left or None."""
    plan: dict[str, tuple[Any, str | None]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
            continue
        kind = _class_of(module)
        if kind in TORCHS or kind is SLSTM or (kind in OURS and not back):
            plan[name] = module, None
        elif kind not in OURS:
            base = next((b.__name__ for b in kind.__mro__ if b in OURS or b in TORCHS), "RNNBase")
            plan[name] = module, f"it is a subclass of {base} and may override what would change"
    return plan


def _class_of(module: nn.Module) -> type:
    """Return a module's class, without the one that torch.nn.utils.parametrize put before it."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _spec_of(module: Any) -> Spec:
    """Return the Spec of a recurrent layer, torch.nn's or ours."""
    if isinstance(module, Recurrent | RecurrentCell):
        return module.spec
    if isinstance(module, nn.RNNBase):
        directions, projection = 1 + module.bidirectional, module.proj_size > 0
        return Spec(
            module.mode.lower(), layers=module.num_layers, directions=directions, bias=module.bias,
            projection=projection, dropout=float(module.dropout),
        )  # fmt: skip
    kind = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}.get(_class_of(module))
    return Spec(kind or f"rnn_{module.nonlinearity}", bias=module.bias)


def _become(module: nn.Module, new: type) -> None:
    if parametrize.is_parametrized(module):
        kind = type(module)  # made for this module alone: its properties are what it adds
        added = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        new = type(kind.__name__, (new,), added)
    module.__class__ = new
