"""The switches that say how exact float32 products are: lm.train's word for them, and who obeys."""

from __future__ import annotations

import pytest
import torch

from lm.device import set_precision
from lm.settings import PRECISIONS
from lm.train import main
from lm_cases import refused, train

SWITCHES = {
    "mkldnn.rnn": torch.backends.mkldnn.rnn,
    "mkldnn.matmul": torch.backends.mkldnn.matmul,
    "cudnn.rnn": torch.backends.cudnn.rnn,
    "cuda.matmul": torch.backends.cuda.matmul,
}
GPU = ("cudnn.rnn", "cuda.matmul")  # which know no bfloat16
EXPECTED = {
    "highest": dict.fromkeys(SWITCHES, "ieee"),
    "high": dict.fromkeys(SWITCHES, "tf32"),
    "medium": dict.fromkeys(SWITCHES, "bf16") | dict.fromkeys(GPU, "tf32"),
}


def seen():
    return {name: switch.fp32_precision for name, switch in SWITCHES.items()}


@pytest.fixture(autouse=True)
def _restore():
    word, before = torch.get_float32_matmul_precision(), seen()
    yield
    torch.set_float32_matmul_precision(word)
    for name, switch in SWITCHES.items():
        switch.fp32_precision = before[name]


@pytest.mark.parametrize("word", PRECISIONS)
def test_one_word_sets_every_switch(word):
    set_precision("medium" if word == "highest" else "highest")
    set_precision(word)
    assert seen() == EXPECTED[word]
    assert torch.get_float32_matmul_precision() == word


def test_a_run_keeps_its_precision(corpus_dir, tmp_path, capsys):
    """In what it says, in its summary and in its checkpoint; a resumed run cannot change it."""
    save, before = f"--save={tmp_path / 'run'}", seen()
    assert train(tmp_path, corpus_dir, "--max-steps=1", "--no-eval")["precision"] is None
    assert seen() == before
    found = train(tmp_path, corpus_dir, "--max-steps=2", "--no-eval", "--precision=high", save)
    assert found["precision"] == "high"
    assert ", float32, precision high on cpu" in capsys.readouterr().out
    assert seen() == EXPECTED["high"]
    set_precision("highest")
    resume = f"--resume={tmp_path / 'run'}"
    message = refused(capsys, main, "train", resume, "--precision=medium")
    assert "--precision cannot change with --resume" in message
    assert main([resume, "--max-steps=3"]) == 0
    assert seen() == EXPECTED["high"]
