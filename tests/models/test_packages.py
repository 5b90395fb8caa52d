"""Other packages' models with this library's kernels in them: equal, and what failed once."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import fused_lstm
from tolerance import assert_close

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]
bench = importlib.import_module("bench.models")


# Packages that compute in float32 alone, whatever their weights have.
IN_FLOAT32 = {"darts", "pyannote", "pytorch_forecasting", "sb3", "tianshou"}


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def case_of(name):
    """A package's case with the seed's weights and inputs; a skip without the package."""
    torch.manual_seed(0)
    try:
        return importlib.import_module(f"bench.models.{name}").case()
    except ImportError as error:
        pytest.skip(f"{name}: {error}")


def same(model, tolerance):
    """Outputs, loss and each parameter's gradient are torch's, relative to its largest value."""
    found = []
    for context in bench.LABELS.values():
        with context():
            found.append({"outputs": model.outputs()} | model.gradients())
    expected, ours = found
    largest = max(t.abs().max() for name, t in expected.items() if name != "outputs")
    for name, right in expected.items():
        # Some gradients are zero but for rounding, such as that of a bias before a softmax.
        allowed = max(tolerance * right.abs().max(), torch.finfo(right.dtype).eps * largest)
        assert (ours[name] - right).abs().max() <= allowed, name


@pytest.mark.parametrize("name", [name for name in bench.NAMES if name not in IN_FLOAT32])
@pytest.mark.usefixtures("_float64")
def test_outputs_loss_and_each_gradient_are_torchs_in_float64(name):
    """In float32 a rounding before a leaky ReLU may choose its other slope."""
    same(bench.Model(case_of(name)), 1e-9)


@pytest.mark.parametrize("name", sorted(IN_FLOAT32))
def test_outputs_loss_and_each_gradient_are_torchs_in_float32(name):
    same(bench.Model(case_of(name)), 1e-3)


@pytest.mark.parametrize("name", bench.NAMES)
def test_its_layers_run_ours(name):
    model = case_of(name).model
    before = fused_lstm.explain(model)
    with fused_lstm.install():
        now = fused_lstm.explain(model)
    assert before
    assert all(what.startswith("torch's own") for what in before.values())
    assert all(what.startswith("native") for what in now.values())


@pytest.mark.usefixtures("_float64")
def test_kokoros_pitch_and_its_gradients():
    """It lies behind leaky ReLUs, so that the case's loss in float32 leaves it out."""
    model = case_of("kokoro").model.eval()
    x, style = torch.randn(1, 512 + 128, 30), torch.randn(1, 128)
    wanted, found = list(model.predictor.parameters()), []
    for context in bench.LABELS.values():
        with context():
            pitch = torch.cat(model.predictor.F0Ntrain(x, style))
            grads = torch.autograd.grad(pitch.square().sum(), wanted, allow_unused=True)
            found.append([pitch.detach(), *(g for g in grads if g is not None)])
    for right, ours in zip(*found, strict=True):
        assert_close(ours, right, "pitch and gradients")


REFUSED = """
import opacus, torch, fused_lstm
private = opacus.GradSampleModule(torch.nn.Sequential(fused_lstm.LSTM(3, 4, batch_first=True)))
private(torch.randn(5, 2, 3))
"""


def test_opacus_without_our_module_is_refused():
    """It passes Opacus's validator, and failed deep inside the first backward.

    In a process of its own: fused_lstm.opacus registers itself where it is imported.
    """
    pytest.importorskip("opacus", reason="opacus is not installed")
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True)
    assert "ValueError" in done.stderr
    assert "under Opacus; expected fused_lstm.opacus.LSTM" in done.stderr


@pytest.mark.usefixtures("_float64")
def test_attentive_fps_relu_in_place_after_its_cells(monkeypatch):
    """GRUCell's outputs are written over by relu_, in training; once that was refused."""
    models = pytest.importorskip("torch_geometric.nn.models", reason="it is not installed")
    module, ran = sys.modules["fused_lstm.adopt.install"], []
    monkeypatch.setattr(module, "cell_pays", lambda *_: True)  # torch's are faster in training
    monkeypatch.setattr(module, "run", lambda *a, run=module.run: ran.append(1) or run(*a))
    torch.manual_seed(0)
    model = models.AttentiveFP(8, 16, 2, edge_dim=4, num_layers=2, num_timesteps=2)
    graph = torch.randn(6, 8), torch.randint(6, (2, 12)), torch.randn(12, 4)
    molecule, found = torch.tensor([0, 0, 0, 1, 1, 1]), []
    for context in bench.LABELS.values():
        with context():
            y = model(*graph, molecule)
            found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    assert len(ran) == 4  # a layer of atoms and the next one, and two steps of molecules
    for right, ours in zip(*found, strict=True):
        assert_close(ours, right, "y and gradients")


# A server loads a model, never runs it, and forks workers that do.
FORKS = """
import multiprocessing, sys
sys.path.insert(0, ".")
import torch, fused_lstm
from bench.models.openunmix import case

model = case()

def work(_):
    with torch.no_grad(), fused_lstm.install():
        assert all(what.startswith("native") for what in fused_lstm.explain(model.model).values())
        ours = model.infer()
    with torch.no_grad():
        return float((ours - model.infer()).abs().max())

model.model.eval()
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(max(pool.map(work, range(2))))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_workers_forked_from_a_parent_that_ran_nothing():
    """They waited for ever for threads that they do not have.

    So do torch's own operators where the parent has run one on several threads: EnCodec's in its
    weight norm, PyTorch Geometric's in an argsort.
    """
    case_of("openunmix")
    run = [sys.executable, "-c", FORKS]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


def test_skorch_builds_its_module_in_fit():
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(3, 4, batch_first=True)

        def forward(self, x):
            return self.layer(x)[0][:, -1]

    net = skorch.NeuralNetRegressor(Last, max_epochs=1, train_split=None, verbose=0)
    with fused_lstm.install():
        net.fit(torch.randn(8, 5, 3).numpy(), torch.randn(8, 4).numpy())
        assert fused_lstm.explain(net.module_)["layer"].startswith("native")


def test_darts_keeps_it_over_save_and_load(tmp_path):
    darts = pytest.importorskip("darts.models", reason="darts is not installed")
    import numpy as np
    from darts import TimeSeries

    from bench.models.darts import QUIET

    series = TimeSeries.from_values(np.sin(np.arange(40.0)).astype("float32"))
    with fused_lstm.install():
        model = darts.BlockRNNModel(8, 2, model="GRU", n_epochs=1, pl_trainer_kwargs=QUIET)
        model.fit(series)
        model.save(str(tmp_path / "model.pt"))
        again = darts.BlockRNNModel.load(str(tmp_path / "model.pt"))
        assert all(w.startswith("native") for w in fused_lstm.explain(again.model).values())
        assert np.allclose(again.predict(2).values(), model.predict(2).values())


def test_neuralforecast_keeps_it_over_save_and_load(tmp_path):
    models = pytest.importorskip("neuralforecast.models", reason="neuralforecast is not installed")
    model = models.LSTM(h=2, input_size=4, encoder_hidden_size=8)
    model.save(str(tmp_path / "model"))
    with fused_lstm.install():
        again = models.LSTM.load(str(tmp_path / "model"))
        assert fused_lstm.explain(again)["hist_encoder"].startswith("native")
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_flair_keeps_it_over_save_and_load(tmp_path):
    case = case_of("flair")
    case.model.save(tmp_path / "model.pt")
    with fused_lstm.install():
        again = type(case.model).load_language_model(tmp_path / "model.pt")
        assert fused_lstm.explain(again)["rnn"].startswith("native")


def test_krakens_initialiser():
    """It asks isinstance, and passed over a converted layer."""
    vgsl = pytest.importorskip("kraken.lib.vgsl", reason="kraken is not installed")
    with fused_lstm.install():
        layer = vgsl.TorchVGSLModel(vgsl="[1,8,0,1 S1(1x0)1,3 Lbx6 O1c5]").nn[1].layer
        assert layer.bias_ih_l0.tolist()[6:12] == [1.0] * 6
        assert fused_lstm.explain(layer)[""].startswith("native")


def test_transformers_initialiser():
    """It asks isinstance, and passed over a converted layer."""
    case_of("parakeet")
    import transformers

    encoder = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16,
               "num_attention_heads": 2, "subsampling_conv_channels": 8}  # fmt: skip
    config = transformers.ParakeetRNNTConfig(encoder_config=encoder, decoder_hidden_size=8)
    with fused_lstm.install():
        layer = transformers.ParakeetForRNNT(config).decoder.lstm
        assert not any(bias.any() for name, bias in layer.named_parameters() if "bias" in name)
        assert fused_lstm.explain(layer)[""].startswith("native")


def test_sileros_scripted_cell_is_left_and_said():
    silero = pytest.importorskip("silero_vad", reason="silero-vad is not installed")
    model = silero.load_silero_vad()
    with fused_lstm.install():
        said = fused_lstm.explain(model)
    assert said
    assert all("torch.jit has compiled it" in what for what in said.values())
    assert set(fused_lstm.conversions(model).values()) == {"torch.jit has compiled it"}


def test_tacotron_2s_cells_are_torchs_in_training(monkeypatch):
    """They are faster there; in inference native is, from one row on, since the cells are large."""
    model, ran = case_of("torchaudio").model.decoder.attention_rnn, []
    module = sys.modules["fused_lstm.adopt.install"]
    monkeypatch.setattr(module, "run", lambda *a, run=module.run: ran.append(1) or run(*a))
    with fused_lstm.install():
        model(torch.randn(64, model.input_size))
        assert ran == []
        with torch.no_grad():
            model(torch.randn(1, model.input_size))
        assert ran == [1]


def test_easyocr_quantized_is_left_and_said():
    vgg = pytest.importorskip("easyocr.model.vgg_model", reason="easyocr is not installed")
    model = vgg.Model(1, 256, 256, 97).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM})
    with fused_lstm.install():
        said = fused_lstm.explain(model)
    assert len(said) == 2
    assert all("it is quantized" in what for what in said.values())


def test_pytorch_forecastings_subclass_is_saved_and_loaded():
    module = pytest.importorskip(
        "pytorch_forecasting.layers", reason="pytorch-forecasting is not installed"
    )
    kind = (
        getattr(module, "LSTM", None)
        or importlib.import_module("pytorch_forecasting.models.nn.rnn").LSTM
    )
    layer, file, x = kind(3, 4, batch_first=True), io.BytesIO(), torch.randn(2, 5, 3)
    with fused_lstm.install():
        expected = layer(x)[0]
        torch.save(layer, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert type(again) is kind
        assert torch.equal(again(x)[0], expected)
        assert fused_lstm.explain(again)[""].startswith("native")
