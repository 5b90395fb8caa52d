"""Other packages' models with this library's kernels in them: equal, and what failed once."""

from __future__ import annotations

import importlib
import io
import sys
import warnings

import pytest
import torch
from torch import nn

import fused_lstm

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]
bench = pytest.importorskip("bench.models", reason="bench needs pandas")
from bench.core import require_right  # noqa: E402


@pytest.mark.parametrize("name", bench.NAMES)
def test_outputs_loss_and_gradients_are_torchs(name):
    torch.manual_seed(0)
    try:
        case = importlib.import_module(f"bench.models.{name}").case()
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    model = bench.Model(case)
    before = fused_lstm.explain(case.model)
    expected = model.answer()
    with fused_lstm.install():
        found, now = model.answer(), fused_lstm.explain(case.model)
    require_right(name, found, expected)
    assert before
    assert all(what.startswith("torch's own") for what in before.values())
    assert all(what.startswith("native") for what in now.values())


def test_opacus_without_our_module_is_refused():
    """It passes Opacus's validator, and failed deep inside the first backward."""
    opacus = pytest.importorskip("opacus", reason="opacus is not installed")
    if "fused_lstm.opacus" in sys.modules:
        pytest.skip("fused_lstm.opacus has been imported, which registers itself")
    model = nn.Sequential(fused_lstm.LSTM(3, 4, batch_first=True))
    private = opacus.GradSampleModule(model)
    with pytest.raises(ValueError, match=r"under Opacus; expected fused_lstm.opacus.LSTM"):
        private(torch.randn(5, 2, 3))


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
