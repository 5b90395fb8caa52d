"""Texts that are downloaded, from a server on this machine: good, and everything else."""

import dataclasses
import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from lm.errors import UserError
from lm.text import download
from lm.text.corpus import load_corpus

pytest.importorskip("pooch", reason="needs the extra `data`")

TEXTS = {
    f"ptb.{split}.txt": f"a b {split}\n".encode() * 500 for split in ("train", "valid", "test")
}


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
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.modes, server.asked = dict(TEXTS), {}, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("FUSED_LSTM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        serve(monkeypatch, "ptb", server.server_address[1], server.files)
        yield server
        server.shutdown()


def serve(monkeypatch, name, port, files):
    """Let the text `name` be what the server on `port` has."""
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    url = f"http://127.0.0.1:{port}/some/where/"
    there = dataclasses.replace(download.DOWNLOADS[name], base_url=url, files=sums)
    monkeypatch.setitem(download.DOWNLOADS, name, there)


def test_a_good_download_is_made_once(server, tmp_path):
    corpus = load_corpus("ptb")
    assert corpus.name == "ptb"
    assert set(corpus.vocabulary) == {"a", "b", "train", "<eos>", "<unk>"}
    assert corpus.unknown == {"train": 0, "valid": 500, "test": 500}
    assert sorted(server.asked) == sorted(TEXTS)
    load_corpus("ptb")
    assert len(server.asked) == 3
    assert {p.name for p in (tmp_path / "cache" / "texts" / "ptb").iterdir()} == set(TEXTS)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("404", "HTTP status 404"),
        ("truncated", "the connection broke"),
        ("wrong", "what came has another sha256"),
    ],
)
def test_a_bad_download_names_the_file_and_goes_on_when_run_again(server, tmp_path, mode, reason):
    server.modes["ptb.valid.txt"] = mode
    with pytest.raises(UserError) as caught:
        load_corpus("ptb")
    path = tmp_path / "cache" / "texts" / "ptb" / "ptb.valid.txt"
    message = str(caught.value)
    assert (
        f"ptb.valid.txt ({reason}); run this again, or place the file by hand at {path}" in message
    )
    assert hashlib.sha256(TEXTS["ptb.valid.txt"]).hexdigest() in message
    assert "\n" not in message
    assert [p.name for p in path.parent.iterdir()] == ["ptb.train.txt"]  # nothing half-done
    server.modes.clear()
    server.asked.clear()
    load_corpus("ptb")
    assert server.asked == ["ptb.valid.txt", "ptb.test.txt"]


def test_no_network(server, monkeypatch):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"ptb\.train\.txt \(no connection\); run this again"):
        load_corpus("ptb")


def test_files_placed_by_hand_need_no_network(server, tmp_path):
    directory = tmp_path / "cache" / "texts" / "ptb"
    directory.mkdir(parents=True)
    for name, content in TEXTS.items():
        (directory / name).write_bytes(content)
    load_corpus("ptb")
    assert not server.asked


def test_a_damaged_file_is_downloaded_again(server, tmp_path):
    load_corpus("ptb")
    path = tmp_path / "cache" / "texts" / "ptb" / "ptb.test.txt"
    path.write_bytes(path.read_bytes()[:-7])
    load_corpus("ptb")
    assert path.read_bytes() == TEXTS["ptb.test.txt"]


def test_an_archive_is_unpacked(server, monkeypatch, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for split in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2/wiki.{split}.tokens", f" = {split} =\n\na b\n" * 3)
    server.files["wikitext-2-v1.zip"] = content.getvalue()
    files = {"wikitext-2-v1.zip": content.getvalue()}
    serve(monkeypatch, "wikitext-2", server.server_address[1], files)
    corpus = load_corpus("wikitext-2")
    assert len(corpus.train) == 3 * (3 + 1 + 0 + 1 + 2 + 1)
    assert (tmp_path / "cache/texts/wikitext-2/wiki.test.tokens").is_file()
    load_corpus("wikitext-2")
    assert server.asked == ["wikitext-2-v1.zip"]


def test_the_hashes_of_penn_treebank_are_those_of_the_published_files(ptb):
    for name, sha256 in download.DOWNLOADS["ptb"].files.items():
        assert hashlib.sha256((ptb / name).read_bytes()).hexdigest() == sha256
