"""Operators of Triton by a CUDA graph's rules: `python -m tests.in_a_graph` uses no host tensor.

All tensors are on the device `meta`, and the driver launches nothing (bench.gpu.dry). A graph's
capture begins after a first call; the second one is checked.

T, B, I, H, N, K: time steps, batch, input size, hidden size, heads, units of a head.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.gpu import dry
from fused_lstm.call.spec import CELLS, cell_of
from fused_lstm.operator.recurrence import LaneCell
from fused_lstm.triton import heads, launch, op
from fused_lstm.triton.devices import DEVICES

T, B, I, H, N = 3, 4, 32, 64, 2


class OnDevice(TorchDispatchMode):
    """An error where an operation of PyTorch's takes or makes a tensor on the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in tree_leaves((args, kwargs, out)):
            if isinstance(t, Tensor) and t.device.type != "meta":
                raise ValueError(f"{function}: got a tensor on {t.device}; expected none")
        return out


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def lstm(
    fuse: str = "layers", cell: str = "", rates: tuple[float, ...] = (), D: int = 1, P: int = 0,
    p: float = 0.0, resets: bool = False, lengths: bool = False,
) -> Callable[[], object]:  # fmt: skip
    """Return a call of two layers, forward and backward, and without anything saved."""
    spec, W = cell_of(cell, rates), P or H
    G, of_h = spec.gates * H, (CELLS[spec.cell].of_h - spec.coupled) * H
    weights = []
    for lane in range(2 * D):
        weights += [empty(G, I if lane < D else D * W), empty(of_h, W), empty(G), empty(of_h)]
        weights += [empty(P, H)] if P else []
        weights += [empty(G - H)] if spec.peephole else []
        if spec.layer_norm:
            weights += [empty(n) for n in (G, of_h, *((H, H) if spec.cell == "lstm" else ()))]
    rows = (T * B,) if lengths else (T, B)
    seed = empty(1, dtype=torch.int64) if p or rates else None
    call = empty(*rows, I), empty(2 * D, B, W), empty(2 * D, B, H), weights, p, seed, fuse
    options: dict[str, Any] = {"directions": D, "cell": cell, "rates": rates}
    options["not_reset"] = empty(D, *rows, dtype=torch.bool) if resets else None
    options["batch_sizes"] = torch.full((T,), B) if lengths else None

    def run() -> None:
        y, _, _, *saved = op.lstm(*call, True, **options)
        op.lstm_backward(y, None, None, *call, y, *saved, True, **options)
        op.lstm(*call, False, **options)

    return run


def recurrence(
    cell: str, K: int = 64, reverse: bool = False, resets: bool = False
) -> Callable[[], object]:
    """Return a call of heads, forward and backward, and without anything saved."""
    kernels = launch.kernel_cell(LaneCell(cell).spec)
    h0, c0 = empty(B, N * K), empty(B, kernels.states * N * K)
    weights = empty(N, kernels.by_h * K, K), empty(kernels.of_h * N * K) if kernels.of_h else None
    x_part = empty(T, B, kernels.by_x * N * K)
    mask = empty(T, B, dtype=torch.bool) if resets else None
    options: dict[str, Any] = {"reverse": reverse, "not_reset": mask}

    def run() -> None:
        y, h_n, _, *saved = heads.recurrence(x_part, h0, c0, *weights, cell, True, **options)
        heads.recurrence_backward(y, h_n, None, h0, c0, *weights, y, *saved, cell, **options)
        heads.recurrence(x_part, h0, c0, *weights, cell, False, **options)

    return run


CALLS = {
    "layers with dropout": lstm(p=0.5),
    "steps with dropout": lstm("steps", p=0.5),
    "both directions with resets": lstm(D=2, resets=True),
    "projected": lstm(P=16),
    "gru": lstm(cell="gru"),
    "every option": lstm(cell="layer_norm,peephole", rates=(0.3, 0.2, 0.1)),
    "heads of an slstm": recurrence("slstm"),
    "heads of a gru, backwards, with resets": recurrence("gru", reverse=True, resets=True),
    "heads that programs share": recurrence("slstm", K=256),
    "lengths": lstm(lengths=True),  # which lie on the host
}


def main(names: list[str]) -> None:
    """Print JSON: a call's name -> whether each of its launches is cooperative, or an error."""
    dry.take_over(DEVICES["H100"])
    found: dict[str, Any] = {}
    with torch.no_grad():
        for name in names:
            call = CALLS[name]
            call()
            dry.LAUNCHES.clear()
            try:
                with OnDevice():
                    call()
            except ValueError as error:
                found[name] = str(error)
            else:
                launches = [one for one in dry.LAUNCHES if one["kernel"].startswith("lstm")]
                found[name] = [one["cooperative"] for one in launches]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:] or [*CALLS])
