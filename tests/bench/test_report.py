"""The report's page and figures, the tables of README and docs, and pytest --benchmark-only."""

from __future__ import annotations

import ast
import dataclasses
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
SHAPE = {"T": 35, "B": 20, "I": 650, "H": 650, "L": 2}
MADE_UP = {"loop-none": 8.0, "native-pointwise": 7.0, "native-steps": 2.0, "native-layers": 1.9,
    "cudnn": 4.0}  # fmt: skip


def report():
    """The module, which draws."""
    pytest.importorskip("pandas", reason="tables need pandas: pip install '.[plot]'")
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")
    from bench import report

    return report


def record(suite: str, contender: str, mode: str, ms: float, **more) -> Record:
    seconds = tuple(1e-3 * ms * wobble for wobble in (0.99, 1.0, 1.0, 1.0, 1.02))
    fields = {"case": "medium", "machine": "A Processor", "versions": {"torch": "9"}, "error": 1e-6,
        "date": "2026-01-01", "group": suite, "threads": 2} | more  # fmt: skip
    extra = {"shape": SHAPE, "tokens": 700, "flops": 10**9} | fields.pop("extra", {})
    return Record(suite, contender=contender, mode=mode, seconds=seconds, extra=extra, **fields)


def everything() -> list[Record]:
    """A made-up run of every suite that the page shows."""
    records = [record("lstm", label, mode, ms, memory=10**6)
               for label, ms in MADE_UP.items() for mode in ("inference", "step")]  # fmt: skip
    kinds = {f"{kind}_{way}": 10**8 for kind in ("weights", "gradients", "intermediates")
        for way in ("read", "written")}  # fmt: skip
    counts = {"launches": 7, "flop": 10**9, "isa": "avx2", "predicted": {"launches": 0.001}}
    climbed = zip(("loop", "pointwise", "hoisted", "steps", "layers", "nn.LSTM"),
        (8.0, 7.0, 4.0, 2.0, 1.9, 4.0), strict=True)  # fmt: skip
    records += [record("ladder", label, "step", ms, extra=counts | kinds) for label, ms in climbed]
    for label, ms in {"tensorflow": 300.0, "jax": 290.0}.items():
        records.append(record("post", label, "train", ms))
        records.append(record("post", label, "rest", 100.0))
    inside = {"lstm_seconds": [0.08]}
    for label, ms in (("stock-cudnn", 250.0), ("stock-loop-none", 500.0), ("native-layers", 130.0)):
        records.append(record("post", label, "train", ms, extra=inside))
    records += [record("peers", label, "step", ms) for label, ms in (("jax", 9.0), ("cudnn", 4.0))]
    for label in ("cudnn", "native-layers"):
        records.append(record("inference", label, "inference", 3.0))
        for count in (0, 2):
            about = {"neighbours": count, "p50": 1e-3, "worst": 2e-3, "calls": 50}
            records.append(record("busy", label, "inference", 1.0, extra=about))
        records += [record("scaling", label, "step", n, case=f"T={n}") for n in (5, 10)]
    about = {"p50": 1e-5, "p99": 3e-5, "worst": 4e-5, "calls": 1000}
    records.append(record("streaming", "streaming", "call", 0.01, extra=about))
    return [*records, Record("post", "", "haste", "", why="runs on cuda, not on cpu")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the report of such a run has written."""
    main = report().main

    folder = tmp_path_factory.mktemp("report")
    save(folder / "run.jsonl", everything())
    assert main([str(folder / "run.jsonl"), "-o", str(folder)]) == 0
    return folder


def test_the_page_opens_with_the_answer_and_a_figure_of_words_per_second(written):
    title, sentence, figure, *_ = (written / "report.md").read_text().split("\n\n")
    assert title == "# Why is a fused LSTM faster, and by how much here?"
    assert "takes 1.9 ms forward and backward at medium" in sentence
    assert "takes 8: 4.21x (" in sentence
    assert "`pointwise` accounts for 1.14x, `hoisted` for 1.75x" in sentence
    assert figure.endswith("(answer.svg)")


def test_every_figure_has_a_caption_one_unit_and_both_modes(written):
    text = (written / "report.md").read_text()
    shown = re.findall(r"!\[([^]]+)\]\(([^)]+)\)\n\n\*([^*]+)\*", text)
    assert {file for _, file, _ in shown} == {path.name for path in written.glob("*.svg")}
    assert len(shown) == 2
    for alternative, file, caption in shown:
        assert alternative == caption
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


def test_the_factor_is_taken_apart_and_who_is_missing_is_named(written):
    text = (written / "report.md").read_text()
    assert "nn.LSTM trains 1.20x as fast" in text
    assert "LSTM takes 200 of its 300 ms per step, nn.LSTM 80 ms" in text
    assert "| post | Haste | runs on cuda, not on cpu |" in text
    assert "No GPU was measured." in text


def frame(records: list[Record]):
    from bench.tables import of_records

    return of_records(records)


def test_a_table_leaves_out_rows_and_figures_that_have_no_record():
    from bench.tables import By, Table, column

    records = [record("suite", "ours", "step", 2.0, case="a"),
        record("suite", "ours", "step", 4.0, case="b", threads=1),
        record("suite", "theirs", "step", 6.0, case="b", threads=1)]  # fmt: skip
    rows = [By("case", "case"), By("threads", "threads")]
    both = column("both", "ms → ms", "theirs", "ours", mode="step")
    columns = [column("ours", "ms", "ours"), both]
    lines = Table("", rows, columns).of(frame(records)).splitlines()
    assert lines[0] == "| case | threads | ours | both |"
    assert lines[2:] == ["| a | 2 | 2 | - |", "| b | 1 | 4 | 6 → 4, 1.50x |"]


def test_a_table_shows_the_worst_of_few_calls():
    from bench.tables import By, Table, column

    few = {"p50": 1e-3, "worst": 4e-3, "calls": 57}
    many = few | {"p99": 2e-3, "calls": 1000}
    records = [record("suite", "ours", "call", 1.0, case=case, extra=extra)
        for case, extra in (("few", few), ("many", many))]  # fmt: skip
    table = Table("", [By("case", "case")], [column("ours", "p50 / p99", "ours")])
    lines = table.of(frame(records)).splitlines()
    assert lines[2:] == ["| few | 1 / 4 (worst of 57) |", "| many | 1 / 2 |"]


def test_a_busy_machine_is_said_at_the_head():
    page = report().tell(frame([dataclasses.replace(r, foreign=0.4) for r in everything()]))
    assert page.blocks[1] == "**The machine was busy: other work took 40% of it.**"


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "No such file"), ("nonsense", "is no file of records"), ("[1]", "lacks case"),
        ('{"suite": "s"}', "lacks case")],
    ids=["none", "text", "list", "object"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(text, says, tmp_path, capsys):
    file = tmp_path / "run.jsonl"
    if text:
        file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        report().main([str(file), "-o", str(tmp_path)])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{file}: " in last
    assert says in last


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
    assert graph["bench.lstm"] >= {"bench.cases", "bench.core"}
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
