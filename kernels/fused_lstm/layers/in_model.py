"""The recurrent layers of a model, torch.nn's and ours: which are there, and what each computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..call.spec import Spec
from .modules import (
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

OURS = {
    nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN,
    nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell, nn.RNNCell: RNNCell,
}  # fmt: skip
TORCHS = {ours: torchs for torchs, ours in OURS.items()}


def check_model(model: Any) -> None:
    """Check that a model is a module."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}; expected a torch.nn.Module")


def recurrent_layers(model: nn.Module) -> dict[str, tuple[Any, str | None]]:
    """Return each recurrent layer's name -> (layer, why its class may not be changed, or None).

    Raises:
        ValueError: the model is no module.
    """
    check_model(model)
    found: dict[str, tuple[Any, str | None]] = {}
    for name, module in model.named_modules():
        kind, why = class_of(module), compiled_or_quantized(module)
        if why is not None:
            found[name] = module, why
        elif kind in TORCHS or kind in OURS or kind is SLSTM:
            found[name] = module, None
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            base = next((b.__name__ for b in kind.__mro__ if b in OURS or b in TORCHS), "RNNBase")
            why = (
                f"it is a subclass of {base} and may override what would change; where it calls"
                f" nn.{base}'s forward, fused_lstm.install() reaches it"
            )
            found[name] = module, why
    return found


def replace_modules(model: nn.Module, made: dict[int, nn.Module]) -> None:
    """Replace submodules, by their id, wherever a module has them."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                parent._modules[name] = made[id(child)]


def compiled_or_quantized(module: nn.Module) -> str | None:
    """Return why a recurrent layer is neither torch.nn's nor ours any more; else None."""
    if isinstance(module, torch.jit.ScriptModule):
        names = {kind.__name__ for kind in OURS}
        return "torch.jit has compiled it" if module.original_name in names else None
    quantized = torch.ao.nn.quantized.dynamic.modules.rnn
    if isinstance(module, quantized.RNNBase | quantized.RNNCellBase):
        return "it is quantized, with integers for weights"
    return None


def class_of(module: nn.Module) -> type:
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
