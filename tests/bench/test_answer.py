"""README, docs/why.md and the report: each measured number in them is a results file's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="tables need pandas: pip install '.[plot]'")
pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")

from bench import answer, core, docs, ladder, model, tables
from bench.core import Record

ROOT = Path(__file__).parents[2]
FILES = docs.files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_figures_and_the_report_are_what_the_results_give(path):
    assert path.read_text(encoding="utf-8") == FILES[path], "run `make docs`"


def test_every_block_is_somewhere_and_a_changed_one_is_made_again(monkeypatch, capsys, tmp_path):
    texts = {path: path.read_text(encoding="utf-8") for path in FILES if path.suffix == ".md"}
    names = {name for text in texts.values() for _, name, _ in docs.MARKED.findall(text)}
    assert names == docs.BLOCKS.keys()
    page = tmp_path / "page.md"
    right = docs.made("<!-- table answer -->\n<!-- end -->\n")
    page.write_text(right.replace("times", "time"))
    assert docs.made(page.read_text()) == right
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "files", lambda: {page: right})
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().out == "page.md: is not what its files give\n"
    assert docs.main([]) == docs.main(["--check"]) == 0
    assert page.read_text() == right


# A time, a rate or a factor in the words of a page, which is in no results file -> whose it is.
QUANTITY = re.compile(
    r"(?<![\w.])\d[\d,.]*(?: to \d[\d,.]*)?"
    r"(?:%| ?(?:times|x|ms|us|[GT]F(?:LOP)?/s|[GT]B/s|words/s)\b)"
)
CARD, H100 = model.GTX_1080, model.H100
STATED = {
    "README.md": {"95%": "of an interval"},
    "why.md": {
        f"{CARD.flops / 1e12:g} TFLOP/s": "data sheet",
        f"{CARD.bandwidth / 1e9:g} GB/s": "the same",
        f"{H100.flops / 1e12:g} TFLOP/s": "data sheet",
        f"{H100.bandwidth / 1e12:g} TB/s": "the same",
        f"{model.H100_L2 / 1e12:g} TB/s": "assumed", f"{1e6 * H100.launch:g} us": "assumed",
        "2 to 10 us": "assumed", "10 times": "assumed", "95%": "of an interval",
        "5%": "of an interval",
    },
}  # fmt: skip


@pytest.mark.parametrize("page", STATED)
def test_every_other_quantity_in_a_sentence_has_a_source(page):
    """A measured one belongs in a block, which its results file makes."""
    path = next(path for path in FILES if path.name == page)
    words = re.sub(r"```.*?```", "", docs.MARKED.sub("", path.read_text()), flags=re.DOTALL)
    quantities = {re.sub(r"\s+", " ", quantity) for quantity in QUANTITY.findall(words)}
    assert quantities <= STATED[page].keys(), quantities - STATED[page].keys()


def first_screen() -> str:
    """Return README up to its second table, without code."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## When it is faster")[0]
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_the_first_screen_has_no_measured_number_outside_a_block():
    """The text outside blocks has the post's own numbers, sizes, the date, and Zen 4."""
    text = docs.MARKED.sub("", first_screen())
    numbers = set(re.findall(r"(?<![\w.])\d[\d,.]*\d|\b\d\b", text))
    stated = {"1080", "7,400", "3,800", "11", "2017", "2", "650", "20", "35"}
    stated |= {"200", "1500", "2014", "4"}
    assert numbers <= stated, numbers - stated


def test_tables_of_the_first_screen_have_five_columns_at_most():
    rows = [line for line in first_screen().splitlines() if line.startswith("|")]
    assert rows
    assert max(line.count("|") - 1 for line in rows) <= 5


def test_the_report_opens_with_the_ladders_answer():
    title, sentence, figure, *_ = FILES[tables.RESULTS / "cpu" / "report.md"].split("\n\n")
    assert title == "# Why is a fused LSTM faster, and by how much here?"
    whole = core.speedup(answer.climbed()[0], answer.climbed()[-1])
    assert whole.text in sentence
    assert figure.endswith("(answer.svg)")


def test_no_factor_is_told_from_noise():
    """Rounds that scatter by far more than they differ: no factor is printed."""
    kinds = {f"{kind}_{way}": 8 for kind in ("weights", "gradients", "intermediates")
        for way in ("read", "written")}  # fmt: skip
    facts = {"launches": 2, "flop": 8, "isa": "avx2", "predicted": {"launches": 1.0}} | kinds
    noisy = [
        Record("ladder", "tiny", label, "step", seconds, group="g", extra=facts)
        for label, seconds in (("loop", (1.0, 9.0, 2.0, 8.0)), ("pointwise", (9.0, 1.0, 8.0, 2.0)))
    ]
    text = answer.ladder_table(tables.rows(tables.of_records(noisy)))
    assert "no difference seen" in text
    assert "1.00x" not in text


def test_a_ladder_on_a_gpu_has_no_model_and_no_cores():
    counts = {f"{kind}_{way}": 10**7 for kind in model.KINDS for way in ("read", "written")}
    facts = {"launches": 7, "flop": 10**9, "isa": ""} | counts
    labels, times = ("loop", *ladder.LEVELS, "nn.LSTM"), (9.0, 8.0, 5.0, 2.0, 1.0, 3.0)
    about = {"dtype": "bfloat16", "device": "cuda", "machine": "NVIDIA H100", "group": "g"}
    frame = tables.of_records(
        Record("ladder", "medium", label, "step", (s, s, s), extra=facts, **about)
        for label, s in zip(labels, times, strict=True)
    )
    assert answer.sentence(frame).startswith("**On an NVIDIA H100 a fused LSTM takes 1,000 ms")
    text = answer.ladders(frame)
    assert "| step loop | 7 | 40 | - / 9,000 |" in text
    assert "| medium, bfloat16, cuda | 9,000 → 1,000 |" in text


def test_the_ladders_are_told_with_what_is_beside_them():
    text = answer.ladders(tables.results("ladder.jsonl"))
    for name in (
        "step loop",
        *(f"+ {fuse}" for fuse in ladder.LEVELS),
        "nn.LSTM",
        "small, AVX2, 1 core",
    ):
        assert name in text


def test_the_run_was_quiet():
    busy = {row.group: row.foreign for row in tables.rows(tables.results("ladder.jsonl"))}
    assert max(busy.values()) <= core.BUSY, busy
