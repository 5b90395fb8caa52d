"""A damaged checkpoint is one clear line and exit status 2, whatever was done to it."""

import hashlib
import json
import math
import random
import shutil

import pytest
import safetensors.torch
import torch

from lm import evaluate
from lm.saving import checkpoint
from lm.train import main
from lm_cases import refused, train

FIGURES = ("epoch", "steps", "learning_rate", "train_perplexity", "valid_perplexity")
FILES = (
    *("model.safetensors", "training.safetensors", "training.json", "config.json"),
    *("vocabulary.json", checkpoint.SUMS),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A checkpoint in the middle of an epoch."""
    directory = tmp_path_factory.mktemp("sound")
    line = " ".join(f"w{n}" for n in range(11)) + "\n"
    for split in ("train", "valid", "test"):
        (directory / f"{split}.txt").write_text(line * 60)
    train(directory, directory, "--max-steps=5", "--no-eval", f"--save={directory / 'saved'}")
    return directory / "saved"


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of it, and the directory that holds it."""
    copy = tmp_path / "saved"
    shutil.copytree(sound, copy)
    return copy, checkpoint.newest(copy)


def seal(path):
    """Make the sums right, as whoever changed the files on purpose would."""
    files = {f.name: f.read_bytes() for f in path.iterdir() if f.name != checkpoint.SUMS}
    (path / checkpoint.SUMS).write_bytes(checkpoint.sums(files))


def change_json(file, name, value):
    """Set `name`, keys apart by dots, and make the sums right."""
    content = place = json.loads(file.read_text())
    *keys, last = name.split(".")
    for key in keys:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(content))
    seal(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_truncated(capsys, damaged, name):
    directory, path = damaged
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: random.Random(name).randrange(len(content))])
    refuse(capsys, directory, "is damaged: ")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(capsys, damaged, name):
    directory, path = damaged
    content, moments = bytearray((path / name).read_bytes()), random.Random(name)
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(7)
    (path / name).write_bytes(content)
    refuse(capsys, directory, "is damaged: ")


@pytest.mark.parametrize("name", FILES)
def test_missing(capsys, damaged, name):
    directory, path = damaged
    (path / name).unlink()
    refuse(capsys, directory, f"No such file or directory: {path / name}")


def rename(weights):
    weights["lstm.weights"] = weights.pop("lstm.weight_hh_l0")


def drop(weights):
    del weights["sm_fc.bias"]


def reshape(weights):
    weights["lstm.weight_hh_l0"] = weights["lstm.weight_hh_l0"].t().contiguous()


def integers(weights):
    weights["sm_fc.bias"] = weights["sm_fc.bias"].int()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "lstm.weight_hh_l0 is missing"),
        (drop, "sm_fc.bias is missing"),
        (reshape, "lstm.weight_hh_l0 is [16, 64], should be [64, 16]"),
        (integers, "sm_fc.bias"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_weights(capsys, damaged, change, message):
    directory, path = damaged
    weights = safetensors.torch.load_file(path / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, path / "model.safetensors")
    seal(path)
    refuse(capsys, directory, f"is damaged: {message}")


def test_a_pickle_in_disguise_is_never_loaded(capsys, damaged, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    directory, path = damaged
    torch.save({"sm_fc.bias": Trap()}, path / "model.safetensors")
    seal(path)
    refuse(capsys, directory, "is damaged: ")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", 99, "has format 99, and this program reads"),
        ("format", None, "has format None"),
        ("config", {"hidden_size": 16}, "is damaged"),
        ("config", [], "is damaged"),
        ("config.num_layers", 10**9, "is damaged: num_layers must be at least 1 and at most 1000"),
        ("config.hidden_size", 2**62, "is damaged"),
        ("config.hidden_size", 16.0, "is damaged: hidden_size must be at least 1, got 16.0"),
        ("config.epochs", True, "is damaged: epochs must be at least 1, got True"),
        ("config.keep_prob", "1", "is damaged: keep_prob must be"),
        ("step", "5", "is damaged: step is '5'"),
        ("best", [5], "is damaged: best is '[5]'"),
        ("run", None, "is damaged: run is 'None'"),
        ("run", {"nonsense": 1}, "is damaged: unknown option 'nonsense'"),
        ("run.seed", "one", "is damaged: argument --seed: must be a whole number"),
        ("run.seed", [], "is damaged: argument --seed: must be a whole number"),
        ("run.seed", True, "is damaged: option 'seed' is True"),
        ("run.evaluate", 1, "is damaged: option 'evaluate' is 1"),
        ("run.dtype", "int8", "is damaged: argument --dtype: invalid choice"),
        ("run.threads", {"a": 1}, "is damaged: argument --threads"),
        ("run.max_steps", -3, "is damaged: argument --max-steps"),
        ("run.lstm", {}, "engine: got '{}'"),
        ("run.device", "meta", "--device meta: PyTorch finds no meta here"),
        ("run.data", {"a": "b"}, "does not exist"),
        ("run.data", "a\0b", "is damaged: option 'data' is 'a\\x00b'"),
        ("run.data", "x" * 5000, "File name too long"),
        ("run.summary", "/" + "x" * 5000, "--summary: cannot write"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_facts(capsys, damaged, name, value, message):
    directory, path = damaged
    change_json(path / "config.json", name, value)
    assert message in refused(capsys, main, "train", f"--resume={directory}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 0}, "vocabulary is "),
        ("words", "vocabulary is 'words'"),
        (7, "vocabulary is '7'"),
        ([["a"]], "a word is "),
        ([1, 2], "a word is '1'"),
        (["a", "a"], "the vocabulary has a word twice"),
        (["a", "b"], "word_embeddings.weight is [12, 16], should be [2, 16]"),
    ],
    ids=str,
)
def test_other_vocabularies(capsys, damaged, value, message):
    directory, path = damaged
    (path / "vocabulary.json").write_text(json.dumps(value))
    seal(path)
    refuse(capsys, directory, "is damaged: ")
    assert message in refused(capsys, main, "train", f"--resume={directory}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "5"),
        ("steps", -5),
        ("steps", 5.5),
        ("steps", 1e999),
        ("curve", {}),
        ("curve", [{"epoch": 1}]),
        ("curve", [dict.fromkeys(FIGURES, "x")]),
        ("words", None),
        ("seconds", math.nan),
        ("training_seconds", math.inf),
        ("python_gauss", "x"),
        ("numpy", []),
        ("numpy.pos", 10**6),
        ("numpy.pos", -1),
        ("bits", None),
        ("bits", {}),
    ],
    ids=str,
)
def test_other_training_facts(capsys, damaged, name, value):
    directory, path = damaged
    change_json(path / "training.json", name, value)
    refuse_to_go_on(capsys, directory, path)


@pytest.mark.parametrize("content", ["[]", "7", "null", "[" * 100_000], ids=lambda c: c[:5])
@pytest.mark.parametrize("name", ["config", "training", "vocabulary"])
def test_other_json(capsys, damaged, name, content):
    directory, path = damaged
    (path / f"{name}.json").write_text(content)
    seal(path)
    refuse(capsys, directory, "is damaged: ")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/file", "..", ""])
def test_a_name_that_leaves_the_directory_is_not_read(capsys, damaged, monkeypatch, name):
    """Whatever its sum: as a file that was listed, it would be part of the checkpoint."""
    directory, path = damaged
    (directory / "secret").write_text("secret")
    (path / "secret").write_text("secret")
    sum = hashlib.sha256(b"secret").hexdigest()
    with (path / checkpoint.SUMS).open("a") as file:
        file.write(f"{sum}  {name}\n")
    refuse(capsys, directory, f"is damaged: SHA256SUMS names {name!r}, which is no file of a check")


@pytest.mark.parametrize(
    "name", ["losses", "hidden.h", "random.torch", "optimizer.exp_avg.sm_fc.bias"]
)
@pytest.mark.parametrize("change", ["missing", "short", "integers"])
def test_other_training_state(capsys, damaged, name, change):
    directory, path = damaged
    tensors = safetensors.torch.load_file(path / "training.safetensors")
    tensor = tensors.pop(name)
    if change == "short":
        tensors[name] = tensor[:, :3].clone() if tensor.dim() > 1 else tensor[:3].clone()
    if change == "integers":
        tensors[name] = tensor.to(torch.int16)
    safetensors.torch.save_file(tensors, path / "training.safetensors")
    seal(path)
    refuse_to_go_on(capsys, directory, path)


def test_a_foreign_directory(capsys, tmp_path):
    (tmp_path / "checkpoint-0000001").mkdir()
    (tmp_path / "checkpoint-0000001" / "pytorch_model.bin").write_bytes(b"PK")
    refuse(capsys, tmp_path, "SHA256SUMS")


def refuse_to_go_on(capsys, directory, path):
    assert main([f"--resume={directory}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"lm.train: {path} is damaged: training state: " in error


def refuse(capsys, directory, message):
    """Both who would go on from it and who would use it say so."""
    for command, name, option in (main, "train", "--resume="), (evaluate.main, "evaluate", ""):
        assert message in refused(capsys, command, name, f"{option}{directory}")
