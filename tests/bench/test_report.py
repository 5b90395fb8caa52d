"""The report's page and figures, the tables of README and docs, and pytest --benchmark-only."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from bench.core import Record, save

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SVG = "{http://www.w3.org/2000/svg}"


def record(suite: str, contender: str, mode: str, ms: float, **more) -> Record:
    seconds = tuple(1e-3 * ms * wobble for wobble in (0.99, 1.0, 1.0, 1.0, 1.02))
    fields = {"case": "medium", "machine": "A Processor", "versions": {"torch": "9"}, "error": 1e-6,
        "date": "2026-01-01", "group": suite, "threads": 2} | more  # fmt: skip
    extra = {"tokens": 700} | fields.pop("extra", {})
    return Record(suite, contender=contender, mode=mode, seconds=seconds, extra=extra, **fields)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the report of a made-up run has written."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")
    from bench.report import main

    records = [
        record("layers/best", label, mode, ms)
        for label, ms in {"native-layers": 1.9, "cudnn": 4.0, "jax": 9.0}.items()
        for mode in ("inference", "step")
    ]
    for label, ms in {"tensorflow": 300.0, "jax": 290.0}.items():
        records += [
            record("post/train", label, "train", ms),
            record("post/train", label, "rest", 100.0),
        ]
    inside = {"lstm_seconds": [0.08]}
    records.append(record("post/train", "stock-cudnn", "train", 250.0, extra=inside, foreign=0.4))
    calls = {"p50": 1e-5, "worst": 4e-5, "calls": 57}
    records.append(record("serve/streams", "streaming", "call", 0.01, extra=calls))
    records.append(Record("post/train", "", "flashrnn", "", why="runs on cuda, not on cpu"))
    folder = tmp_path_factory.mktemp("report")
    save(folder / "run.jsonl", records)
    assert main([str(folder / "run.jsonl"), "-o", str(folder)]) == 0
    return folder


def test_the_page_has_each_suites_tables_and_who_is_missing(written):
    text = (written / "report.md").read_text()
    assert text.splitlines()[2] == "**The machine was busy: other work took 40% of it.**"
    assert "| PyTorch, nn.LSTM: oneDNN | 7,400 | 2,800 (1.20x) | 32% |" in text
    assert "## post/train: the post's own table" in text
    assert "| medium, float32, 2 threads | nn.LSTM (oneDNN) | 4 | 4 |" in text
    assert "0.01 / 0.04 (worst of 57)" in text
    assert "| post/train | FlashRNN | runs on cuda, not on cpu |" in text


def test_a_figure_shrinks_on_a_phone_and_has_a_dark_mode(written):
    text = (written / "report.md").read_text()
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(path.name for path in written.glob("*.svg"))
    assert shown == ["layers-best.svg", "post-train.svg"]
    for file in shown:
        svg = (written / file).read_text()
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert "viewBox" in root.attrib
        assert "width" not in root.attrib, "it would not shrink on a phone"
        assert "prefers-color-scheme: dark" in svg
        drawn = svg.partition("</style>")[2]
        assert 'fill="#1a1a1a"' in drawn, "ink for a viewer that knows no style sheet"
        assert "var(" not in svg
        assert 'style="' not in drawn, "a style is stronger than the rules of the dark mode"


def test_a_report_of_a_file_that_cannot_be_read_is_one_line(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")
    from bench.report import main

    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "run.jsonl"), "-o", str(tmp_path)])
    assert stopped.value.code == 2
    assert "No such file" in capsys.readouterr().err.splitlines()[-1]
    other = tmp_path / "pytest-benchmark.json"
    other.write_text('{"machine_info": {}, "benchmarks": [{"name": "a", "stats": {"min": 1}}]}')
    with pytest.raises(SystemExit) as stopped:
        main([str(other), "-o", str(tmp_path)])
    assert stopped.value.code == 2
    assert "lacks contender, seconds, suite; expected" in capsys.readouterr().err.splitlines()[-1]


# --- links, and who imports whom ---


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        name, _, place = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if place:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert place in map(anchor, headings), link


def test_the_map_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Map")[2]
    names = re.findall(r"`([\w./*-]+(?:\.(?:py|h|cpp|md|yml)|/))`", text)
    there = [
        p for f in ("kernels", "lm", "bench", "tests", "examples") for p in (ROOT / f).rglob("*")
    ]
    there = [f"/{p.relative_to(ROOT)}{'/' * p.is_dir()}" for p in [*there, *ROOT.iterdir()]]
    assert not [name for name in names if not fnmatch.filter(there, f"*/{name}")]


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("lm", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(name: str, path: Path) -> set[str]:
    """Return the modules of lm and bench that a module imports when it is loaded."""
    package, names = name.rpartition(".")[0].split("."), set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return (names & MODULES.keys()) - {name}


def test_no_circle_of_imports():
    graph = {name: imports(name, path) for name, path in MODULES.items()}
    assert graph["bench.layers"] >= {"bench.cases", "bench.core"}
    TopologicalSorter(graph).prepare()  # names a circle where there is one
    assert not {m for name in graph if name.startswith("lm") for m in graph[name] if m[:2] != "lm"}


# --- pytest --benchmark-only ---


def pytest_in(*arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    # Under pytest-xdist, as in `make test`, pytest-benchmark would refuse to time.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = outside | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_plain_pytest_times_nothing():
    done = pytest_in("--collect-only", "-q", "bench")
    assert "bench_lstm" not in done.stdout
    assert "no tests" in done.stdout


def test_pytest_benchmark_times_and_checks(tmp_path):
    """Plain pytest-benchmark: groups by case, extra_info."""
    file = tmp_path / "run.json"
    only = ["bench", "--benchmark-only", "-q", "-k", "small and inference and (cudnn or loop-none)"]
    done = pytest_in(*only, f"--benchmark-json={file}")
    assert done.returncode == 0, done.stdout
    assert "benchmark 'small (l2t20b20h200), inference': 2 tests" in done.stdout
    run = json.loads(file.read_text())
    assert "node" not in run["machine_info"]
    assert len(run["benchmarks"]) == 2
    for facts in (bench["extra_info"] for bench in run["benchmarks"]):
        assert facts["GF/s"] > 0
        assert facts["x nn.LSTM"] > 0
        assert facts["max_error"] < 1e-5
