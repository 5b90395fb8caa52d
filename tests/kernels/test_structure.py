"""How the library hangs together: no circle of imports, and few calls from a model to a kernel."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType

import pytest
import torch

import fused_lstm
from cases import rungs
from lm.model import LM_LSTM

PACKAGE = Path(fused_lstm.__file__).parent
MODULES = {
    ".".join(("fused_lstm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


# --- imports ---


def imports(name: str, path: Path) -> set[str]:
    """The modules of ours that a module names in an import, wherever in it that stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level]
            whole = parts if node.level else []
            source = ".".join([*whole, *([node.module] if node.module else [])])
            inside = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {source}
    return (found & MODULES.keys()) - {name}


def test_no_circle_of_imports():
    graph = {name: imports(name, path) for name, path in MODULES.items()}
    assert graph["fused_lstm.loop"] >= {"fused_lstm.stack", "fused_lstm.reference"}
    TopologicalSorter(graph).prepare()  # names a circle where there is one


@pytest.mark.parametrize("module", ["dropout", "cross_entropy", "stack", "ops", "derivatives"])
def test_what_is_below_the_engines_imports_none(module):
    name = f"fused_lstm.{module}"
    graph = {name: imports(name, path) for name, path in MODULES.items()}
    reached, todo = set(), [name]
    while todo:
        reached.add(here := todo.pop())
        todo += graph[here] - reached
    assert not {m for m in reached if m.startswith(("fused_lstm.native", "fused_lstm.triton"))}


# --- calls ---

OURS = (str(PACKAGE), str(PACKAGE.parents[1] / "lm"))
KERNELS = {"lstm", "sigmoid"}  # torch's, as engines cudnn and loop end in


def is_kernel(frame: FrameType, event: str, argument) -> bool:
    """Whether a kernel is launched here: what is below is its, or PyTorch's or Triton's, affair."""
    if event == "c_call":
        return argument.__name__ in KERNELS
    file, name = frame.f_code.co_filename, frame.f_code.co_name
    if name == "__call__" and file.endswith("torch/_ops.py"):
        return str(frame.f_locals["self"]).startswith("fused_lstm_native.")
    return name in ("run", "__call__") and "triton/runtime" in file


def calls_to_a_kernel(model: LM_LSTM, *inputs) -> list[list[str]]:
    """At each launch in model(*inputs), the calls of our own code that led there, in order."""
    found, launched = [], []

    def watch(frame: FrameType, event: str, argument) -> None:
        if launched:  # inside one
            if event in ("return", "c_return") and frame is launched[-1]:
                launched.pop()
            return
        if event not in ("call", "c_call") or not is_kernel(frame, event, argument):
            return
        launched.append(frame)
        calls = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(OURS):
                calls.append(frame.f_code.co_qualname)
            frame = frame.f_back
        if "LM_LSTM.features" in calls:
            found.append(calls[calls.index("LM_LSTM.features") :: -1])

    sys.setprofile(watch)
    try:
        model(*inputs)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_at_most_eight_calls_to_a_kernel(engine, fuse, training):
    """CONTRIBUTING.md lists them."""
    model = LM_LSTM(8, 3, 2, 11, 2, 0.5, lstm=engine, fuse=fuse).train(training)
    inputs = torch.zeros(3, 2, dtype=torch.int64), model.init_hidden()
    with torch.set_grad_enabled(training):
        model(*inputs)  # loads the engine
        found = calls_to_a_kernel(model, *inputs)
    assert found, "no kernel was seen"
    longest = max(found, key=len)
    assert len(longest) <= 8, " > ".join(longest)


# --- sizes ---

SOURCES = [p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".h", ".cpp")]


def test_a_file_is_one_idea():
    assert len(SOURCES) > 60
    long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > 350}
    assert not long, "over 350 lines"


def compiled_functions() -> Iterator[ast.FunctionDef]:
    """What Triton compiles: kernels, and helpers that they call."""
    for path in sorted((PACKAGE / "triton").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            if any(ast.unparse(d).startswith(("helper", "triton.jit")) for d in decorators):
                yield node


def test_triton_3_6_can_read_every_assignment():
    """Before it compiles it looks for a function's names, and knows no tuple within a target."""
    seen, found = 0, []
    for function in compiled_functions():
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                seen += 1
                if not all(isinstance(e, ast.Name) for e in node.targets[0].elts):
                    found.append(f"{function.name}: {ast.unparse(node.targets[0])}")
    assert seen > 100
    assert not found


def test_a_kernel_fits_on_two_screens():
    """90 lines, 22 arguments; a tuple of pointers is one."""
    seen = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                seen[node.name] = node.end_lineno - node.lineno + 1, len(node.args.args)
    assert {"lstm_sweep_fwd_kernel", "lstm_sweep_bwd_kernel", "dropout_kernel"} <= set(seen)
    large = {name: size for name, size in seen.items() if size[0] > 90 or size[1] > 22}
    assert not large, "lines and arguments"
