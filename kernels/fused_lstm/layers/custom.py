"""`Recurrent`: layers of a cell that `fused_lstm.cell` has made of a function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..call.choose import why_no_cell
from ..call.layout import State, check_dense, check_input, check_packed_as, data_of, with_data
from ..call.spec import OFF, Spec, directions_of
from ..cells import Cell
from ..operator import library
from .modules import RecurrentBase


def in_order(weight: Tensor, rows: list[int] | None, H: int) -> Tensor:
    """Return a weight [G*H, ..], or of heads [N, G*K, K], with its gates in another order."""
    if rows is None:
        return weight
    if weight.dim() == 3:
        return weight.unflatten(1, (-1, weight.shape[2]))[:, rows].flatten(1, 2)
    return weight.unflatten(0, (-1, H))[rows].flatten(0, 1)


def padded(vectors: list[Tensor], counts: list[int], length: int) -> list[Tensor]:
    """Return vectors, of which each may be some in a row, with zeros behind every one."""
    each = [one for v, count in zip(vectors, counts, strict=True) for one in v.chunk(count)]
    return [F.pad(v, (0, length - len(v))) for v in each]


def with_inputs(
    module: Any, cell: Cell | None, input: Any, inputs: dict[str, Tensor], every_unit: bool = False
) -> tuple[Any, int]:
    """Return x with a cell's inputs behind it, all as wide, and how wide it is then.

    module: has sizes and the layout. every_unit: a number of each unit, even where one was given.
    """
    names, units = () if cell is None else cell.inputs, module.spec.units
    widths = [module.hidden_size] * len(names) if units is None else units.inputs
    if sorted(inputs) != sorted(names):
        got, expected = ", ".join(inputs) or "none", ", ".join(names) or "none"
        raise ValueError(f"inputs: got {got}; expected the cell's: {expected}")
    x = data_of(input)
    check_input(x, (2, 3) if x is input else (2,), module.input_size, module.batch_first)
    before, given = list(x.shape[:-1]), []
    steps = 1 if module.batch_first and x.dim() == 3 else 0  # where T is
    row = before[:steps] + before[steps + 1 :]
    for name, H in zip(names, widths, strict=True):
        check_packed_as(name, inputs[name], input)
        got: Any = data_of(inputs[name])
        if isinstance(got, Tensor):
            check_dense(name, got)
            if got.is_complex():
                raise ValueError(f"{name}: got {got.dtype}; expected real numbers")
        shape = list(got.shape) if isinstance(got, Tensor) else type(got).__name__
        if x is input and shape in ([*row, 1], [*row, H]):  # the same at each step
            got = got.unsqueeze(steps).expand(*before, -1)
        elif shape not in ([*before, 1], [*before, H]):
            expected = f"{[*before, 1]} or {[*before, H]}"
            expected += ", or without T" if x is input else ""
            raise ValueError(f"{name}: got {shape}; expected {expected}")
        given.append(got.to(x.dtype))
    if every_unit or len({tensor.shape[-1] for tensor in given}) > 1:
        given = [t.expand(*before, H) for t, H in zip(given, widths, strict=True)]
    joined = torch.cat([x, *given], -1)
    return with_data(input, joined), joined.shape[-1]


class Recurrent(RecurrentBase):
    """Layers of a cell of your own, with fused_lstm.LSTM's layouts and engines.

        rnn = fused_lstm.Recurrent(lltm, input_size, hidden_size, num_layers=2)
        y, (h_n, c_n) = rnn(x, lengths=lengths)

    A lane's parameters are nn.LSTM's, with rows in the order of the cell's gates, then the cell's
    weights by their names, [H] each: tau_l0, tau_l0_reverse, .... weight_ih and bias_ih have H rows
    for each gate that x has a part in, weight_hh and bias_hh for each that h has a part in; where
    that is none, as in SRU, there is neither. A product u of n columns inside the step has
    weight_u_l0 [n*H, H] and, where there are biases, bias_u_l0 [n*H]; with `units` it is [n*M, M']
    where u makes M units of M' that it multiplies.

    Args:
        cell: what `fused_lstm.cell` made.
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as of nn.LSTM.
        engine, fuse: as of fused_lstm.LSTM. With "auto", on a CPU without a C++ compiler, a step
            loop runs, and a warning says so once. "native" is an error there.
        proj_size: as of nn.LSTM, P, for a cell that has gates of h, a state beside h, and none that
            is h.
        layer_norm: normalize W x and R h before they are gates, with gains gain_ih and gain_hh, for
            a cell that has gates of h and no inputs.
        num_heads: as of fused_lstm.LSTM, for a cell that has gates of h and no weights of a unit.
        zoneout, recurrent_dropout: as of fused_lstm.LSTM, for a cell of one state. zoneout of a
            cell whose state is h alone is one number.
        units: how many units values have, of a cell with products: name of a gate, a product, a
            state or an input -> a number. All gates of a cell have the same; a product's values,
            and those that they meet, have what it makes. A state has at most hidden_size. Others
            have hidden_size.
        reverse, recompute: as of fused_lstm.LSTM.

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
        proj_size: int = 0,
        layer_norm: bool = False,
        num_heads: int = 1,
        reverse: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        recompute: int | None = None,
        units: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(cell, Cell):
            raise ValueError(
                f"cell: got {type(cell).__name__}; expected what fused_lstm.cell makes"
            )
        if units is not None and not isinstance(units, Mapping):
            raise ValueError(
                f"units: got {units!r}; expected a mapping: name of a gate, a product, a state or"
                " an input -> number"
            )
        options = {"layer_norm": layer_norm, "num_heads": None if num_heads == 1 else num_heads,
            "zoneout": zoneout, "recurrent_dropout": recurrent_dropout}  # fmt: skip
        for name, why in cell.refused().items():
            if options[name] not in OFF:
                raise ValueError(
                    f"{name}: got it with cell {cell.__name__}, which has {why}; expected none"
                )
        spec = Spec(
            cell.name, layer_norm, zoneout=zoneout, recurrent_dropout=recurrent_dropout,
            layers=num_layers, directions=directions_of(bidirectional), bias=bias, dropout=dropout,
            recompute=recompute, num_heads=num_heads, projection=proj_size > 0, reverse=reverse,
            units=cell.units(hidden_size, units or {}),
        )  # fmt: skip
        if units and proj_size:
            raise ValueError(f"units: got {dict(units)} with proj_size; expected one of the two")
        if cell.inputs and num_layers > 1:
            raise ValueError(
                f"num_layers: got {num_layers} with cell {cell.__name__}, which has inputs;"
                " expected 1: the layers above would need them too"
            )
        self.cell = cell  # before spec: a pickle makes the cell known first
        self.units = dict(units or {})
        self._units_of_states = [hidden_size] * len(cell.states)
        if spec.units is not None:
            self._units_of_states = cell.widths_of("states", hidden_size, spec.units)
        super().__init__(
            "LSTM", spec, input_size, hidden_size, batch_first, proj_size, device, dtype, engine,
            fuse,
        )  # fmt: skip
        if engine in ("auto", "native") and self.weight_ih_l0.device.type == "cpu":
            why = library.load() or why_no_cell("native", spec)
            if why is not None and engine == "native":
                raise RuntimeError(f"engine 'native' cannot run cell {cell.__name__}: {why}")

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_states: bool = False,
        **inputs: Tensor,
    ) -> Any:
        """Run the layers, as fused_lstm.LSTM's `forward`.

        Args:
            inputs: what the cell has as `inputs`, by name, in the layout of `input`: [T, B, 1], or
                [T, B, H]. Without T, [B, 1] or [B, H], one is the same at each step, which a
                PackedSequence cannot have.
        """
        if resets is not None and any(self.cell.initial_states.values()):
            raise ValueError(
                f"resets: got a tensor; expected None with cell {self.cell.__name__}, whose states"
                " begin at other values than 0"
            )
        if not self.cell.inputs and not inputs:
            return super().forward(input, hx, lengths, resets, return_states)
        x, width = with_inputs(self, self.cell, input, inputs)
        return self._run(x, hx, lengths, resets, return_states, width)

    def _make_weights(self) -> None:
        super()._make_weights()
        stdv = self.hidden_size**-0.5
        like = cast("Tensor", self.weight_ih_l0)
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            gone = ["weight_ch"]  # what the engines have of all together
            gone += [f"weight_inner{k}" for k in range(len(self.cell.products))]
            if not self.cell.gates.by_h:
                gone += ["weight_hh", "bias_hh"]
            for name in [name + suffix for name in gone if name + suffix in names]:
                del self._parameters[name]
                names.remove(name)
            for name, shape in self._own_shapes().items():
                weight = nn.Parameter(like.new_empty(shape))
                nn.init.uniform_(weight, -stdv, stdv)
                self.register_parameter(name + suffix, weight)
                names.append(name + suffix)
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the parameters that a lane has beside nn.LSTM's: name -> shape."""
        H, units, products = self.hidden_size, self.spec.units, self.cell.products
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(self.cell.weights, (H,))
        if units is not None:
            of_weights = self.cell.widths_of("weights", H, units)
            shapes = {name: (n,) for name, n in zip(self.cell.weights, of_weights, strict=False)}
        for k, (name, columns) in enumerate(products.items()):
            made, factor = (H, H) if units is None else (units.products[k], units.factors[k])
            shapes[f"weight_{name}"] = columns * made, factor
            if self.bias:
                shapes[f"bias_{name}"] = (columns * made,)
        return shapes

    def _gate_units(self) -> int:
        return self.hidden_size if self.spec.units is None else self.spec.units.gates

    def reset_cell(self) -> None:
        """Set the cell's weights to the initial values that it tells."""
        if "spec" not in vars(self):  # RNNBase.__init__ calls it too, without the cell's weights
            return
        super().reset_cell()
        for name, value in self.cell.initial_weights.items():
            for names in self._all_weights:
                suffix = names[0].removeprefix("weight_ih")
                if not math.isnan(value):
                    nn.init.constant_(getattr(self, name + suffix), value)

    def weights(self) -> list[Tensor]:
        """Return the weights as the engines take them, lane by lane.

        Rows of gates are in their order. Weights of a unit are one tensor, with the biases of
        products inside the step, and the weights of these products are another.
        """
        cell, H = self.cell, self.hidden_size
        x_rows, h_rows = cell.rows  # of the gates that have rows, which inputs do not
        weights = super().weights()
        if x_rows is None and h_rows is None and cell.gates.by_h and not cell.vectors:
            return weights
        named = dict(zip(self._flat_weights_names, weights, strict=True))
        rows, found, G = {"ih": x_rows, "hh": h_rows}, [], self._gate_units()
        longest = H if self.spec.units is None else self.spec.units.widest(H)
        for names in self._all_weights:
            lane = names[0].removeprefix("weight_ih")
            like, products = named[names[0]], iter(cell.products)
            for name in self.spec.weight_names:
                if name == "weight_ch":
                    vectors = [named[one + lane] for one in cell.weights]
                    for one, columns in cell.products.items():
                        bias = named.get(f"bias_{one}{lane}")
                        vectors.append(like.new_zeros(columns * longest) if bias is None else bias)
                    if self.spec.units is not None:
                        counts = [*[1] * len(cell.weights), *cell.products.values()]
                        vectors = padded(vectors, counts, longest)
                    found.append(torch.cat(vectors))
                elif name.startswith("weight_inner"):  # in the order of the cell's
                    found.append(named[f"weight_{next(products)}{lane}"])
                elif name + lane not in named:  # of h, which has a part in no gate
                    found.append(like.new_empty(0, *(H for _ in range("weight" in name))))
                else:
                    found.append(in_order(named[name + lane], rows.get(name[-2:]), G))
        return found

    def extra_repr(self) -> str:
        more = f", units={self.units}" if self.units else ""
        return f"{self.cell.__name__}, {super().extra_repr()}{more}"

    # --- states ---

    @property
    def _has_usual_states(self) -> bool:
        cell = self.cell
        usual = not cell.has_c or (len(cell.states) == 1 and "h" not in cell.states)
        return usual and self.spec.units is None and not any(cell.initial_states.values())

    def _initial(self, x: Tensor, B: int) -> State:
        """Return the state that a sequence begins with, h_0 and the engines' c_0."""
        lanes, H = self.spec.layers * self.spec.directions, self.hidden_size
        h0 = x.new_zeros(lanes, B, self.proj_size or H)
        values = [self.cell.initial_states[name] for name in self.cell.states]
        if self.cell.is_h or not values:
            h0 = x.new_full((lanes, B, H), values[0]) if values and values[0] else h0
            return h0, h0
        parts = [x.new_full((lanes, B, H), value) for value in values]
        if "h" in self.cell.states:
            h0 = parts[self.cell.states.index("h")]
        return h0, torch.cat(parts, -1)

    def _state(self, hx: Any, batched: bool) -> State:
        if not self.cell.has_c or ("h" not in self.cell.states and self.spec.units is None):
            return super()._state(hx, batched)
        others = [name for name in self.cell.states if name != "h"]
        if not isinstance(hx, tuple | list) or len(hx) != 1 + len(others):
            expected = ", ".join(f"{name}_0" for name in ("h", *others))
            raise ValueError(f"hx: got {type(hx).__name__}; expected a tuple ({expected})")
        named = dict(zip(("h", *others), hx, strict=True))
        for name, units in zip(self.cell.states, self._units_of_states, strict=True):
            named[name] = self._as_wide(name, named[name], units)
        return super()._state((hx[0], *[named[name] for name in self.cell.states]), batched)

    def _as_wide(self, name: str, state: Any, units: int) -> Any:
        """Return a state with zeros behind one that has fewer units than h."""
        if units == self.hidden_size or not isinstance(state, Tensor):
            return state
        if state.dim() == 0 or state.shape[-1] != units:
            got = list(state.shape)
            raise ValueError(f"{name}_0: got shape {got}; expected [..., {units}], as units= says")
        return F.pad(state, (0, self.hidden_size - units))

    def _joined(self, h: Tensor, c: Tensor) -> Any:
        if not self.spec.has_c:
            return h
        parts = c.chunk(self.spec.c_parts, dim=-1)
        if self.spec.units is not None:
            parts = [t[..., :n] for n, t in zip(self._units_of_states, parts, strict=True)]
        named = zip(self.cell.states, parts, strict=True)
        return h, *[part for name, part in named if name != "h"]
