"""README's answer and docs/why.md: each number in them is the results file's."""

from __future__ import annotations

import re

import pytest

from bench import answer, core


def test_pages_and_figures_are_what_the_results_file_gives():
    wrong = [path.name for path, _ in answer.outdated()]
    assert not wrong, f"{', '.join(wrong)}: run `make docs`"


def test_a_changed_number_is_seen(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    text = answer.made("<!-- table answer -->\n<!-- end -->\n")
    page.write_text(text.replace("times", "time"))
    monkeypatch.setattr(answer, "PAGES", (page,))
    monkeypatch.setattr(answer, "FIGURES", {})
    monkeypatch.setattr(answer, "ROOT", tmp_path)
    assert [path for path, _ in answer.outdated()] == [page]
    assert answer.main(["--check"]) == 1
    assert answer.main([]) == 0
    assert answer.main(["--check"]) == 0
    assert page.read_text() == text


def first_screen() -> str:
    """Return README up to its second table, without code."""
    text = answer.PAGES[0].read_text(encoding="utf-8").partition("\n## When it is faster")[0]
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_the_first_screen_has_no_measured_number_outside_a_block():
    """The text outside blocks has the post's own numbers, sizes, the date, and Zen 4."""
    text = answer.MARKED.sub("", first_screen())
    numbers = set(re.findall(r"(?<![\w.])\d[\d,.]*\d|\b\d\b", text))
    stated = {
        "1080",
        "7,400",
        "3,800",
        "11",
        "2017",
        "2",
        "650",
        "20",
        "35",
        "200",
        "1500",
        "2014",
        "4",
    }
    assert numbers <= stated, numbers - stated


def test_tables_of_the_first_screen_have_five_columns_at_most():
    rows = [line for line in first_screen().splitlines() if line.startswith("|")]
    assert rows
    assert max(line.count("|") - 1 for line in rows) <= 5


def test_no_factor_is_told_from_noise():
    """Where an interval has 1 in it and is wide, the page says so and has no factor."""
    for (case, dtype, threads), _ in answer.groups().items():
        rungs = answer.climbed(case, dtype, threads)
        for gain in answer.gains(rungs):
            assert ("x" in str(gain)) == gain.clear


def test_the_run_was_quiet():
    busy = {r.group: r.foreign for of in answer.groups().values() for r in of.values()}
    assert busy
    assert max(busy.values()) <= core.BUSY, busy


@pytest.mark.parametrize("name", answer.BLOCKS)
def test_every_block_stands_somewhere(name):
    assert any(f"<!-- table {name} -->" in page.read_text() for page in answer.PAGES)
