"""How the library hangs together: no circle of imports, and code that every Triton can read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fused_lstm

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


@cache
def graph() -> dict[str, set[str]]:
    """Return the modules that each of ours imports."""
    return {name: imports(name, path) for name, path in MODULES.items()}


def test_no_circle_of_imports():
    assert graph()["fused_lstm.reference.ladder"] >= {
        "fused_lstm.reference.stack",
        "fused_lstm.reference",
    }
    TopologicalSorter(graph()).prepare()  # names a circle where there is one


@pytest.mark.parametrize(
    "module",
    [
        "training.dropout",
        "training.cross_entropy",
        "reference.stack",
        "operator.ops",
        "operator.autograd",
        "call.rows",
        "call.layout",
    ],
)
def test_what_is_below_the_engines_imports_none(module):
    reached, todo = set(), [f"fused_lstm.{module}"]
    while todo:
        reached.add(here := todo.pop())
        todo += graph()[here] - reached
    assert not {m for m in reached if m.startswith(("fused_lstm.native", "fused_lstm.triton"))}


# --- what Triton compiles ---


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
    assert seen > 80
    assert not found
