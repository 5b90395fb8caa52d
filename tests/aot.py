"""`python tests/aot.py NAME...`: layers exported, compiled by AOTInductor, loaded, compared.

Prints the operators of each layer's graph, then compiles all into one package, which takes half a
minute; without names, every layer and option.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fused_lstm
from tolerance import assert_close

I, H = 5, 8
SIZES = [(1, 1), (7, 4), (4, 1), (1, 3), (13, 6)]  # T, B: none of them is what was exported
# Of each layer: its class, its options, and what a call of it has beside x.
CASES = {
    "LSTM": ("LSTM", {"num_layers": 2}, ()),
    "layer_norm": ("LSTM", {"layer_norm": True}, ()),
    "peephole": ("LSTM", {"peephole": True}, ()),
    "coupled": ("LSTM", {"coupled": True}, ()),
    "zoneout": ("LSTM", {"zoneout": (0.1, 0.2)}, ()),
    "proj_size": ("LSTM", {"proj_size": 3, "num_layers": 2}, ()),
    "bidirectional": ("LSTM", {"bidirectional": True, "num_layers": 2}, ()),
    "together": (
        "LSTM",
        {"layer_norm": True, "peephole": True, "zoneout": 0.1, "bidirectional": True},
        (),
    ),
    "lengths": ("LSTM", {"bidirectional": True}, ("lengths",)),
    "resets": ("LSTM", {"bidirectional": True}, ("resets",)),
    "lengths-resets": ("LSTM", {"num_layers": 2}, ("lengths", "resets")),
    "heads": ("LSTM", {"num_heads": 2}, ()),
    "GRU": ("GRU", {"num_layers": 2, "bidirectional": True}, ()),
    "GRU-layer_norm": ("GRU", {"layer_norm": True, "zoneout": 0.1}, ()),
    "GRU-heads": ("GRU", {"num_heads": 2}, ()),
    "RNN": ("RNN", {"nonlinearity": "relu"}, ()),
    "SLSTM": ("SLSTM", {"num_heads": 2, "num_layers": 2}, ()),
    "SLSTM-lengths": ("SLSTM", {"exponential_forget": True}, ("lengths",)),
}


class Layers(nn.Module):
    """Several layers on one input, their outputs and states together."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        made = [(getattr(fused_lstm, kind), options) for kind, options, _ in map(CASES.get, names)]
        self.layers = nn.ModuleList(kind(I, H, engine="native", **o) for kind, o in made)
        self.called_with = [CASES[name][2] for name in names]

    def forward(self, x: Tensor, **arguments: Tensor) -> list:
        return [
            layer(x, **{name: arguments[name] for name in names})
            for layer, names in zip(self.layers, self.called_with, strict=True)
        ]


def arguments(names: Sequence[str], T: int, B: int) -> dict[str, Tensor]:
    """Return what a call of the layers has beside x."""
    has = {argument for name in names for argument in CASES[name][2]}
    made = {"lengths": torch.randint(1, T + 1, (B,)), "resets": torch.rand(T, B) < 0.3}
    return {name: tensor for name, tensor in made.items() if name in has}


@torch.no_grad()
def exported(model: Layers, names: Sequence[str]) -> torch.export.ExportedProgram:
    """Return the program of a model, with sizes T and B that may vary."""
    steps, rows = torch.export.Dim("T", max=1 << 20), torch.export.Dim("B", max=1 << 16)
    sizes, extra = {"lengths": {0: rows}, "resets": {0: steps, 1: rows}}, arguments(names, 4, 3)
    shapes = {"x": {0: steps, 1: rows}} | {name: sizes[name] for name in extra}
    return torch.export.export(model, (torch.randn(4, 3, I),), extra, dynamic_shapes=shapes)


def operators(program: torch.export.ExportedProgram) -> list[str]:
    """Return the calls of operators in a graph."""
    calls = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return [call for call in calls if "." in call]


@torch.no_grad()
def check(names: Sequence[str], model: Layers, program: torch.export.ExportedProgram) -> None:
    """Compile layers into one package, and compare it with the layers at other sizes."""
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=f"{folder}/layers.pt2",
            inductor_configs={  # headers made ready for later packages take longer than one
                "aot_inductor.compile_wrapper_opt_level": "O0",
                "aot_inductor.precompile_headers": False,
            },
        )  # fmt: skip
        package = torch._inductor.aoti_load_package(path)
        for T, B in SIZES:
            x, extra = torch.randn(T, B, I), arguments(names, T, B)
            leaves = (torch.utils._pytree.tree_leaves(m(x, **extra)) for m in (package, model))
            for n, (found, expected) in enumerate(zip(*leaves, strict=True)):
                assert_close(found, expected, f"output {n} at T={T}, B={B}")


def main(names: Sequence[str]) -> None:
    """Print the operators of each layer, and check the package of all."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in names:
        model = Layers([name]).eval()
        program = exported(model, [name])
        print(name, *operators(program), flush=True)
    if len(names) > 1:
        model = Layers(names).eval()
        program = exported(model, names)
    check(names, model, program)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
