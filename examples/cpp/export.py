"""`python examples/cpp/export.py RUN FOLDER`: a trained model for the C++ program here.

RUN is the directory of a run, as lm.train --save makes it. FOLDER gets model.pt2, compiled by
AOTInductor for any number of steps and rows, and vocabulary.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lm.checkpoint import load
from lm.model import LM_LSTM


def compile_model(model: LM_LSTM, path: Path) -> None:
    """Compile a model, with sizes T and B that may vary, to a package at `path`."""
    shape = torch.export.Dim("T", max=1 << 20), torch.export.Dim("B", max=1 << 16)
    inputs = torch.zeros(3, 2, dtype=torch.int64)  # neither is 1, which would be taken as fixed
    states = {1: shape[1]}
    with torch.no_grad():
        program = torch.export.export(
            model, (inputs, model.init_hidden(2)),
            dynamic_shapes=(dict(enumerate(shape)), (states, states)),
        )  # fmt: skip
    sizes = {"layers": str(model.lstm.num_layers), "hidden": str(model.lstm.hidden_size)}
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs={"aot_inductor.metadata": sizes}
    )


def main() -> None:
    """Export a run."""
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/cpp/export.py RUN FOLDER")
    run, folder = map(Path, sys.argv[1:])
    checkpoint = load(run)
    folder.mkdir(parents=True, exist_ok=True)
    compile_model(checkpoint.model("native").eval(), folder / "model.pt2")
    (folder / "vocabulary.txt").write_text("\n".join(checkpoint.vocabulary) + "\n")


if __name__ == "__main__":
    main()
