"""`python -m bench.gradients`: errors of bfloat16 gradients, nn.LSTM's and ours, by hidden size.

On a CPU nn.LSTM in bfloat16 is oneDNN's layer, another one for each instruction set. Every gradient
is compared with nn.LSTM's in float64, on the same rounded weights and inputs: the largest error as
a part of the gradient's largest value, of x's and all weights' gradients.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from . import core, machine
from .cases import Shape
from .contenders import NN_LSTM, OURS, Contender
from .layers import local, make_problem

SIZES = (512, 1000, 1024, 1056, 1280, 1500, 2048)
T, B, I = 4, 8, 32


def errors(H: int) -> dict[str, float]:
    """Return who -> the largest error of a gradient, as a part of the gradient's largest value."""
    problem = make_problem(Shape(T, B, I, H, 1), dtype=torch.bfloat16)
    right = problem.in_dtype(torch.float64).expected()
    found = {}
    for name, contender in (("nn.LSTM", NN_LSTM), ("native", Contender(OURS, "native", "layers"))):
        answer = local(contender, problem).answer()
        found[name] = max(
            core.relative_error(answer[key], value)
            for key, value in right.items()
            if key.endswith(".grad")
        )
    return found


def main() -> None:
    """Print the errors, and write them to a file."""
    parser = argparse.ArgumentParser("bench.gradients", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, default=Path("out/bf16-gradients.json"))
    path = parser.parse_args().json
    core.check_committed(path, machine.commit())
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
