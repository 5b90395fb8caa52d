"""ONNX export: the nodes LSTM, GRU and RNN of ONNX for a call of a recurrent layer.

torch.onnx.export(..., dynamo=True) traces `run`, which emits a node for each layer. ONNX's
operators have peepholes, coupled gates and rows of unequal length, which torch's exporter does not
support.

T, B, I, H: time steps, batch, input size, hidden size. D: directions, 1 or 2. L: layers. G: gates.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call.spec import Spec
from ..reference import Layer, by_layer, pointwise

OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
ACTIVATIONS = {"rnn_tanh": "Tanh", "rnn_relu": "Relu"}
# Gates in ONNX's order, as numbers in torch's: LSTM i, o, f, g; GRU z, r, n.
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
VERSION = 14  # of the three operators
# Why a call has no node, by the argument that it has and ONNX's operators lack.
REASONS = {
    "input": "has padded rows and their lengths",
    "resets": "begins a row at its first step only",
    "return_states": "returns the last c alone",
    "proj_size": "has no projection: its h has hidden_size units",
    "layer_norm": "normalizes nothing",
    "zoneout": "replaces the state of every unit at every step",
    "num_heads": "has one block of recurrent weights",
    "recurrent_dropout": "has no dropout; export model.eval()",
}


def operator_of(spec: Spec) -> str | None:
    """Return ONNX's operator for a cell, or None."""
    return "GRU" if is_reset_before(spec) else OPERATORS.get(spec.cell)


def is_reset_before(spec: Spec) -> bool:
    """Return whether a cell is zoo.gru_reset_before, which ONNX's GRU has as an attribute."""
    zoo = sys.modules.get(__name__.replace("operator.onnx", "zoo"))
    return zoo is not None and spec.cell == zoo.gru_reset_before.name


def check(spec: Spec, packed: bool, resets: Tensor | None, return_states: bool) -> None:
    """Raise ValueError for a call that ONNX's operators do not have; the error names it."""
    operator = operator_of(spec)
    if operator is None:
        raise ValueError(
            f"cell: got {spec.cell!r}; expected one of {', '.join(OPERATORS)} for ONNX"
        )
    refused: dict[str, Any] = {
        "input": "PackedSequence" if packed else None,
        "resets": "a tensor" if resets is not None else None,
        "return_states": True if return_states else None,
        "proj_size": "a projection" if spec.projection else None,
        "layer_norm": True if spec.layer_norm else None,
        "zoneout": spec.zones if any(spec.zones) else None,
        "num_heads": spec.num_heads if spec.num_heads > 1 else None,
    }
    if spec.training:
        refused["recurrent_dropout"] = spec.recurrent_dropout or None
    for name, value in refused.items():
        if value is not None:
            wanted = "padded rows with lengths=" if name == "input" else "none"
            reason = f"ONNX's {operator} {REASONS[name]}"
            raise ValueError(f"{name}: got {value}; expected {wanted}: {reason}")


def run(
    spec: Spec, x: Tensor, h0: Tensor, c0: Tensor, weights: Sequence[Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a call's nodes: x [T, B, I], h0 and c0 [L * D, B, H] -> y [T, B, D * H], h_n, c_n.

    Args:
        weights: in the order of `Spec.weights`, lane by lane.
        lengths: [B], the number of steps of each row, or None.
    """
    D, lanes = spec.directions, by_layer(weights, len(h0), spec)
    sizes = None if lengths is None else lengths.to(torch.int32)
    y, last_h, last_c = x, [], []
    for layer in range(spec.layers):
        if layer > 0 and spec.dropout > 0:
            y = F.dropout(y, spec.dropout, spec.training)
        of_layer = slice(layer * D, layer * D + D)
        y, h, c = _layer(spec, y, h0[of_layer], c0[of_layer], lanes[of_layer], sizes)
        last_h.append(h)
        last_c.append(c)
    h_n = torch.cat(last_h)
    return y, h_n, torch.cat(last_c) if spec.has_c else h_n


def _layer(
    spec: Spec, x: Tensor, h0: Tensor, c0: Tensor, lanes: Sequence[Layer], sizes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Add one layer's node; c is h where the cell has none."""
    operator = operator_of(spec)
    assert operator is not None
    if is_reset_before(spec):
        lanes = [_whole_gru(lane) for lane in lanes]
    (T, B), (D, _, H) = x.shape[:2], h0.shape
    w, r = (torch.stack([_rows(spec, w) for w in of]) for of in _pairs(lanes, "w_ih", "w_hh"))
    bias = None
    if spec.bias:
        parts = [torch.cat([_rows(spec, lane.b_ih), _rows(spec, lane.b_hh)]) for lane in lanes]
        bias = torch.stack(parts)
    attributes: dict[str, Any] = {
        "hidden_size": H,
        "direction": "bidirectional" if D == 2 else "reverse" if spec.reverse else "forward",
    }
    inputs = [x, w, r, bias, sizes, h0]
    if operator == "GRU":
        # 1: the reset gate multiplies R h + b, as torch's does; 0: h.
        attributes["linear_before_reset"] = int(not is_reset_before(spec))
    elif operator == "RNN":
        attributes["activations"] = [ACTIVATIONS[spec.cell]] * D
    else:
        peepholes = (
            torch.stack([_peepholes(spec, lane) for lane in lanes]) if spec.peephole else None
        )
        inputs += [c0, peepholes]
        attributes["input_forget"] = int(spec.coupled)
    shapes = [[T, D, B, H], [D, B, H]] + [[D, B, H]] * spec.has_c
    y, *last = torch.onnx.ops.symbolic_multi_out(
        operator, inputs, attributes, dtypes=[x.dtype] * len(shapes), shapes=shapes, version=VERSION
    )
    return y.transpose(1, 2).flatten(2), last[0], last[-1]


def _whole_gru(lane: Layer) -> Layer:
    """Return zoo.gru_reset_before's lane with the product of n among the others of h."""
    assert lane.w_ch is not None
    b_hh = None if lane.b_hh is None else torch.cat([lane.b_hh, lane.w_ch])
    return lane._replace(w_hh=torch.cat([lane.w_hh, *(lane.w_inner or ())]), b_hh=b_hh)


def _pairs(lanes: Sequence[Layer], *names: str) -> list[list[Tensor]]:
    """Return, for each name, the weights of that name of all lanes."""
    return [[getattr(lane, name) for lane in lanes] for name in names]


def _rows(spec: Spec, weight: Tensor | None) -> Tensor:
    """Return a weight's rows [G * H, ...] in ONNX's order of gates."""
    assert weight is not None
    if spec.coupled:
        weight = pointwise.four_gates(weight)
    order = ORDER[str(operator_of(spec))]
    gates = weight.chunk(len(order))
    return torch.cat([gates[n] for n in order])


def _peepholes(spec: Spec, lane: Layer) -> Tensor:
    """Return a lane's peepholes [3 * H] in ONNX's order i, o, f."""
    assert lane.w_ch is not None
    if spec.coupled:  # f = 1 - i has no peephole
        i, o = lane.w_ch.chunk(2)
        return torch.cat([i, o, torch.zeros_like(i)])
    i, f, o = lane.w_ch.chunk(3)
    return torch.cat([i, o, f])
