"""xLSTM's sLSTM cells (the package `xlstm`, Beck et al. 2024) on this library's engines.

    fused_lstm.integrations.xlstm.convert(model)

A cell stays the object that it is, with its Parameters and its state_dict; its forward is ours. So
a model that was built for the package's `vanilla` loop needs neither CUDA nor a compiler to be
fast.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from xlstm.blocks.slstm.cell import sLSTMCell_vanilla, sLSTMCellBase
from xlstm.components.util import ParameterProxy

from .. import heads
from ..call.choose import check_engine
from ..call.spec import Spec
from .gates import cells_in, run_gates

Model = TypeVar("Model", bound=nn.Module)
PROXIED = "proxied"  # in a pickle: attribute -> the parameter that it shows in another layout


def convert(model: Model, engine: str = "auto") -> Model:
    """Make every sLSTM cell of xLSTM's in a model run on an engine, in place.

    Args:
        model: any module, or a cell itself; one that is converted already takes the engine too.
        engine: as fused_lstm.SLSTM takes it.

    Returns:
        `model`, itself.

    Raises:
        ValueError: an unknown engine, or one that has no sLSTM; a cell that cuts its recurrent
            gradients off, or clips h; no cell at all. Nothing has been changed then.
    """
    cells = cells_in(model, sLSTMCellBase, "xlstm")
    for cell in cells:
        check_engine(engine, None, spec_of(cell.config))
    for cell in cells:
        if not isinstance(cell, Fused):
            cell.__class__ = fused(type(cell))
        cell.engine = engine
    return model


@cache
def fused(kind: type) -> type:
    """Return the class of a converted cell that was of a class of xLSTM's."""
    return type(kind.__name__, (Fused, kind), {"converted": kind})


def blank(kind: type) -> Any:
    """Return a converted cell without attributes, for pickle to fill."""
    return object.__new__(fused(kind))


def spec_of(config: Any) -> Spec:
    """Return the Spec of a cell of xLSTM's, from its configuration."""
    for name, off in {"gradient_recurrent_cut": False, "forward_clipval": None}.items():
        if (value := getattr(config, name)) != off:
            raise ValueError(f"{name}: got {value}; expected {off}: fused_lstm has none")
    clip = config.gradient_recurrent_clipval
    if config.function == "lstm":
        if clip is not None:
            raise ValueError(
                f"gradient_recurrent_clipval: got {clip}; expected None: an LSTM has none"
            )
        return Spec("lstm", num_heads=config.num_heads)
    return Spec("slstm", num_heads=config.num_heads, recurrent_clip=clip)


class Fused:
    """Replace the forward and the step of xLSTM's cell."""

    engine: str
    converted: type  # the cell's class before

    def __reduce_ex__(self: Any, protocol: Any) -> tuple:
        """Return how pickle makes the cell, whose class no module has by name."""
        proxies = {n: v for n, v in vars(self).items() if isinstance(v, ParameterProxy)}
        state = {n: v for n, v in self.__getstate__().items() if n not in proxies}
        state[PROXIED] = {n: v.parameter_name for n, v in proxies.items()}
        return blank, (self.converted,), state

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        """Take what pickle kept, and make the proxies: xLSTM's cannot be copied or pickled."""
        proxied = state.pop(PROXIED)
        nn.Module.__setstate__(self, state)
        for name, parameter in proxied.items():
            ways = (getattr(self, f"{parameter}_{way}") for way in ("int2ext", "ext2int"))
            vars(self)[name] = ParameterProxy(self, parameter, *ways)

    def forward(
        self: Any, input: Tensor, state: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run xLSTM's cell: input [B, T, 4H] or [T, B, 4H] as its config says, states [S, B, H].

        lengths is not looked at, as xLSTM does not.
        """
        self._check_input(input)
        config = self.config
        gates = input.transpose(0, 1) if config.input_shape.startswith("BS") else input
        states = self._get_state(gates, state)
        weight_hh = self._recurrent_kernel
        if not isinstance(self, sLSTMCell_vanilla):  # whose layout is ours
            weight_hh = heads.from_xlstm(self._recurrent_kernel_int2ext(weight_hh))
        bias = self._bias_int2ext(self._bias).transpose(0, 1).flatten()  # [N, G, K], to [G*H]
        y, last = run_gates(spec_of(config), self.engine, gates, states, weight_hh, bias)
        y = self._permute_output(y)
        return (
            (y, last) if torch.is_autocast_enabled() else (y.to(input.dtype), last.to(input.dtype))
        )

    def step(self: Any, input: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Make one step, and return the state after it. (xlstm 2.0.6 returns the one before.)"""
        return self.forward(input, state)
