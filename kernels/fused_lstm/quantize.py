"""`quantize`: LSTMs and GRUs of a model with weights of int8, for inference on a CPU.

A weight matrix is int8 with a scale for each row (output channel). Its factor, x or h, is rounded
to bytes at every step, with a scale for each row of the batch. Products are summed in int32,
exactly. The cell and its state are float32.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import library, varlen
from .convert import OURS, conversions, spec_of
from .errors import meant
from .functional import check_resets, padded
from .modules import Recurrent
from .varlen import reset_mask

Model = TypeVar("Model", bound=nn.Module)
CELLS = ("lstm", "gru")

log = logging.getLogger("fused_lstm")


def quantize(model: Model) -> Model:
    """Replace every LSTM and GRU in a model, torch.nn's and ours, by a `Quantized` one, in place.

    A state_dict has the weights as int8, and a float32 scale for each row. The logger "fused_lstm"
    says (WARNING) which layers were left and why: a cell with options, an RNN, a layer that is not
    on the CPU.

    Args:
        model: any module; it may be a recurrent layer itself.

    Returns:
        `model`; where it is a recurrent layer itself, its `Quantized` layer.

    Raises:
        RuntimeError: engine `native` is missing; the message says why.
    """
    if (why := library.load()) is not None:
        raise RuntimeError(f"quantize: needs the engine 'native': {why}")
    made: dict[int, Quantized] = {}  # a module that has several places keeps them
    for name, reason in {name: _why_left(model, name) for name in conversions(model)}.items():
        module: Any = model.get_submodule(name)
        if reason is not None:
            log.warning("left %s, a %s: %s", name or "the model", type(module).__name__, reason)
            continue
        if id(module) not in made:
            made[id(module)] = Quantized(module)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                parent._modules[name] = made[id(child)]
    return made.get(id(model), model)  # pyrefly: ignore[bad-return]


def _why_left(model: nn.Module, name: str) -> str | None:
    """Return why a recurrent layer is not quantized, or None."""
    module: Any = model.get_submodule(name)
    kind = type(module)
    if kind not in OURS and kind not in OURS.values():
        return "it is a subclass, or parametrized"
    if not isinstance(module, nn.LSTM | nn.GRU | Recurrent):
        return "it is neither an LSTM nor a GRU"
    if isinstance(module, Recurrent) and (module.spec.cell not in CELLS or module.spec.options):
        return "its cell has more than torch.nn's LSTM or GRU"
    first = next(module.parameters())
    if first.device.type != "cpu" or first.dtype == torch.float64:
        return f"its weights are {first.dtype} on {first.device}"
    return None


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight [rows, columns] as int8, in -127 to 127, and the scale [rows] of each row."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1) / 127
    steps = weight / torch.where(scale > 0, scale, 1.0)[:, None]
    return steps.round().to(torch.int8), scale


class Quantized(nn.Module):
    """An LSTM or GRU with int8 weights, for inference; arguments and layouts are the module's.

    Args:
        module: an LSTM or GRU on the CPU, torch.nn's or ours, with torch.nn's cell; not changed.
    """

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        self.spec, self.batch_first = spec_of(module), module.batch_first
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        self.proj_size, self.num_layers = module.proj_size, module.num_layers
        self.names = list(module._flat_weights_names)
        for name in self.names:
            weight = getattr(module, name)
            if weight.dim() == 1:
                self.register_buffer(name, weight.detach().float())
            else:
                values, scale = to_int8(weight)
                self.register_buffer(name, values)
                self.register_buffer(f"{name}_scale", scale)
        self._packed: list[Tensor] | None = None

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_packed": None}

    def weights(self) -> list[Tensor]:
        """Return the operator's weights: matrices as the kernels read them, packed once."""
        if self._packed is None:
            of = self.spec.gates
            self._packed = [
                getattr(self, name)
                if name.startswith("bias")
                else torch.ops.fused_lstm_native.int8_pack(
                    getattr(self, name), getattr(self, f"{name}_scale"), 1 if "hr" in name else of
                )
                for name in self.names
            ]
        return self._packed

    @torch.no_grad()
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> Any:
        """Return the same as the module's `forward`, without gradients.

        Raises:
            ValueError: an argument does not fit; names it.
        """
        packed, batched, rows = isinstance(input, PackedSequence), True, None
        x: Tensor = input.data if isinstance(input, PackedSequence) else input
        if isinstance(input, PackedSequence):
            rows = varlen.of_packed(input)
        elif x.dim() == 2:
            x, batched = x.unsqueeze(1), False
        elif self.batch_first:
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.transpose(0, 1)
        if lengths is not None:
            rows = padded(x, lengths, self.batch_first)
        if resets is not None:
            check_resets(resets, x)
        h0, c0 = self._state(hx, x, input, batched)
        sizes = None if rows is None else rows.batch_sizes
        if rows is not None:
            x, h0, c0 = rows.pack(x), rows.sort(h0), rows.sort(c0)
            resets = None if resets is None else rows.pack(resets)
        directions = self.spec.directions
        keep = None if resets is None else reset_mask(resets, directions, h0.shape[1], sizes)
        try:
            y, h_n, c_n = torch.ops.fused_lstm_native.int8_lstm(
                x, h0, c0, self.weights(), directions, sizes, keep, self.spec.schema_cell
            )
        except RuntimeError as error:
            raise meant(error) from None
        if rows is not None:
            y, h_n, c_n = rows.unpack(y), rows.unsort(h_n), rows.unsort(c_n)
        if not batched:
            y, h_n, c_n = y.squeeze(1), h_n.squeeze(1), c_n.squeeze(1)
        elif self.batch_first and not packed:
            y = y.transpose(0, 1)
        output = PackedSequence(y, *input[1:]) if isinstance(input, PackedSequence) else y
        return output, (h_n, c_n) if self.spec.has_c else h_n

    def _state(self, hx: Any, x: Tensor, input: Any, batched: bool) -> tuple[Tensor, Tensor]:
        """Return h_0 [L * D, B, P] and c_0 [L * D, B, H]; of a GRU the same twice."""
        lanes, H = self.spec.layers * self.spec.directions, self.hidden_size
        if hx is None:
            B = varlen.rows_of(input) if isinstance(input, PackedSequence) else x.shape[1]
            c0 = x.new_zeros(lanes, B, H)
            return (x.new_zeros(lanes, B, self.proj_size) if self.proj_size else c0), c0
        states = hx if self.spec.has_c else (hx, hx)
        h0, c0 = (state if batched else state.unsqueeze(1) for state in states)
        return h0, c0

    def extra_repr(self) -> str:
        more = f", proj_size={self.proj_size}" if self.proj_size else ""
        return (
            f"{self.spec.cell}, {self.input_size}, {self.hidden_size}, int8,"
            f" num_layers={self.num_layers}, bidirectional={self.spec.directions == 2}{more}"
        )
