"""Tables and facts: what tables.toml makes of records; README and docs as their files give them."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")

from bench import __main__, core, docs, suites, tables, zoo
from bench.core import Record

ROOT = Path(__file__).parents[2]


def record(contender: str, mode: str, *seconds: float, group: str = "g", **more) -> tables.Record:
    fields = {"case": "small", "machine": "A Processor", "date": "2026-01-01", "threads": 2} | more
    extra = fields.pop("extra", {})
    made = Record("suite", contender=contender, mode=mode, seconds=seconds, group=group,
        extra=extra, **fields)  # fmt: skip
    return tables.flat(made.line())


def table(text: str, records: list[tables.Record]) -> list[str]:
    """Return the lines of a table that a piece of TOML defines, of these records."""
    return tables.table_of(tomllib.loads(text), records).splitlines()


# --- the pivot ---

BOTH = """
by = [{heading = "case", says = "{case}"}, {heading = "threads", says = "{threads}"}]
columns = [
    {heading = "ours", of = "ours", value = "ms"},
    {heading = "both", of = ["theirs", "ours"], value = "ms → ms, times", mode = "step"},
    {heading = "nobody's", of = "nobody", value = "ms"},
]
"""


def test_rows_are_the_values_of_a_field_and_what_has_no_figure_is_left_out():
    records = [record("ours", "step", 0.002, case="a"),
        record("ours", "step", 0.004, case="b", threads=1),
        record("theirs", "step", 0.006, case="b", threads=1)]  # fmt: skip
    lines = table(BOTH, records)
    assert lines[0] == "| case | threads | ours | both |"
    assert lines[2:] == ["| a | 2 | 2 | - |", "| b | 1 | 4 | 6 → 4, 1.50x |"]


def test_listed_rows_have_labels_and_a_row_of_texts():
    text = """
    headings = ["level"]
    rows = [
        {says = "published", cells = ["1 ms", "-"]},
        {says = "loop", labels = {x = "loop", below = ""}},
        {says = "+ steps", labels = {x = "steps", below = "loop"}},
    ]
    columns = [
        {heading = "ms", of = "x", value = "ms"},
        {heading = "times", of = ["below", "x"], value = "times"},
    ]
    """
    lines = table(text, [record("loop", "step", 0.004), record("steps", "step", 0.002)])
    assert lines[2:] == [
        "| published | 1 ms | - |", "| loop | 4 |  |", "| + steps | 2 | 2.00x |",
    ]  # fmt: skip


def test_a_format_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"value: got 'hours'; expected of ms, p50 / worst"):
        table(BOTH.replace('value = "ms"', 'value = "hours"'), [record("ours", "step", 1.0)])


def test_a_label_may_be_of_another_mode_or_the_first_that_is_there():
    records = [record("ours", "plain", 0.002), record("ours", "zoneout", 0.003),
        record("keras", "zoneout", 0.009), record("a", "zoneout", 0.008)]  # fmt: skip
    group = {(r["contender"], r["mode"]): r for r in records}
    assert tables.find(group, "ours @ plain", "zoneout") is records[0]
    assert tables.find(group, "torch | keras", "zoneout") is records[2]
    assert tables.find(group, "fastest of keras | a", "zoneout") is records[3]
    assert tables.find(group, "keras", "plain") is None


def test_a_factor_of_several_processes_has_their_spread_and_that_within_one():
    records = [
        record(contender, "step", seconds, seconds, group=group)
        for group, theirs in (("a", 4.0), ("b", 3.0))
        for contender, seconds in (("theirs", theirs), ("ours", 2.0))
    ]
    picks = tables.pick(records, {}, ["theirs", "ours"])
    assert [factor.value for factor in tables.factors(picks)] == [1.5, 2.0]
    assert tables.ends(picks).startswith("1.75x (2 processes: 1.50 to 2.00; range of 2 rounds")
    assert tables.spread(picks) == "2 processes: 1.50 to 2.00"
    assert tables.FORMATS["ms"](tables.pick(records, {}, ["theirs"])) == "3,500"


def test_no_factor_is_told_from_noise():
    picks = [(record("a", "m", 1.0, 9.0, 2.0, 8.0), record("b", "m", 9.0, 1.0, 8.0, 2.0))]
    assert tables.times(picks) == "no difference seen"
    assert tables.clear(picks) == []


def test_few_calls_have_a_worst_and_their_number():
    few = {"p50": 1e-3, "worst": 4e-3, "calls": 57}
    many = few | {"p99": 2e-3, "calls": 1000}
    says = [
        tables.FORMATS["p50 / p99"]([(record("x", "call", 1.0, extra=e),)]) for e in (few, many)
    ]
    assert says == ["1 / 4 (worst of 57)", "1 / 2"]
    assert tables.FORMATS["calls"]([(record("x", "call", 1.0, extra=many),)]) == "1,000"


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "No such file"), ("nonsense", "is no file of records"), ("[1]", "lacks case"),
        ('{"suite": "s"}', "lacks case")],
    ids=["none", "text", "list", "object"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(text, says, tmp_path):
    file = tmp_path / "run.jsonl"
    if text:
        file.write_text(text)
    with pytest.raises(ValueError, match=rf"{file}: .*{says}"):
        tables.load(file)


# --- facts ---

NOW = {"gain": "1.90", "share": "49% to 82%"}


def test_a_sentence_whose_fact_has_changed_is_named_and_has_the_new_number():
    text = "It is 1.83<!--gain--> times\nas fast."
    new, changed = docs.quoted(text, NOW, {"gain": "1.83"})
    assert new == "It is 1.90<!--gain--> times\nas fast."
    assert changed == ["It is 1.83 (gain is now 1.90)"]
    assert docs.quoted(new, NOW, NOW) == (new, [])


def test_a_fact_may_be_broken_over_lines():
    text = "which is 49% to\n82%<!--share--> of it"
    assert docs.quoted(text, NOW, NOW) == (text, [])


@pytest.mark.parametrize(
    ("text", "says"),
    [("2.00<!--gain-->", "fact gain: got '2.00' before its name; expected '1.90'"),
        ("2.00<!--gian-->", "fact: got 'gian'; expected of gain, share")],
    ids=["another number", "another name"],
)  # fmt: skip
def test_a_number_that_is_no_fact_is_refused(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        docs.quoted(text, NOW, NOW)


# --- README and docs ---


@pytest.fixture(scope="module")
def made() -> tuple[dict[Path, str], list[str]]:
    """Return all that is made of results files, which takes ten seconds, and changed sentences."""
    return docs.files()


def test_pages_and_figures_are_what_the_results_give(made):
    files, changed = made
    assert not changed, "run `make docs`, and read these sentences again"
    wrong = [
        str(path.relative_to(ROOT))
        for path, text in files.items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert not wrong, "run `make docs`"


def test_every_table_and_every_fact_is_somewhere():
    texts = [path.read_text(encoding="utf-8") for path in docs.pages()]
    names = {name for text in texts for _, name, _ in docs.MARKED.findall(text)}
    assert names == tables.definitions()["table"].keys() | docs.PROGRAMS.keys()
    quoted = {name for text in texts for name in docs.NAMED.findall(text)}
    # The file is what the results give, as the test above has seen.
    assert quoted == json.loads(docs.FACTS.read_text(encoding="utf-8")).keys()


def test_check_changes_nothing_and_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "files", lambda: ({page: "new"}, []))
    monkeypatch.setattr(docs, "older", list)
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().out == "page.md: is not what its files give\n"
    assert page.read_text() == "old"
    assert docs.main([]) == docs.main(["--check"]) == 0
    assert page.read_text() == "new"


def test_a_cells_lines_and_paper_are_those_of_its_function():
    for row in tables.definitions()["table"]["custom"]["rows"]:
        function = zoo.ALL[row["cell"]].function
        _, paper, lines = row["says"]
        assert function.__doc__ == f"Follow {paper}."
        source = [line for line in inspect.getsource(function).splitlines() if line.strip()]
        assert len([line for line in source if '"""' not in line]) == int(lines)


def test_results_that_are_older_than_their_code_are_listed_with_their_command(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    line = '{"suite": "post/train", "case": "c", "contender": "a", "mode": "m", "commit": "0"}\n'
    (tmp_path / "post.jsonl").write_text(line)
    assert docs.older() == [
        "post: 0, changes of its code: unknown\n    python -m bench post --json post.jsonl  # 3 min"
    ]


def test_every_results_file_has_a_command_that_can_be_read():
    measured = tables.definitions()["measured"]
    assert measured.keys() == {path.stem for path in tables.RESULTS.glob("*.jsonl")}
    for name, of in measured.items():
        options = __main__.parse([*shlex.split(of["command"]), "--device=cpu", "--json=out/r"])
        assert {r["suite"] for r in tables.read(name)} <= {
            part for suite in options.names for part in suites.parts(suite)
        }


def test_no_row_of_the_results_is_of_an_uncommitted_tree():
    for path in tables.RESULTS.glob("*.jsonl"):
        for one in tables.load(path):
            core.check_committed(path, one["commit"])
            assert one["machine"], path.name


def test_readmes_factors_are_of_one_machine_and_on_its_first_screen():
    of = tables.definitions()["table"]["first_screen"]
    places = {r["machine"] for row in of["rows"] for r in tables.read(row.get("file", of["file"]))}
    assert len({tables.cpu(place) for place in places}) == 1
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.index("## Use it") < 45, "the first screen"


def test_the_run_of_the_fusions_was_quiet():
    busy = {r["group"]: r["foreign"] for r in tables.read("ladder")}
    assert max(busy.values()) <= core.BUSY, busy
