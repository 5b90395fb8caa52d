"""Docstrings by the rule of CONTRIBUTING: a function's starts with a verb, nothing with "What"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
# No rule of grammar tells a verb from a noun: a verb that is missing is added.
VERBS = """
    accumulate add allocate allow apply ask assert assign begin bind build call capture carry cast
    check choose classify clear climb clip close collect combine compare compile compute continue
    convert copy count create decide decode define delete derive describe divide do download drain
    draw drop encode end ensure estimate evaluate exchange expand export fail fill find finish fit
    flatten follow forward free fuse gather generate get give go guard hand have hear hide hold
    ignore implement import initialize insert install interleave join keep launch leave let limit
    list
    load lock look lower make map mark mask measure meet merge move multiply name normalize note
    open order pack pad parse pass patch pause permute pick place plan plot predict prefetch
    prepare print project provide publish push put quantize raise read rearrange rebuild receive
    record reduce refuse register release remove rename repeat replace report request reserve
    reset reshape restore resume return reverse round run sample save say scale scatter score see
    select send serve set share shift shorten show skip solve sort split stack start state step
    stop store stream sum swap switch take tell test tile time trace train transform transpose
    truncate tune turn undo unpack unregister unscale unsort update upload use validate verify
    visit wait warn widen wrap write yield zero
"""
# Words that leave the subject of a class or a module unnamed.
UNNAMED = "what who whom whose of those these as whether where which why when how others"


def documented(root: Path) -> Iterator[tuple[Path, DOCUMENTED, str]]:
    """Yield each function, class and module under a folder that has a docstring."""
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                yield path, node, text


def is_property(node: DOCUMENTED) -> bool:
    """Return whether a function is read as an attribute, which a noun describes."""
    names = () if isinstance(node, ast.Module) else map(ast.unparse, node.decorator_list)
    return any(name.split(".")[-1] in ("property", "cached_property", "setter") for name in names)


def offends(node: DOCUMENTED, text: str) -> bool:
    """Return whether a docstring breaks the rule."""
    word = text.split()[0].rstrip(".,:;")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_property(node):
        return not word[:1].isupper() or word.lower() not in VERBS.split()
    return word.lower() in UNNAMED.split()


def offenders(folder: str) -> list[str]:
    """Return `file:line name: first line` of each docstring under a folder that breaks the rule."""
    lines = []
    for path, node, text in documented(ROOT / folder):
        if not offends(node, text):
            continue
        name, line = getattr(node, "name", "module"), getattr(node, "lineno", 1)
        lines.append(f"{path.relative_to(ROOT)}:{line} {name}: {text.splitlines()[0]}")
    return lines


@pytest.mark.parametrize("folder", ["kernels", "lm", "bench"])
def test_a_docstring_starts_with_a_verb(folder):
    assert not (found := offenders(folder)), "\n".join(found)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ('def f(x):\n    """Return x."""', False),
        ('def f(x):\n    """What x is."""', True),
        ('def f(x):\n    """x [B, I] -> y [B, P]."""', True),
        ('def f(x):\n    """The mean of x."""', True),
        ('@property\ndef f(x):\n    """The mean of x."""', False),
        ('class F:\n    """A reader of files."""', False),
        ('class F:\n    """What a reader has kept."""', True),
        ('"""Where rows lie."""', True),
    ],
)
def test_the_rule_itself(source, wrong):
    tree = ast.parse(source)
    node = tree if ast.get_docstring(tree) else tree.body[0]
    assert isinstance(node, DOCUMENTED)
    assert offends(node, ast.get_docstring(node) or "") is wrong
