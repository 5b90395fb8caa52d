"""Text becomes ids, ids become batches: nothing lost, nothing twice, every mistake named."""

import math
from collections import Counter

import pytest
import torch

from lm import corpus, data, sources, text
from lm.errors import UserError
from lm.sources import Source


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
    corpus = data.load_corpus(str(write(tmp_path, scheme, train="b a\nc b c\n", valid="c\n\na")))
    assert corpus.vocabulary == ("<eos>", "b", "c", "a")  # three of them twice
    assert words(corpus, "train") == ["b", "a", "<eos>", "c", "b", "c", "<eos>"]
    assert words(corpus, "valid") == ["c", "<eos>", "<eos>", "a", "<eos>"]
    assert corpus.train.dtype == torch.int32
    assert corpus.unknown == {"train": 0, "valid": 0, "test": 0}


def test_words_outside_become_unk_and_are_counted(tmp_path):
    corpus = data.load_corpus(str(write(tmp_path, valid="a new\n", test="x b x <unk>\n")))
    assert corpus.vocabulary == ("a", "<eos>", "b", "<unk>")
    assert words(corpus, "valid") == ["a", "<unk>", "<eos>"]
    assert words(corpus, "test") == ["<unk>", "b", "<unk>", "<unk>", "<eos>"]
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 3}


def test_unk_of_the_training_text_is_a_word_like_others(tmp_path):
    corpus = data.load_corpus(str(write(tmp_path, train="<unk> a <unk> <unk>\n", valid="z\n")))
    assert corpus.vocabulary == ("<unk>", "<eos>", "a")
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 1}


def test_rare_words_of_the_training_text_are_unknown(tmp_path):
    lines = {"train": [["a", "a", "z"], ["y"]], "valid": [["z"]], "test": [["a"]]}
    titles = dict.fromkeys(text.SPLITS, "text")
    source = Source("text", "text", lambda: lines, titles, key=None, min_count=2)
    found = corpus.build(source, tmp_path / "ids")
    assert found.vocabulary == ("<eos>", "<unk>", "a")
    assert words(found, "train") == ["a", "a", "<unk>", "<eos>", "<unk>", "<eos>"]
    assert found.unknown == {"train": 2, "valid": 1, "test": 0}


def test_penn_treebank_has_its_published_sizes(ptb):
    corpus = data.load_corpus(str(ptb))
    assert len(corpus.vocabulary) == 10_000
    assert corpus.vocabulary[:4] == ("the", "<unk>", "<eos>", "N")
    assert [len(getattr(corpus, split)) for split in text.SPLITS] == [929_589, 73_760, 82_430]
    assert not any(corpus.unknown.values())


def test_built_in_text_is_fixed_and_sensible():
    corpus, again = data.load_corpus("python-docs"), data.load_corpus("python-docs")
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
    found = text.paragraphs()
    assert len(found) > 1000
    assert max(Counter(found).values()) == 1


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
        data.load_corpus(str(write(tmp_path, **files)))


def test_a_missing_file_is_named(tmp_path):
    (write(tmp_path, "ptb.{}.txt") / "ptb.valid.txt").unlink()
    with pytest.raises(UserError, match=r"ptb\.valid\.txt is missing"):
        data.load_corpus(str(tmp_path))


def test_a_directory_without_text_is_named(tmp_path):
    with pytest.raises(UserError, match="holds none of ptb"):
        data.load_corpus(str(tmp_path))
    with pytest.raises(UserError, match="does not exist; texts with a name are python-docs, kjv"):
        data.load_corpus(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a directory"):
        data.load_corpus(str(tmp_path / "file"))


# --- batches ---


def columns(ids, batch_size, **own):
    return data.Columns(ids, batch_size, torch.device("cpu"), **own)


@pytest.mark.parametrize("tokens", [41, 42, 44, 60, 61, 100])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(2, 20), (3, 7), (1, 1)])
def test_training_batches_follow_one_another(tokens, batch_size, num_steps):
    text = torch.arange(tokens, dtype=torch.int32)
    steps = data.steps_per_epoch(tokens, batch_size, num_steps)
    assert steps == (tokens // batch_size - 1) // num_steps
    batches = [columns(text, batch_size).batch(n, num_steps) for n in range(steps)]
    for inputs, targets in batches:
        assert inputs.shape == targets.shape == (num_steps, batch_size)
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous()
        assert torch.equal(targets, inputs + 1)  # the text counts up, so the next word is one more
    if batches:
        read = torch.cat([inputs for inputs, _ in batches])
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
    batches = list(data.evaluation_batches(torch.arange(tokens), batch_size, num_steps))
    assert {pair.shape for batch in batches for pair in batch} == {(num_steps, batch_size)}
    inputs, targets = (torch.cat(side).t() for side in zip(*batches, strict=True))
    assert inputs.dtype == torch.int64
    known = targets != data.IGNORED
    assert torch.equal(targets[known], inputs[known] + 1)
    assert targets[known].tolist() == list(range(1, tokens))  # in order, column after column


def test_unigram_perplexity_by_hand(tmp_path):
    corpus = data.load_corpus(str(write(tmp_path, train="a a b\n", test="b a z\n")))
    assert corpus.vocabulary == ("a", "<eos>", "b", "<unk>")  # counts 2, 1, 1, 0, one added each
    expected = -(math.log(3 / 8) + math.log(1 / 8) + math.log(2 / 8)) / 3  # of a, <unk>, <eos>
    assert data.unigram_perplexity(corpus) == pytest.approx(math.exp(expected))
