"""`python -m bench.gradients`: errors of bfloat16 gradients, nn.LSTM's and ours, by hidden size.

On a CPU nn.LSTM in bfloat16 is oneDNN's layer, another one for each instruction set. Every gradient
is compared with nn.LSTM's in float64, on the same rounded weights and inputs: the norm of the error
as a part of the norm of the gradient, the largest of x's, the states' and the weights'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm

from . import core

SIZES = (512, 1000, 1024, 1056, 1280, 1500, 2048)
T, B, I = 4, 8, 32


def gradients(layer: nn.Module, x: Tensor, h0: Tensor, c0: Tensor) -> list[Tensor]:
    """Return the gradients by x, the states and the weights of a fixed weighted sum of y."""
    inputs = [t.detach().requires_grad_() for t in (x, h0, c0)]
    y = layer(inputs[0], (inputs[1], inputs[2]))[0]
    by = torch.linspace(-1, 1, y.numel()).cos().view_as(y).to(y.dtype)
    return list(torch.autograd.grad(y, [*inputs, *layer.parameters()], by))


def errors(H: int) -> dict[str, float]:
    """Return the largest error of a gradient: who -> the error's norm as a part of its own."""
    torch.manual_seed(0)
    stock = nn.LSTM(I, H).to(torch.bfloat16)
    ours = fused_lstm.LSTM(I, H, engine="native", dtype=torch.bfloat16)
    exact = nn.LSTM(I, H).double()
    for layer in (ours, exact):
        layer.load_state_dict(stock.state_dict())
    tensors = [torch.randn(size).to(torch.bfloat16) for size in ((T, B, I), (1, B, H), (1, B, H))]
    right = gradients(exact, *(t.double() for t in tensors))
    found = {}
    for name, layer in (("nn.LSTM", stock), ("native", ours)):
        pairs = zip(gradients(layer, *tensors), right, strict=True)
        found[name] = max(float((g.double() - w).norm() / w.norm()) for g, w in pairs)
    return found


def main() -> None:
    """Print the errors, and write them to a file."""
    parser = argparse.ArgumentParser("bench.gradients", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, default=Path("out/bf16-gradients.json"))
    path = parser.parse_args().json
    rows: list[dict[str, Any]] = []
    for H in SIZES:
        found = errors(H)
        rows.append({"H": H} | found)
        print(f"H={H}:", ", ".join(f"{name} {e:.2g}" for name, e in found.items()), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = core.surroundings(core.CPU) | {"T": T, "B": B, "I": I, "rows": rows}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
