"""A kernel's source as a plan compiles it: what the plan's constants leave out is left out.

`python -m fused_lstm.tools.page` prints the forward of one lane of a plain LSTM in training, as
docs/gpu.md quotes it; with the word backward, its backward.
"""

from __future__ import annotations

import ast
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

NOTHING = "pass  # nothing is left"


def specialised(source: str, name: str, plan: Any) -> str:
    """Return the text of a function in a module's source, without the branches that PLAN does not
    take.

    Args:
        plan: the function's PLAN, a launch.Constants.
    """
    (text,) = (
        ast.get_source_segment(source, node) or ""
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    while True:  # one at a time: what it holds moves
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.If | ast.IfExp) and _is_known(node.test):
                taken = eval(compile(ast.Expression(node.test), "", "eval"), {"PLAN": plan})
                lines = text.splitlines()
                if isinstance(node, ast.If):
                    lines = _without(lines, node, bool(taken))
                else:
                    lines = _chosen(lines, node, bool(taken))
                text = "\n".join(lines)
                break
            if isinstance(node, ast.For) and _is_empty(node.iter, plan):
                lines = text.splitlines()
                lines[node.lineno - 1 : _end(node)] = [" " * node.col_offset + NOTHING]
                text = "\n".join(lines)
                break
        else:
            return _without_passes(text.splitlines()) + "\n"


def _is_known(test: ast.expr) -> bool:
    """Return whether a condition has nothing in it but PLAN's constants."""
    return {n.id for n in ast.walk(test) if isinstance(n, ast.Name)} == {"PLAN"}


def _is_empty(of: ast.expr, plan: Any) -> bool:
    """Return whether a loop is over a static_range of PLAN's constants that has no number."""
    if not isinstance(of, ast.Call) or ast.unparse(of.func) != "tl.static_range":
        return False
    if not all(map(_is_known, of.args[:1])):
        return False
    space = {"PLAN": plan}
    return not range(*(eval(compile(ast.Expression(a), "", "eval"), space) for a in of.args))


def _without(lines: list[str], node: ast.If, taken: bool) -> list[str]:
    """Return the lines with an `if`, or `elif`, replaced by what it comes to."""
    before, after = lines[: node.lineno - 1], lines[_end(node) :]
    then = lines[node.lineno : _end(node.body[-1])]  # with comments before its first statement
    others = lines[_end(node.body[-1]) : _end(node)]
    indent = " " * node.col_offset
    if lines[node.lineno - 1].lstrip().startswith("elif"):
        if taken:
            return [*before, indent + "else:", *then, *after]
        return [*before, *others, *after]
    if taken:
        return [*before, *(line[4:] for line in then), *after]
    if others and others[0].startswith(indent + "elif"):
        return [*before, others[0].replace("elif", "if", 1), *others[1:], *after]
    branch = [line[4:] for line in others[1:]]
    return [*before, *(branch or [indent + NOTHING]), *after]


def _without_passes(lines: list[str]) -> str:
    """Return the text without what stands for nothing, but where a block needs it."""
    for n in reversed([n for n, line in enumerate(lines) if line.endswith(NOTHING)]):
        shorter = lines[:n] + lines[n + 1 :]
        try:
            ast.parse("\n".join(shorter))
        except SyntaxError:
            lines[n] = lines[n].removesuffix(NOTHING) + "pass"
        else:
            lines = shorter
    return "\n".join(lines)


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _chosen(lines: list[str], node: ast.IfExp, taken: bool) -> list[str]:
    """Return the lines with `a if b else c` replaced by a or c, where it is on one line."""
    line, of = lines[node.lineno - 1], node.body if taken else node.orelse
    before, after = line[: node.col_offset], line[node.end_col_offset :]
    if before.endswith("(") and after.startswith(")") and not before[-2:-1].isalnum():
        before, after = before[:-1], after[1:]
    line = before + line[of.col_offset : of.end_col_offset] + after
    line = line.removesuffix(" - 0").removesuffix(" + 0")
    return [*lines[: node.lineno - 1], line, *lines[node.lineno :]]


def plain(direction: str) -> str:
    """Return the kernel of one lane of a plain LSTM, on an H100: from its weights on."""
    from ..triton import backward, devices, forward, launch
    from ..triton.plan import plan

    shape: dict[str, Any] = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "bf16"}
    chosen = plan("steps", direction, device=devices.DEVICES["H100"], **shape)
    constants = launch.constants(chosen, phases=chosen.phases()[0])
    module = {"forward": forward, "backward": backward}[direction]
    source = Path(module.__file__).read_text(encoding="utf-8")
    text = specialised(source, f"lstm_{direction}_kernel", constants)
    return textwrap.dedent(text[text.index("    # Weights") :])


if __name__ == "__main__":
    os.environ.setdefault("TRITON_INTERPRET", "1")
    sys.stdout.write(plain((sys.argv[1:] or ["forward"])[0]))
