"""A checkpoint comes back as it was, on any engine; the last good one survives what goes wrong."""

import os
import shutil

import pytest
import torch

from lm.config import PRESETS
from lm.errors import UserError
from lm.model import build_model
from lm.saving import checkpoint

VOCABULARY = ("<eos>", "été", "<unk>", '"')
CONFIG = PRESETS["demo"]


def save(directory, step=7):
    model = build_model(CONFIG, len(VOCABULARY), lstm="cudnn")
    return model, checkpoint.save(directory, step, model, CONFIG, VOCABULARY)


@pytest.mark.parametrize("engine", ["cudnn", "loop", "triton"])
def test_a_checkpoint_comes_back_on_any_engine(tmp_path, engine):
    model, path = save(tmp_path)
    assert path == tmp_path / "checkpoint-0000007"
    found = checkpoint.load(tmp_path)
    assert (found.step, found.config, found.vocabulary) == (7, CONFIG, VOCABULARY)
    again = found.model(engine)
    assert again.lstm.engine == engine
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_float64_stays_float64(tmp_path):
    model = build_model(CONFIG, len(VOCABULARY), lstm="cudnn").double()
    checkpoint.save(tmp_path, 1, model, CONFIG, VOCABULARY)
    again = checkpoint.load(tmp_path).model("cudnn")
    assert torch.equal(again.sm_fc.weight, model.sm_fc.weight)
    assert again.lstm.weight_hh_l0.dtype == torch.float64


def test_weights_have_nn_lstms_names(tmp_path):
    save(tmp_path)
    names = checkpoint.load(tmp_path).weights.keys()
    lstm = {name.removeprefix("lstm.") for name in names if name.startswith("lstm.")}
    assert lstm == set(torch.nn.LSTM(2, 2).state_dict())


def test_only_the_newest_is_kept(tmp_path):
    for step in (9, 10, 12345678):
        save(tmp_path, step)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-12345678"]
    assert checkpoint.load(tmp_path).step == 12345678


def test_a_failure_while_saving_leaves_the_last_good_one(tmp_path, monkeypatch):
    model, path = save(tmp_path, 1)
    real, synced = os.fsync, []

    def full_disk(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*training\.safetensors': No space left"):
        save(tmp_path, 2)
    assert len(synced) == 2
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(checkpoint.load(tmp_path).weights["sm_fc.weight"], model.sm_fc.weight)


def test_what_a_killed_save_leaves_is_no_checkpoint(tmp_path):
    _, path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".checkpoint-0000002.99.tmp")
    assert checkpoint.all_in(tmp_path) == [path]
    _, path = save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    """It may be written to all the same."""

    def refuse(directory):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint.Path, "iterdir", refuse)
    for ask in (checkpoint.all_in, checkpoint.newest, checkpoint.load):
        with pytest.raises(UserError, match=f"'{tmp_path}': Permission denied"):
            ask(tmp_path)
    path = tmp_path / "checkpoint-0000001"
    path.mkdir()
    assert checkpoint.newest(path) == path


def test_a_directory_without_a_checkpoint_is_named(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds no checkpoint"):
            checkpoint.load(directory)
