"""README and docs agree with their results files; lm and bench have no circle of imports."""

from __future__ import annotations

import ast
import fnmatch
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")

from bench.report import documents

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("lm", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_what_their_files_give(path):
    text = path.read_text()
    assert documents.made(text) == text, "make docs"


def test_every_table_is_somewhere_and_a_changed_one_is_made_again():
    texts = "".join(path.read_text() for path in DOCUMENTS)
    assert set(documents.TABLES) == {name for _, name, _ in documents.MARKED.findall(texts)}
    start = texts.index("<!-- table perplexity -->")
    changed = texts[:start] + texts[start:].replace("115.86", "115.85", 1)
    assert documents.made(changed) == texts != changed


def test_check_names_what_differs(monkeypatch, capsys, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- table perplexity -->\n<!-- end -->\n")
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    assert documents.main(["--check"]) == 1
    assert capsys.readouterr().out == "README.md: is not what its files give\n"
    assert documents.main([]) == 0
    assert documents.main(["--check"]) == 0


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        name, _, place = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if place:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert place in map(anchor, headings), link


def test_the_map_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where things are")[2]
    names = re.findall(r"`([\w./*-]+(?:\.(?:py|h|cpp|md|yml)|/))`", text)
    assert len(names) > 80
    there = [
        p for folder in ("kernels", "lm", "bench", "tests") for p in (ROOT / folder).rglob("*")
    ]
    there = [
        f"/{path.relative_to(ROOT)}{'/' * path.is_dir()}" for path in [*there, *ROOT.iterdir()]
    ]
    assert not [name for name in names if not fnmatch.filter(there, f"*/{name}")]


def imports(name: str, path: Path) -> set[str]:
    """The modules of lm and bench that a module imports when it is loaded, or within a function."""
    package, found = name.rpartition(".")[0].split("."), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return (found & MODULES.keys()) - {name}


def test_no_circle_of_imports():
    graph = {name: imports(name, path) for name, path in MODULES.items()}
    assert graph["bench.race"] >= {"bench.alone", "bench.training", "bench.measure.check"}
    TopologicalSorter(graph).prepare()  # names a circle where there is one
    assert not {m for name in graph if name.startswith("lm") for m in graph[name] if m[:2] != "lm"}


def test_a_file_is_one_idea():
    long = {name: n for name, p in MODULES.items() if (n := len(p.read_text().splitlines())) > 350}
    assert not long, "over 350 lines"
