"""Text becomes ids, ids become batches: nothing lost, nothing twice, every mistake named."""

import hashlib
import http.server
import io
import math
import random
import threading
import zipfile

import pytest
import torch

from lm import batches, data
from lm.command import UserError
from lm.data import EOS, SPLITS, UNK, Corpus, load_corpus
from lm_cases import make_trainer


def write(directory, scheme="{}.txt", train="b a\na b a\n", valid="a b\n", test="b\n"):
    for split, content in zip(SPLITS, (train, valid, test), strict=True):
        content = content if isinstance(content, bytes) else content.encode()
        (directory / scheme.format(split)).write_bytes(content)
    return directory


def words(corpus, split):
    return [corpus.vocabulary[i] for i in getattr(corpus, split)]


# --- words and vocabulary ---


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
    assert data.tokenize(line) == expected


@pytest.mark.parametrize("scheme", data.FILE_NAMES)
def test_vocabulary_is_by_count_then_word_and_lines_end(tmp_path, scheme):
    corpus = load_corpus(str(write(tmp_path, scheme, train="b a\nc b c\n", valid="c\n\na")))
    assert corpus.vocabulary == (EOS, "b", "c", "a")  # three of them twice
    assert words(corpus, "train") == ["b", "a", EOS, "c", "b", "c", EOS]
    assert words(corpus, "valid") == ["c", EOS, EOS, "a", EOS]
    assert corpus.train.dtype == torch.int32
    assert corpus.unknown == {"train": 0, "valid": 0, "test": 0}


def test_words_outside_become_unk_and_are_counted(tmp_path):
    corpus = load_corpus(str(write(tmp_path, valid="a new\n", test="x b x <unk>\n")))
    assert corpus.vocabulary == ("a", EOS, "b", UNK)
    assert words(corpus, "valid") == ["a", UNK, EOS]
    assert words(corpus, "test") == [UNK, "b", UNK, UNK, EOS]
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 3}


def test_unk_of_the_training_text_is_a_word_like_others(tmp_path):
    corpus = load_corpus(str(write(tmp_path, train="<unk> a <unk> <unk>\n", valid="z\n")))
    assert corpus.vocabulary == (UNK, EOS, "a")
    assert corpus.unknown == {"train": 0, "valid": 1, "test": 1}


def test_lines_end_at_line_feeds_alone(tmp_path):
    draw = random.Random(1)
    for _ in range(50):
        content = "".join(draw.choices("aé\U0001f600< \n\t\r\u2028\x1c", k=draw.randrange(30)))
        path = tmp_path / "text"
        path.write_bytes(content.encode("utf-8-sig"))
        lines = content.split("\n")
        expected = [word for line in lines[:-1] for word in [*line.split(), EOS]]
        expected += [*lines[-1].split(), EOS] if lines[-1] else []
        assert list(data.file_words(path)) == expected


def test_penn_treebank_has_its_published_sizes_and_sums(ptb):
    corpus = load_corpus(str(ptb))
    assert len(corpus.vocabulary) == 10_000
    assert corpus.vocabulary[:4] == ("the", UNK, EOS, "N")
    assert [len(getattr(corpus, split)) for split in SPLITS] == [929_589, 73_760, 82_430]
    assert not any(corpus.unknown.values())
    for name, sha256 in data.DOWNLOADS["ptb"][1].items():
        assert hashlib.sha256((ptb / name).read_bytes()).hexdigest() == sha256


def test_built_in_text_is_fixed_and_sensible():
    corpus, again = load_corpus("python-docs"), load_corpus("python-docs")
    assert corpus.digest() == again.digest()
    assert len(corpus.train) > 50_000
    assert min(len(corpus.valid), len(corpus.test)) > 5_000
    counts = torch.bincount(corpus.train, minlength=len(corpus.vocabulary))
    assert {UNK, EOS, "the"} <= set(corpus.vocabulary)
    assert counts.min() >= 2  # a word seen once is unknown
    order = [(-int(n), word) for n, word in zip(counts, corpus.vocabulary, strict=True)]
    assert order == sorted(order)
    assert 0 < corpus.unknown["test"] < 0.1 * len(corpus.test)


def test_encode_with_a_vocabulary():
    ids, unknown = data.encode(["a", "b", EOS, "c", EOS], ("a", EOS, UNK))
    assert (ids.tolist(), unknown, ids.dtype) == ([0, 2, 1, 2, 1], 2, torch.int32)
    with pytest.raises(UserError, match="1 words are outside the vocabulary, which"):
        data.encode(["b", EOS], ("a", EOS))


def test_unigram_perplexity_by_hand(tmp_path):
    corpus = load_corpus(str(write(tmp_path, train="a a b\n", test="b a z\n")))
    assert corpus.vocabulary == ("a", EOS, "b", UNK)  # counts 2, 1, 1, 0, one added each
    expected = -(math.log(3 / 8) + math.log(1 / 8) + math.log(2 / 8)) / 3  # of a, <unk>, <eos>
    assert corpus.unigram_perplexity() == pytest.approx(math.exp(expected))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": ""}, r"--data: the train text of .* holds no words"),
        ({"test": "\n \n"}, r"--data: the test text of .* holds no words"),
        ({"valid": b"good\nbad \xff\n"}, r"valid\.txt: not UTF-8 text \(invalid start byte"),
    ],
    ids=["empty-file", "blank-lines", "undecodable"],
)
def test_a_bad_file_is_named(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        load_corpus(str(write(tmp_path, **files)))


def test_a_missing_file_is_named(tmp_path):
    (write(tmp_path, "ptb.{}.txt") / "ptb.valid.txt").unlink()
    with pytest.raises(UserError, match=r"holds no ptb\.{train,valid,test}\.txt or wiki"):
        load_corpus(str(tmp_path))


# --- batches ---


@pytest.mark.parametrize("tokens", [41, 42, 44, 60, 61, 100])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(2, 20), (3, 7), (1, 1)])
def test_columns_read_stretches_of_the_text_once(tokens, batch_size, num_steps):
    ids = torch.arange(tokens, dtype=torch.int32)
    columns = batches.columns(ids, batch_size)
    length = tokens // batch_size
    expected = torch.arange(length, dtype=torch.int32)[:, None] + torch.arange(batch_size) * length
    assert torch.equal(columns, expected)
    steps = batches.steps_per_epoch(tokens, batch_size, num_steps)
    assert steps * num_steps < length  # a next word for each
    assert (steps + 1) * num_steps >= length


def test_a_step_reads_words_and_the_words_after_them(corpus_dir):
    trainer = make_trainer(corpus_dir)
    T, text = trainer.config.num_steps, batches.columns(trainer.corpus.train, 4).long()
    for number in (0, 1, trainer.epoch_steps - 1):
        inputs, targets = trainer.batch(number)
        assert torch.equal(inputs, text[number * T : (number + 1) * T])
        assert torch.equal(targets, text[number * T + 1 : (number + 1) * T + 1])


@pytest.mark.parametrize("tokens", [2, 3, 20, 21, 22, 101])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(1, 1), (1, 7), (4, 5), (20, 35)])
def test_evaluation_predicts_every_token_but_the_first_once(tokens, batch_size, num_steps):
    pairs = list(batches.evaluation_batches(torch.arange(tokens), batch_size, num_steps))
    assert len(pairs) == batches.evaluation_steps(tokens, batch_size, num_steps)
    assert {part.shape for pair in pairs for part in pair} == {(num_steps, batch_size)}
    inputs, targets = (torch.cat(side).t() for side in zip(*pairs, strict=True))
    known = targets != batches.IGNORED
    assert torch.equal(targets[known], inputs[known] + 1)
    assert targets[known].tolist() == list(range(1, tokens))  # in order, column after column


# --- downloads, from a server on this machine ---

TEXTS = {f"ptb.{split}.txt": f"a b {split}\n".encode() * 500 for split in SPLITS}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        mode, content = self.server.modes.get(name), self.server.files.get(name)
        if mode == "404" or content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if mode == "truncated":
            content = content[: len(content) // 2]
        elif mode == "wrong":
            content = content[:-1] + b"?"
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of `files`, each in one of `modes`, that notes what it was `asked` for."""
    pytest.importorskip("pooch", reason="needs the extra `data`")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.modes, server.asked = dict(TEXTS), {}, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("FUSED_LSTM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        serve(monkeypatch, "ptb", server.server_address[1], server.files)
        yield server
        server.shutdown()


def serve(monkeypatch, name, port, files):
    """Let the text `name` be what the server on `port` has."""
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(data.DOWNLOADS, name, (f"http://127.0.0.1:{port}/some/where/", sums))


def test_a_good_download_is_made_once_and_a_damaged_file_again(server, tmp_path):
    corpus = load_corpus("ptb")
    assert set(corpus.vocabulary) == {"a", "b", "train", EOS, UNK}
    assert sorted(server.asked) == sorted(TEXTS)
    load_corpus("ptb")
    assert len(server.asked) == 3
    path = tmp_path / "cache" / "texts" / "ptb" / "ptb.test.txt"
    path.write_bytes(path.read_bytes()[:-7])
    load_corpus("ptb")
    assert path.read_bytes() == TEXTS["ptb.test.txt"]
    assert {p.name for p in path.parent.iterdir()} == set(TEXTS)


@pytest.mark.parametrize("mode", ["404", "truncated", "wrong", "no-network"])
def test_a_bad_download_names_the_file_and_goes_on_when_run_again(server, tmp_path, mode):
    server.modes["ptb.valid.txt"] = mode
    if mode == "no-network":
        server.shutdown()
        server.server_close()
    with pytest.raises(UserError) as caught:
        load_corpus("ptb")
    name = "ptb.train.txt" if mode == "no-network" else "ptb.valid.txt"
    path, message = tmp_path / "cache" / "texts" / "ptb" / name, str(caught.value)
    assert f"run this again, or place the file by hand at {path}" in message
    assert hashlib.sha256(TEXTS[name]).hexdigest() in message
    assert "\n" not in message
    assert not path.exists()  # nothing half-done
    if mode != "no-network":
        server.modes.clear()
        server.asked.clear()
        load_corpus("ptb")
        assert server.asked == ["ptb.valid.txt", "ptb.test.txt"]


def test_an_archive_is_read(server, monkeypatch, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for split in SPLITS:
            archive.writestr(f"wikitext-2/wiki.{split}.tokens", f" = {split} =\n\na b\n" * 3)
    server.files["wikitext-2-v1.zip"] = content.getvalue()
    files = {"wikitext-2-v1.zip": content.getvalue()}
    serve(monkeypatch, "wikitext-2", server.server_address[1], files)
    assert len(load_corpus("wikitext-2").train) == 3 * (3 + 1 + 0 + 1 + 2 + 1)
    assert server.asked == ["wikitext-2-v1.zip"]


def test_a_digest_is_of_words_and_of_their_order():
    """A text of other words with the same ids is another one, and so is another split."""
    ids = torch.tensor([0, 1, 0], dtype=torch.int32)
    texts = [
        Corpus("a", vocabulary, *splits, unknown={})
        for vocabulary in (("ab", "c"), ("a", "bc"), ("c", "ab"))
        for splits in ((ids, ids, ids), (ids, ids, ids.flip(0) + 1), (ids + 1, ids, ids))
    ]
    assert len({text.digest() for text in texts}) == len(texts)
