"""Text becomes ids, ids become batches: nothing lost, nothing twice, every mistake named."""

import math
import os
import random
import subprocess
import sys
from collections import Counter

import pytest
import torch

from lm.errors import UserError
from lm.text import batches, corpus, sources
from lm.text import tokens as text
from lm.text.corpus import load_corpus, unigram_perplexity
from lm.text.sources import Source
from lm_cases import ROOT


def write(directory, scheme="{}.txt", train="b a\na b a\n", valid="a b\n", test="b\n"):
    for split, content in zip(text.SPLITS, (train, valid, test), strict=True):
        content = content if isinstance(content, bytes) else content.encode()
        (directory / scheme.format(split)).write_bytes(content)
    return directory


def words(corpus, split):
    return [corpus.vocabulary[i] for i in getattr(corpus, split)]


# --- tokens and vocabulary ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("If x == 1: Pass", ["if", "x", "==", "1", ":", "pass"]),
        ("f(**kwargs)...", ["f", "(", "**", "kwargs", ")", "..."]),
        ("***********", ["***"]),
        ("+-----+", ["+", "---", "+"]),
        ("__init__", ["__init__"]),
        ("  ", []),
    ],
)
def test_tokenize(line, expected):
    assert text.tokenize(line) == expected


@pytest.mark.parametrize("scheme", sources.FILE_NAMES)
def test_vocabulary_is_by_count_then_word_and_lines_end(tmp_path, scheme):
    corpus = load_corpus(str(write(tmp_path, scheme, train="b a\nc b c\n", valid="c\n\na")))
    assert corpus.vocabulary == ("<eos>", "b", "c", "a")  # three of them twice
    assert words(corpus, "train") == ["b", "a", "<eos>", "c", "b", "c", "<eos>"]
    assert words(corpus, "valid") == ["c", "<eos>", "<eos>", "a", "<eos>"]
    assert corpus.train.dtype == torch.int32
    assert corpus.unknown == {"train": 0, "valid": 0, "test": 0}


def test_words_outside_become_unk_and_are_counted(tmp_path):
    corpus = load_corpus(str(write(tmp_path, valid="a new\n", test="x b x <unk>\n")))
    assert corpus.vocabulary == ("a", "<eos>", "b", "<unk>")
    assert words(corpus, "valid") == ["a", "<unk>", "<eos>"]
    assert words(corpus, "test") == ["<unk>", "b", "<unk>", "<unk>", "<eos>"]
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 3}


def test_unk_of_the_training_text_is_a_word_like_others(tmp_path):
    corpus = load_corpus(str(write(tmp_path, train="<unk> a <unk> <unk>\n", valid="z\n")))
    assert corpus.vocabulary == ("<unk>", "<eos>", "a")
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 1}


def test_rare_words_of_the_training_text_are_unknown(tmp_path):
    lines = {"train": ["a a z", "y"], "valid": ["z"], "test": ["a"]}
    tokens = {split: [[*line.split(), text.EOS] for line in lines[split]] for split in lines}
    titles = dict.fromkeys(text.SPLITS, "text")
    source = Source("text", "text", lambda: tokens, titles, key=None, min_count=2)
    found = corpus.build(source, tmp_path / "ids")
    assert found.vocabulary == ("<eos>", "<unk>", "a")
    assert words(found, "train") == ["a", "a", "<unk>", "<eos>", "<unk>", "<eos>"]
    assert found.unknown == {"train": 2, "valid": 1, "test": 0}


def test_penn_treebank_has_its_published_sizes(ptb):
    corpus = load_corpus(str(ptb))
    assert len(corpus.vocabulary) == 10_000
    assert corpus.vocabulary[:4] == ("the", "<unk>", "<eos>", "N")
    assert [len(getattr(corpus, split)) for split in text.SPLITS] == [929_589, 73_760, 82_430]
    assert not any(corpus.unknown.values())


def test_built_in_text_is_fixed_and_sensible():
    corpus, again = load_corpus("python-docs"), load_corpus("python-docs")
    assert corpus.vocabulary == again.vocabulary
    assert all(torch.equal(getattr(corpus, s), getattr(again, s)) for s in text.SPLITS)
    assert len(corpus.train) > 50_000
    assert min(len(corpus.valid), len(corpus.test)) > 5_000
    counts = torch.bincount(corpus.train, minlength=len(corpus.vocabulary))
    assert {"<unk>", "<eos>", "the"} <= set(corpus.vocabulary)
    assert counts.min() >= 2
    order = [(-int(n), word) for n, word in zip(counts, corpus.vocabulary, strict=True)]
    assert order == sorted(order)
    assert 0 < corpus.unknown["test"] < 0.1 * len(corpus.test)


def test_no_paragraph_of_the_built_in_text_occurs_twice():
    found = sources.paragraphs()
    assert len(found) > 1000
    assert max(Counter(found).values()) == 1


# --- files in blocks ---

SPACES = " \n\t\r\u2028\x1c"


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 16])
def test_blocks_do_not_show(tmp_path, monkeypatch, block):
    """Words and lines as a line at a time has them, wherever a block ends, in a character too."""
    monkeypatch.setattr(text, "_BLOCK", block)
    draw = random.Random(block)
    for number in range(200):
        content = "".join(draw.choices("aé\U0001f600<" + SPACES, k=draw.randrange(30)))
        path = tmp_path / f"{number}.txt"
        path.write_bytes(content.encode())
        lines = content.split("\n")
        expected = [word for line in lines[:-1] for word in [*line.split(), text.EOS]]
        expected += [*lines[-1].split(), text.EOS] if lines[-1] else []
        assert [token for piece in text.read_tokens(path) for token in piece] == expected


@pytest.mark.parametrize("block", [1, 4, 1 << 16])
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text, "_BLOCK", block)
    mark = "\ufeff"
    found = load_corpus(str(write(tmp_path, train=f"{mark}a b a\n", valid=mark + "b\n")))
    assert words(found, "train") == ["a", "b", "a", "<eos>"]
    assert words(found, "valid") == ["b", "<eos>"]
    tokens = sources.find(str(tmp_path)).tokens()["valid"]  # as lm.evaluate reads it
    assert corpus.encode(tokens, found.vocabulary, "text")[1] == 0


@pytest.mark.parametrize("block", [1, 1 << 16])
def test_the_line_that_is_no_utf_8_is_named(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text, "_BLOCK", block)
    (tmp_path / "text").write_bytes(b"a\nb\nc \xc3\n")
    with pytest.raises(UserError, match=r"text, line 3: not UTF-8 text \(invalid continuation"):
        list(text.read_tokens(tmp_path / "text"))
    (tmp_path / "text").write_bytes(b"a\nb \xc3")
    with pytest.raises(UserError, match=r"text, line 2: not UTF-8 text \(unexpected end"):
        list(text.read_tokens(tmp_path / "text"))


def test_a_text_without_line_ends_takes_no_more_memory(tmp_path):
    """In a process of its own, which encodes it in lines first; 22 MB took 125 more before."""
    content = "one two three four five six seven eight nine ten eleven " * 400_000
    for name, train in ("lines", content.replace("ten ", "ten\n")), ("none", content):
        (tmp_path / name).mkdir()
        write(tmp_path / name, train=train)
    program = (
        "import resource, sys; from lm.text.corpus import load_corpus\n"
        "for text in sys.argv[1:]: load_corpus(text);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lines"), str(tmp_path / "none")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([f"{ROOT}/kernels", str(ROOT)])}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines, none = (int(peak) * 1024 for peak in found.stdout.split())
    assert none < lines + len(content) / 4


# --- mistakes ---


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"train": ""}, r"train\.txt holds no words", id="empty-file"),
        pytest.param({"test": "\n \n"}, r"test\.txt holds no words", id="blank-lines"),
        pytest.param(
            {"valid": b"good\nbad \xff\n"}, r"valid\.txt, line 2: not UTF-8", id="undecodable"
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        load_corpus(str(write(tmp_path, **files)))


def test_a_missing_file_is_named(tmp_path):
    (write(tmp_path, "ptb.{}.txt") / "ptb.valid.txt").unlink()
    with pytest.raises(UserError, match=r"ptb\.valid\.txt is missing"):
        load_corpus(str(tmp_path))


def test_a_directory_without_text_is_named(tmp_path):
    with pytest.raises(UserError, match="holds none of ptb"):
        load_corpus(str(tmp_path))
    with pytest.raises(UserError, match="does not exist; texts with a name are python-docs, kjv"):
        load_corpus(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a directory"):
        load_corpus(str(tmp_path / "file"))


# --- batches ---


def columns(ids, batch_size, **own):
    return batches.Columns(ids, batch_size, torch.device("cpu"), **own)


@pytest.mark.parametrize("tokens", [41, 42, 44, 60, 61, 100])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(2, 20), (3, 7), (1, 1)])
def test_training_batches_follow_one_another(tokens, batch_size, num_steps):
    text = torch.arange(tokens, dtype=torch.int32)
    steps = batches.steps_per_epoch(tokens, batch_size, num_steps)
    assert steps == (tokens // batch_size - 1) // num_steps
    found = [columns(text, batch_size).batch(n, num_steps) for n in range(steps)]
    for inputs, targets in found:
        assert inputs.shape == targets.shape == (num_steps, batch_size)
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous()
        assert torch.equal(targets, inputs + 1)  # the text counts up, so the next word is one more
    if found:
        read = torch.cat([inputs for inputs, _ in found])
        beside = torch.arange(batch_size) * (tokens // batch_size)  # stretches of the text
        assert torch.equal(read, torch.arange(steps * num_steps)[:, None] + beside)


def test_ranks_divide_the_columns():
    text = torch.arange(60, dtype=torch.int32)
    whole, _ = columns(text, 5).batch(1, 4)
    parts = [columns(text, 5, own=slice(*part)).batch(1, 4)[0] for part in [(0, 2), (2, 5)]]
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("tokens", [2, 3, 20, 21, 22, 101])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(1, 1), (1, 7), (4, 5), (20, 35)])
def test_evaluation_predicts_every_token_but_the_first_once(tokens, batch_size, num_steps):
    found = list(batches.evaluation_batches(torch.arange(tokens), batch_size, num_steps))
    assert {pair.shape for batch in found for pair in batch} == {(num_steps, batch_size)}
    inputs, targets = (torch.cat(side).t() for side in zip(*found, strict=True))
    assert inputs.dtype == torch.int64
    known = targets != batches.IGNORED
    assert torch.equal(targets[known], inputs[known] + 1)
    assert targets[known].tolist() == list(range(1, tokens))  # in order, column after column


def test_unigram_perplexity_by_hand(tmp_path):
    corpus = load_corpus(str(write(tmp_path, train="a a b\n", test="b a z\n")))
    assert corpus.vocabulary == ("a", "<eos>", "b", "<unk>")  # counts 2, 1, 1, 0, one added each
    expected = -(math.log(3 / 8) + math.log(1 / 8) + math.log(2 / 8)) / 3  # of a, <unk>, <eos>
    assert unigram_perplexity(corpus) == pytest.approx(math.exp(expected))
