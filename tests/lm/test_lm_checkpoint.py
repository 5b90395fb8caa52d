"""A checkpoint comes back as it was, on any engine; a damaged one is one line and status 2."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fused_lstm
from lm import checkpoint, evaluate
from lm.command import UserError
from lm.log import FILE
from lm.train import main
from lm_cases import refused, train


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run's directory with a checkpoint in the middle of an epoch."""
    directory = tmp_path_factory.mktemp("sound")
    line = " ".join(f"w{n}" for n in range(11)) + "\n"
    for split in ("train", "valid", "test"):
        (directory / f"{split}.txt").write_text(line * 60)
    train(directory, directory, "--max-steps=5", "--no-eval", f"--save={directory / 'saved'}")
    return directory / "saved"


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of that directory, and the checkpoint in it."""
    copy = tmp_path / "saved"
    shutil.copytree(sound, copy)
    (copy / "checkpoint-0000009 (copy).safetensors").touch()  # which is none of ours
    return copy, checkpoint.all_in(copy)[-1]


def refuse(capsys, directory, message):
    """Both who would go on from it and who would use it say so."""
    for command, name, option in (main, "train", "--resume="), (evaluate.main, "evaluate", ""):
        assert message in refused(capsys, command, name, f"{option}{directory}")


# --- whole ---


@pytest.mark.parametrize("engine", fused_lstm.ENGINES)
def test_a_checkpoint_comes_back_on_any_engine(sound, engine):
    saved = checkpoint.load(sound)
    assert (saved.step, saved.config.hidden_size, len(saved.vocabulary)) == (5, 16, 12)
    model = saved.model(engine)
    assert model.lstm.engine == engine
    names = set(torch.nn.LSTM(2, 2).state_dict())
    assert {name.removeprefix("lstm.") for name in saved.weights() if "lstm." in name} == names
    for name, tensor in model.state_dict().items():
        assert torch.equal(saved.weights()[name], tensor), name


def test_float64_stays_float64(tmp_path, corpus_dir):
    save = f"--save={tmp_path / 'saved'}"
    train(tmp_path, corpus_dir, "--dtype=float64", "--max-steps=2", save)
    assert checkpoint.load(tmp_path / "saved").model("cudnn").sm_fc.weight.dtype == torch.float64


def test_a_failure_while_saving_leaves_the_last_good_one(sound, tmp_path, monkeypatch):
    saved = checkpoint.load(sound)
    content = saved.options, saved.vocabulary, saved.tensors, saved.state

    def save(step):
        return checkpoint.save(tmp_path, step, None, *content)

    path = save(1)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match=r"cannot write .*0000002.*: No space left on device"):
            save(2)
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(tmp_path).step == 1
    later = save(12345678)
    assert list(tmp_path.iterdir()) == [later]


# --- damaged ---


@pytest.mark.parametrize("seed", range(8))
def test_truncated_or_with_a_bit_flipped(capsys, damaged, seed):
    directory, path = damaged
    content, draw = bytearray(path.read_bytes()), random.Random(seed)
    place = draw.randrange(len(content) if seed % 4 else 3000)  # the header, in every fourth
    if seed % 2:
        content = content[:place]
    else:
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    refuse(capsys, directory, f"{path} is damaged: ")


def test_another_format_is_named(capsys, monkeypatch, damaged):
    directory, _ = damaged
    monkeypatch.setattr(checkpoint, "FORMAT", 5)
    refuse(capsys, directory, "is damaged: format: got 4; expected 5")


@pytest.mark.parametrize("kind", ["fifo", "endless", "directory", "pickle"])
def test_what_is_no_checkpoint_is_not_read(capsys, damaged, tmp_path, kind):
    """A FIFO would be waited for, an endless file read for ever, a pickle run."""

    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    directory, path = damaged
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        torch.save({"sm_fc.bias": Trap()}, path)
    refuse(capsys, directory, f"{path} is damaged: " if kind == "pickle" else "is no file")
    assert not (tmp_path / "sprung").exists()


def forge(path, saved, tensors, about=None):
    """Write a checkpoint whose sum is right, of other tensors or of another JSON text."""
    if about is None:
        fields = {"format": checkpoint.FORMAT, "step": saved.step, "best": None}
        fields |= {"options": saved.options, "vocabulary": saved.vocabulary, "state": saved.state}
        about = json.dumps(fields)
    metadata = {"about": about, "sha256": checkpoint.digest(about, tensors)}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize("sum_is_right", [True, False])
def test_json_in_json_in_json_is_no_metadata(capsys, damaged, sum_is_right):
    directory, path = damaged
    saved, deep = checkpoint.load(directory), "[" * 100_000
    forge(path, saved, saved.tensors, deep)
    if not sum_is_right:
        content = path.read_bytes()
        place = content.index(b'"sha256":"') + len(b'"sha256":"')
        other = b"0" if content[place : place + 1] != b"0" else b"1"
        path.write_bytes(content[:place] + other + content[place + 1 :])
    word = "no JSON that can be read" if sum_is_right else "sha256: got "
    refuse(capsys, directory, word)


@pytest.mark.parametrize(
    "name", ["model.sm_fc.bias", "model.lstm.weight_hh_l0", "losses", "hidden.c"]
)
def test_a_tensor_that_is_not_there_is_named(capsys, damaged, name):
    directory, path = damaged
    saved = checkpoint.load(directory)
    forge(path, saved, {n: t for n, t in saved.tensors.items() if n != name})
    assert main([f"--resume={directory}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lm.train: {path} is damaged: ")
    assert error.count("\n") == 1
    assert name.removeprefix("model.") in error
    if name.startswith("model."):
        assert f"{path} is damaged: " in refused(capsys, evaluate.main, "evaluate", str(directory))


def test_metadata_without_a_field_is_named(capsys, damaged):
    directory, path = damaged
    saved = checkpoint.load(directory)
    forge(path, saved, saved.tensors, json.dumps({"format": checkpoint.FORMAT, "step": 5}))
    refuse(capsys, directory, f"{path} is damaged: got no 'best'; expected one")


@pytest.mark.parametrize("step", ["\u00b2", "\u0663", "", "-1"])
def test_a_step_is_in_plain_digits(damaged, step):
    directory, path = damaged
    (directory / f"checkpoint-{step}.safetensors").touch()
    assert checkpoint.all_in(directory) == [path]


# --- what else a resumed run asks for ---


def test_a_text_whose_lines_were_shuffled_is_another_text(capsys, damaged):
    directory, _ = damaged
    text = Path(checkpoint.load(directory).options["data"])
    copy = directory.parent / "text"
    copy.mkdir()
    for split in ("train", "valid", "test"):
        shutil.copy(text / f"{split}.txt", copy)
    words = (copy / "train.txt").read_text().split("\n")
    words[3] = " ".join(reversed(words[3].split()))  # as many of each
    (copy / "train.txt").write_text("\n".join(words))
    assert main([f"--resume={directory}", f"--data={text}", "--max-steps=6", "--no-eval"]) == 0
    capsys.readouterr()
    assert main([f"--resume={directory}", f"--data={copy}"]) == 2
    assert f"--data: '{copy}' is not the text of" in capsys.readouterr().err


def test_a_damaged_log_may_be_removed(capsys, damaged):
    directory, _ = damaged
    (directory / FILE).write_text("a,b\n1,2\n")
    assert main([f"--resume={directory}", "--max-steps=6"]) == 2
    assert f"{FILE} is no log of lm.train" in capsys.readouterr().err
    (directory / FILE).unlink()
    assert main([f"--resume={directory}", "--max-steps=6"]) == 0
