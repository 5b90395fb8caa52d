"""The language model on cells that nn.LSTM does not have: trained, resumed, evaluated, exported."""

import dataclasses

import pytest
import torch

import fused_lstm
from fused_lstm.call.spec import Spec
from lm import checkpoint, evaluate, export
from lm.model import LM_LSTM, build_model
from lm.settings import PRESETS
from lm_cases import refused, train

LAYER_NORM = ["--layer-norm", "--peephole", "--zoneout-h=0.1", "--zoneout-c=0.2",
        "--recurrent-dropout=0.1", "--forget-bias=1"]  # fmt: skip


CELLS = {"layer_norm": LAYER_NORM, "slstm": ["--cell=slstm", "--heads=2"]}


@pytest.fixture(scope="module", params=CELLS)
def trained(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cells")
    line = " ".join(f"w{n}" for n in range(11)) + "\n"
    for split, lines in {"train": 60, "valid": 5, "test": 5}.items():
        (directory / f"{split}.txt").write_text(line * lines)
    options = ["--lstm=auto", "--epochs=3", "--learning-rate=0.05", *CELLS[request.param]]
    summary = train(directory, directory, *options, f"--save={directory / 'saved'}")
    return directory / "saved", summary, request.param


def test_it_learns_and_is_evaluated(trained, capsys):
    directory, summary, _ = trained
    built = fused_lstm.available_engines("cpu")["native"] is None
    assert summary["engine"] == ("native" if built else "loop")
    assert summary["test_perplexity"] < 3  # of 12 words, of which the last tells the next
    assert evaluate.main([str(directory)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(lines["perplexity"]) == pytest.approx(summary["test_perplexity"], rel=1e-3)


def test_a_program_has_the_cell_and_weights_for_nn_lstm_are_refused(trained, capsys, tmp_path):
    directory, _, what = trained
    message = refused(capsys, export.main, "export", directory, f"--output={tmp_path / 'a'}"
                      ".safetensors")  # fmt: skip
    assert f"nn.LSTM has no {what}; a program, *.pt2, has it" in message
    assert export.main([str(directory), f"--output={tmp_path / 'lm.pt2'}"]) == 0
    program = torch.export.load(tmp_path / "lm.pt2").module()
    model = checkpoint.load(directory).model("loop").eval()
    inputs, hidden = torch.randint(12, (1, 4)), model.init_hidden(4)
    torch.testing.assert_close(program(inputs, hidden), model(inputs, hidden))


def test_zarembas_start_is_not_the_gains():
    config = dataclasses.replace(PRESETS["small"], hidden_size=8, layer_norm=True, forget_bias=1.0)
    lstm = build_model(config, 11).lstm
    assert lstm.gain_ih_l1.eq(1).all()
    assert (lstm.bias_ih_l0 + lstm.bias_hh_l0)[8:16].eq(1).all()
    assert lstm.weight_ih_l0.abs().max() <= config.init_scale


@pytest.mark.parametrize("options", [{"weight_drop": 0.5}, {"variational_dropout": True}], ids=str)
def test_beside_dropout_that_the_model_applies(options):
    cell = Spec(peephole=True, recurrent_dropout=0.9)
    models = [LM_LSTM(8, 3, 2, 11, 2, 0.5, cell=c, **options) for c in (cell, Spec(peephole=True))]
    models[1].load_state_dict(models[0].state_dict())
    inputs, found = torch.zeros(3, 2, dtype=torch.int64), []
    for model in models:
        torch.manual_seed(0)
        found.append(model(inputs, model.init_hidden())[0])
    assert not torch.allclose(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--layer-norm --coupled", "coupled: got True with layer_norm=True"),
        ("--lstm tritn", "--lstm: got 'tritn'; expected 'auto' or one of loop"),
        (
            "--lstm cudnn --fuse steps",
            "--fuse: got 'steps'; expected no --fuse with engine 'cudnn'",
        ),
        ("--peephole --lstm cudnn", "peephole: got True with engine='cudnn'"),
        ("--cell slstm --peephole", "peephole: got True; expected False with cell 'slstm'"),
        ("--cell slstm --heads 3 --hidden-size 4", "num_heads: got 3; expected a divisor of"),
        ("--zoneout-h 1.5", "--zoneout-h: got '1.5'; expected a number from 0 to 1"),
    ],
    ids=lambda value: value[:20],
)
def test_bad_options_are_one_line(capsys, options, message):
    from lm.train import main

    assert message in refused(capsys, main, "train", *options.split())
