"""`Recurrent`: layers of a cell that `fused_lstm.cell` has made of a function."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import library
from .cells import Cell
from .engines import check_engine, why_no_cell
from .functional import State
from .modules import RecurrentBase
from .spec import Spec


class Recurrent(RecurrentBase):
    """Layers of a cell of your own, with fused_lstm.LSTM's layouts and engines.

        rnn = fused_lstm.Recurrent(lltm, input_size, hidden_size, num_layers=2)
        y, (h_n, c_n) = rnn(x, lengths=lengths)

    A lane's parameters are nn.LSTM's, with G * H rows in the order of the cell's gates, then the
    cell's weights by their names, [H] each: tau_l0, tau_l0_reverse, ....

    Args:
        cell: what `fused_lstm.cell` made.
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as of nn.LSTM.
        engine, fuse: as of fused_lstm.LSTM. With "auto", on a CPU without a C++ compiler, a step
            loop runs, and a warning says so once. "native" is an error there.
        zoneout, recurrent_dropout: as of fused_lstm.LSTM, for a cell of one state. zoneout of a
            cell whose state is h alone is one number.
        recompute: as of fused_lstm.LSTM.

    Raises:
        ValueError: an engine or the cell does not have what an argument asks for.
        RuntimeError: engine="native", and the cell cannot be compiled here.

    Shapes:
        input: as of fused_lstm.LSTM.
        state: h_0 [L * D, B, H] where h is the cell's only state or it has none; else a tuple of
            h_0 and the other states. Without one, each begins with the cell's initial values.
        Returns y and the last state in the same layout.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        recompute: int | None = None,
    ) -> None:
        if not isinstance(cell, Cell):
            raise ValueError(
                f"cell: got {type(cell).__name__}; expected what fused_lstm.cell makes"
            )
        spec = Spec(
            cell.name, zoneout=zoneout, recurrent_dropout=recurrent_dropout, layers=num_layers,
            directions=1 + bool(bidirectional), bias=bias, dropout=dropout, recompute=recompute,
        )  # fmt: skip
        check_engine(engine, fuse, spec)
        nn.RNNBase.__init__(
            self, "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.cell = cell  # before spec: a pickle makes the cell known first
        if engine in ("auto", "native") and self.weight_ih_l0.device.type == "cpu":
            why = library.load() or why_no_cell("native", spec)
            if why is not None and engine == "native":
                raise RuntimeError(f"engine 'native' cannot run cell {cell.__name__}: {why}")
        self._set_up(spec, engine, fuse, recompute)
        self.reset_cell()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run the layers, as fused_lstm.LSTM's `forward`."""
        if resets is not None and any(self.cell.initial_states.values()):
            raise ValueError(
                f"resets: got a tensor; expected None with cell {self.cell.__name__}, whose states"
                " begin at other values than 0"
            )
        return super().forward(input, hx, lengths, resets, return_states)

    def _make_weights(self) -> None:
        super()._make_weights()
        stdv = self.hidden_size**-0.5
        like = cast("Tensor", self.weight_ih_l0)
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            if "weight_ch" + suffix in names:  # what the engines have of all weights of a unit
                del self._parameters["weight_ch" + suffix]
                names.remove("weight_ch" + suffix)
            for name in self.cell.weights:
                weight = nn.Parameter(like.new_empty(self.hidden_size))
                nn.init.uniform_(weight, -stdv, stdv)
                self.register_parameter(name + suffix, weight)
                names.append(name + suffix)
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def reset_cell(self) -> None:
        """Set the cell's weights to the initial values that it tells."""
        if "cell" not in vars(self):  # RNNBase.__init__ calls it too
            return
        for name, value in self.cell.initial_weights.items():
            for names in self._all_weights:
                suffix = names[0].removeprefix("weight_ih")
                if not math.isnan(value):
                    nn.init.constant_(getattr(self, name + suffix), value)

    def weights(self) -> list[Tensor]:
        """Return the weights as the engines take them: those of a unit in one tensor a lane."""
        weights = super().weights()
        count = len(self.cell.weights)
        if count < 2:
            return weights
        per_lane, joined = len(self._all_weights[0]), []
        for start in range(0, len(weights), per_lane):
            lane = weights[start : start + per_lane]
            joined += [*lane[:-count], torch.cat(lane[-count:])]
        return joined

    # --- states ---

    def _initial(self, x: Tensor, B: int) -> State:
        """Return the state that a sequence begins with, h_0 and the engines' c_0."""
        lanes, H = self.spec.layers * self.spec.directions, self.hidden_size
        h0 = x.new_zeros(lanes, B, H)
        values = [self.cell.initial_states[name] for name in self.cell.states]
        if self.cell.is_h or not values:
            h0 = x.new_full((lanes, B, H), values[0]) if values and values[0] else h0
            return h0, h0
        parts = [x.new_full((lanes, B, H), value) for value in values]
        if "h" in self.cell.states:
            h0 = parts[self.cell.states.index("h")]
        return h0, torch.cat(parts, -1)

    def _state(self, hx: Any, batched: bool) -> State:
        if "h" not in self.cell.states or self.cell.is_h:
            return super()._state(hx, batched)
        others = [name for name in self.cell.states if name != "h"]
        if not isinstance(hx, tuple | list) or len(hx) != 1 + len(others):
            expected = ", ".join(f"{name}_0" for name in ("h", *others))
            raise ValueError(f"hx: got {type(hx).__name__}; expected a tuple ({expected})")
        named = dict(zip(("h", *others), hx, strict=True))
        return super()._state((hx[0], *[named[name] for name in self.cell.states]), batched)

    def _joined(self, h: Tensor, c: Tensor) -> Any:
        if not self.spec.has_c:
            return h
        parts = zip(self.cell.states, c.chunk(self.spec.c_parts, dim=-1), strict=True)
        return h, *[part for name, part in parts if name != "h"]

    def _infer(self, x: Any, hx: Any) -> Any:
        return None  # whose states are not nn.LSTM's
