"""A damaged checkpoint is one clear line and exit status 2, whatever was done to it."""

import json
import random
import shutil

import pytest
import safetensors.torch
import torch

from lm import checkpoint, evaluate
from lm.train import main
from lm_cases import refused, train

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
    ("changes", "message"),
    [
        ({"format": 99}, "has format 99, and this program reads"),
        ({"format": None}, "has format None"),
        ({"config": {"hidden_size": 16}}, "is damaged"),
        ({"config": []}, "is damaged"),
        ({"run": {"nonsense": 1}}, "is damaged: unknown option 'nonsense'"),
    ],
    ids=str,
)
def test_other_facts(capsys, damaged, changes, message):
    directory, path = damaged
    about = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**about, **changes}))
    seal(path)
    assert message in refused(capsys, main, "train", f"--resume={directory}")


@pytest.mark.parametrize(
    "name", ["losses", "hidden.h", "random.torch", "optimizer.exp_avg.sm_fc.bias"]
)
@pytest.mark.parametrize("change", ["missing", "short"])
def test_other_training_state(capsys, damaged, name, change):
    directory, path = damaged
    tensors = safetensors.torch.load_file(path / "training.safetensors")
    tensor = tensors.pop(name)
    if change == "short":
        tensors[name] = tensor[:, :3].clone() if tensor.dim() > 1 else tensor[:3].clone()
    safetensors.torch.save_file(tensors, path / "training.safetensors")
    seal(path)
    assert main([f"--resume={directory}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"lm.train: {path} is damaged: training state: " in error


def test_a_foreign_directory(capsys, tmp_path):
    (tmp_path / "checkpoint-0000001").mkdir()
    (tmp_path / "checkpoint-0000001" / "pytorch_model.bin").write_bytes(b"PK")
    refuse(capsys, tmp_path, "SHA256SUMS")


def refuse(capsys, directory, message):
    """Both who would go on from it and who would use it say so."""
    for command, name, option in (main, "train", "--resume="), (evaluate.main, "evaluate", ""):
        assert message in refused(capsys, command, name, f"{option}{directory}")
