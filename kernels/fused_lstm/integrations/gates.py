"""A layer whose gates come from outside, as xLSTM's, TiRex's and DreamerV3's, on any engine.

T, B, H, N, K: time steps, batch, hidden size, heads, H / N. G: gates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..call.choose import choose, constant_while_tracing
from ..call.run import autocast_dtype
from ..call.spec import Spec, spec_of
from ..operator import ops, recurrence
from ..operator.pullback import is_differentiated, is_transformed

OPS = {"native": ops.NATIVE, "triton": ops.TRITON}


def cells_in(model: nn.Module, kind: type, package: str) -> list[Any]:
    """Return a model's cells of a class of `package`; ValueError where there are none."""
    cells = [module for module in model.modules() if isinstance(module, kind)]
    if not cells:
        raise ValueError(
            f"model: got {type(model).__name__}; expected one with cells of {package}'s"
        )
    return cells


def run_gates(
    spec: Spec,
    engine: str,
    gates: Tensor,
    states: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    not_reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a layer, forwards in time, whose gates' part of x has been made.

    Args:
        spec: the cell, with its heads.
        engine: as fused_lstm.LSTM takes it.
        gates: [T, B, G*H], in the dtype that the call is computed in, unless autocast is on.
        states: [S, B, H], h and what is beside it, in the order of `Spec.states`.
        weight_hh: [N, G*K, K].
        bias: [G*H], added to the gates.
        not_reset: bool [T, B], false where a row's state is 0 before that step; or None.

    Returns:
        h after each step [T, B, H], and the last states [S, B, H].

    Raises:
        RuntimeError: the engine cannot run on the gates' device; says why.
    """
    if torch.compiler.is_compiling():
        name = _chosen_in_a_graph(engine, gates.device, spec.text)
    else:
        name = choose(engine, None, gates.device, spec).engine
    dtype = autocast_dtype(gates)
    with torch.autocast(gates.device.type, enabled=False):
        h0, *rest = states.to(dtype).unbind(0)
        y, h_n, c_n, _ = recurrence.recur(
            OPS.get(name), recurrence.cell_of(spec), with_bias(gates, bias).to(dtype), h0,
            torch.cat(rest, dim=-1) if rest else h0, weight_hh.to(dtype), not_reset=not_reset,
        )  # fmt: skip
        return y, torch.stack([h_n, *(c_n.chunk(len(rest), dim=-1) if rest else ())])


@constant_while_tracing
def _chosen_in_a_graph(engine: str, device: torch.device, text: str) -> str:
    """Return the engine that runs the Spec of a text, as a constant for torch.compile."""
    return choose(engine, None, device, spec_of(text)).engine


def with_bias(gates: Tensor, bias: Tensor) -> Tensor:
    """Return gates + bias, contiguous: a sum of gates that lie batch first would lie so too."""
    if gates.is_contiguous() or is_transformed():  # vmap may not write to what has no batch
        return gates + bias
    dtype = torch.result_type(gates, bias)
    if not is_differentiated(gates, bias):
        return torch.add(
            gates, bias, out=torch.empty(gates.shape, dtype=dtype, device=gates.device)
        )
    return gates.to(dtype, copy=True, memory_format=torch.contiguous_format).add_(bias)
