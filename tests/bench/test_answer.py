"""README and docs: each measured number in them is a results file's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="tables need pandas: pip install '.[plot]'")
pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[plot]'")

from bench import answer, core, doc_tables, docs, ladder, model, tables
from bench.core import Record

ROOT = Path(__file__).parents[2]
PAGES = docs.pages()


@pytest.fixture(scope="module")
def files() -> dict[Path, str]:
    """Return all that is made of results files, which takes ten seconds."""
    return docs.files()


def test_pages_and_figures_are_what_the_results_give(files):
    wrong = [
        str(path.relative_to(ROOT))
        for path, text in files.items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert not wrong, "run `make docs`"


def test_every_block_is_somewhere_and_a_changed_one_is_made_again(monkeypatch, capsys, tmp_path):
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES}
    names = {name for text in texts.values() for _, name, _ in docs.MARKED.findall(text)}
    assert names == docs.BLOCKS.keys()
    page = tmp_path / "page.md"
    right = docs.made("<!-- table answer -->\n<!-- end -->\n")
    page.write_text(right.replace("times", "time"))
    assert docs.made(page.read_text()) == right
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "files", lambda: {page: right})
    monkeypatch.setattr(docs, "older", list)
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().out == "page.md: is not what its files give\n"
    assert docs.main([]) == docs.main(["--check"]) == 0
    assert page.read_text() == right


# --- numbers in sentences ---

# A time, a rate, a size or a factor; and any number with a decimal point or thousands.
NUMBER = r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
UNIT = (
    r"(?:%|x\b| ?(?:times|[num]?s|seconds|minutes|hours|[KMGT]i?B/s|[KMGT]i?B|[GT]F(?:LOP)?/s"
    r"|words/s|words (?:a|per) second)\b)"
)
QUANTITY = re.compile(
    rf"{NUMBER}(?: to {NUMBER})?{UNIT}|(?<![\w.,-])\d[\d,]*(?:\.\d+(?:e-?\d+)?|,\d\d\d)"
)
CARD, H100 = model.GTX_1080, model.H100
INTERVAL, THE_POST = "of an interval", "the post's own figure"
PAPER, LIMIT = "a published figure or paper", "a constant of the code"
VERSIONED = "Python|PyTorch|torch|oneDNN|Triton|TensorFlow|Opacus|ExecuTorch|arXiv"


def megabytes(numbers: int, bytes_each: int = 4) -> str:
    return f"{round(numbers * bytes_each / 1e6, 1):g} MB"


# Page -> each such number that stands outside blocks and code, and why it may.
STATED = {
    "README.md": {"7,400 words per second": THE_POST, "3,800": THE_POST},
    "cells.md": {"1.0": "TensorFlow's constant", "2.2": "a section of a paper"},
    "gpu.md": {
        "1 us": "assumed of a barrier",
        f"{H100.flops / 1e12:g} TFLOP/s": "data sheet",
        f"{H100.bandwidth / 1e12:g} TB/s": "the same", "50 MB": "the same",
        f"{model.H100_L2 / 1e12:g} TB/s": "assumed", f"{1e6 * H100.launch:g} us": "assumed",
        megabytes(4 * 1500 * 1500, 2): "R of large in bfloat16",
    },
    "models.md": {"32 MiB": "set in the command", "16 GiB": "the same", "1.0": "of FlashRNN"},
    "native.md": dict.fromkeys(
        ("1,024", "16,384", "384 KiB", "128 KiB", "16 MiB", "512 MiB", "2 MiB",
         "4 KiB", "150 us", "60 us"), LIMIT
    ) | {
        "1.2e-38": "float32's least normal", "2.2e-308": "float64's",
        "3.4027e38": "bfloat16's range",
    },
    "reproduce.md": dict.fromkeys(
        ("37.99", "121.39", "115.91", "48.45", "86.16", "82.07", "37.87", "82.62", "78.29",
        "78.04", "0.25"), PAPER
    ) | {"929,589": "tokens", "73,760": "tokens", "82,430": "tokens", "10,000": "words"},
    "will-it-help.md": {"95%": INTERVAL},
    "measured.md": {
        "95%": INTERVAL, "1,000": "core.ENOUGH", "32 MiB": "glibc's largest mmap threshold",
        megabytes(6400 * 4 * 512): "gates of 6,400 steps of rows at H = 512",
    },
    "why.md": {
        "7,400": THE_POST, "3,800 words per second": THE_POST,
        f"{CARD.flops / 1e12:g} TFLOP/s": "data sheet",
        f"{CARD.bandwidth / 1e9:g} GB/s": "the same", "2 MB": "the same",
        "3 to 10 us": "assumed", "70%": "assumed", "100%": "assumed",
        "79 times": "added_up(35) of bench/model.py", "3 times": "post_terms of it",
        "6 times": "the same", "6 to 10 times": "the same", "5.1": "of cuDNN",
        megabytes(4 * 1500 * 1500): "R of large",
        "128 KiB": "W and R at H = 64", megabytes(4 * 650 * 2 * 650): "W and R at H = 650",
    },
}  # fmt: skip


def words(path: Path) -> str:
    """Return a page without blocks, code, links' targets, versions and numbers of papers."""
    text = docs.MARKED.sub("", path.read_text(encoding="utf-8"))
    text = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(rf"\]\([^)]*\)|`[^`]*`|(?:{VERSIONED}) \d+\.\d+", " ", re.sub(r"\s+", " ", text))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_measured_number_stands_outside_a_block(path):
    """A measured number belongs in a block, which its results file makes."""
    assert set(QUANTITY.findall(words(path))) == STATED.get(path.name, {}).keys()


# A factor or a part in words, with the words around it.
COUNTS = "one|two|three|four|five|six|seven|eight|nine|ten|several|many|few"
PARTS = "thirds?|quarters?|fifths?|sixths?|eighths?|tenths?|hundredths?|thousandths?"
WORDED = re.compile(
    r"(?:\S+ ){0,2}\b(?:twice|thrice|double[sd]?|triple[sd]?|halves|halved|half(?! precision)"
    rf"|(?<!how )(?:{COUNTS}) times|(?:an?|{COUNTS}) (?:{PARTS})|(?:{COUNTS})-?fold|per ?cent"
    rf"|(?:{COUNTS}) in (?:{COUNTS})|(?:{COUNTS})(?: \w+)? in \d+|orders? of magnitude)\b"
    r"(?: \S+){0,3}",
    re.IGNORECASE,
)
# Page -> each such phrase outside blocks and code, and why it may stand there.
BUILT = "follows from how it is built"
WORDS: dict[str, dict[str, str]] = {
    "README.md": {"fused LSTM twice as fast as": THE_POST},
    "backward.md": {"writes its half of y, so": BUILT},
    "cells.md": {
        "as bfloat16, half the bytes. With": "two bytes and four",
        "more than a tenth of its largest": "core.TOLERANCE: no time is taken above it",
    },
    "gpu.md": {"program by an eighth of K. One": BUILT},
    "models.md": {
        "and to a thousandth in float32. Two": "core.TOLERANCE",
        "the batch one step in 33 begins an episode.": "so the cases are made",
    },
    "native.md": {
        "directions gets half of them; otherwise": BUILT,
        "Weights take a quarter of the memory,": "one byte and four",
        "at most a quarter larger than the": LIMIT,
        "and a half times what calls": LIMIT,
    },
    "why.md": {"cuDNN's, about twice as fast as": THE_POST},
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_measured_factor_stands_in_words(path):
    """ "Twice as fast" and "half of the time" are numbers too."""
    assert set(WORDED.findall(words(path))) == WORDS.get(path.name, {}).keys()


@pytest.mark.parametrize(
    "text",
    ["is twice as fast", "half of the time", "a third of it", "three quarters of the machine",
        "ten times the bandwidth", "a tenfold gain", "one step in 33", "several times as long",
        "40 percent"],
)  # fmt: skip
def test_a_factor_in_words_is_seen(text):
    assert WORDED.search(text)


@pytest.mark.parametrize("text", ["half precision", "the third derivative", "one at a time"])
def test_words_that_are_no_factor(text):
    assert not WORDED.search(text)


@pytest.mark.parametrize(
    "text", ["in 12 ms", "2.23 times", "1.5x", "40%", "3 GB", "a factor of 1.78", "7,893 a second"]
)
def test_a_measured_number_is_seen(text):
    assert QUANTITY.search(text)


@pytest.mark.parametrize("text", ["T = 35, H = 650", "l2t35b20h650", "5 levels", "sm_90"])
def test_a_shape_is_no_measured_number(text):
    assert not QUANTITY.search(text)


def test_readmes_factors_are_of_one_machine():
    races = [race for _, several in doc_tables.FIRST_SCREEN for race in several]
    places = {answer.place(row) for race in races for pair in race.pairs() for row in pair}
    assert places == {"two cores of an AMD EPYC (Zen 4)"}
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.index("## Why a fused LSTM is faster") < 40, "the first screen"


def test_a_race_over_processes_has_its_least_and_greatest(monkeypatch):
    def record(label: str, group: str, *seconds: float) -> Record:
        about = {"threads": 2, "group": group}
        return Record("suite", "case", label, "step", seconds, **about)

    records = [record("cudnn", "a", 4.0, 4.0), record("native-layers", "a", 2.0, 2.0),
        record("cudnn", "b", 3.0, 3.0), record("native-layers", "b", 2.0, 2.0)]  # fmt: skip
    monkeypatch.setattr(doc_tables, "results", lambda name: tables.of_records(records))
    race = doc_tables.Race("words", "file", "case")
    assert race.factors() == [1.5, 2.0]
    assert race.factor() == "1.75x (1.50 to 2.00)"
    assert (race.ms(0), race.ms(1)) == ("3,500", "2,000")


def test_results_that_are_older_than_their_code_are_listed(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    line = '{{"suite": "ladder", "case": "c", "contender": "a", "mode": "m", "commit": "{}"}}\n'
    (tmp_path / "old.jsonl").write_text(line.format("5ab6ad3") + line.format("0" * 40))
    first, second = docs.older()
    assert first == f"old.jsonl: ladder at {'0' * 40}; changes of its code since: unknown"
    assert re.fullmatch(r"old\.jsonl: ladder at 5ab6ad3; changes of its code since: \d+", second)


def test_no_row_of_the_results_is_of_an_uncommitted_tree():
    for path in tables.RESULTS.glob("*.jsonl"):
        for record in docs.records(path.stem):
            core.check_committed(path, record["commit"])
            assert record["machine"], path.name


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
    assert "| step loop | 7 | 20 | 20 | 20 | - / 9,000 |" in text
    assert "| medium, bfloat16, cuda | 9,000 → 1,000 |" in text


def test_the_ladders_are_shown_with_what_is_beside_them():
    text = answer.ladders(tables.results("ladder"))
    for name in ("step loop", *(f"+ {fuse}" for fuse in ladder.LEVELS), "nn.LSTM", "tiny, H=64"):
        assert name in text


def test_the_run_was_quiet():
    busy = {row.group: row.foreign for row in tables.rows(tables.results("ladder"))}
    assert max(busy.values()) <= core.BUSY, busy
