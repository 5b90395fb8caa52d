"""docs/limits.md's table of how LSTM differs from nn.LSTM; test_export.py has the exporters."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import fused_lstm
from cases import rungs
from fused_lstm import native
from tolerance import assert_close

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
NATIVE_MISSING = native.missing(torch.device("cpu"))


def test_the_table_is_there():
    rows = re.findall(r"^\| (.+?) \|", PAGE.read_text().split("## How it differs")[1], re.M)
    for row in ("isinstance", "quantize_dynamic", "script", "trace", "onnx", "vmap", "memory"):
        assert any(row in first for first in rows), row


def test_isinstance():
    assert not isinstance(fused_lstm.LSTM(3, 4), nn.LSTM)
    assert isinstance(fused_lstm.LSTM(3, 4), nn.RNNBase)


def test_quantize_dynamic_wants_nn_lstm():
    model = nn.Sequential(fused_lstm.LSTM(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move it to torchao
        quantize = torch.ao.quantization.quantize_dynamic
        assert type(quantize(model, {nn.LSTM})[0]) is fused_lstm.LSTM
        quantized = quantize(fused_lstm.convert(model, back=True), {nn.LSTM})
    assert type(quantized[0]) is torch.ao.nn.quantized.dynamic.LSTM


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))
def test_vmap_over_weights_and_inputs(engine, fuse):
    models = [fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse) for _ in range(2)]
    weights, _ = stack_module_state(models)
    x = torch.randn(2, 5, 2, 3)
    found = vmap(lambda w, x: functional_call(models[0], w, (x,))[0])(weights, x)
    for n, model in enumerate(models):
        assert_close(found[n].detach(), model(x[n])[0].detach(), f"model {n}")


def test_vmap_of_nn_lstm_is_an_error():
    """When this fails the table's row is out of date."""
    engines = [e for e in ("cudnn", "compile") if fused_lstm.available_engines()[e] is None]
    for lstm in (nn.LSTM(3, 4), *(fused_lstm.LSTM(3, 4, engine=engine) for engine in engines)):
        with pytest.raises(RuntimeError, match=r"Batching rule not implemented|functorch"):
            vmap(lambda x, lstm=lstm: lstm(x)[0])(torch.randn(2, 5, 2, 3))


@pytest.mark.skipif(NATIVE_MISSING is not None, reason=f"native: {NATIVE_MISSING}")
def test_memory_is_kept_until_it_is_released():
    fused_lstm.release_memory()
    fused_lstm.LSTM(200, 200, engine="native")(torch.randn(50, 20, 200))
    assert fused_lstm.release_memory() > 0
    assert fused_lstm.release_memory() == 0


def test_dropout_masks_are_pytorchs_or_ours():
    """Under one seed: one mask of PyTorch's for each engine that draws it, one of ours."""
    found = {}
    for parameter in rungs("compile"):
        engine, fuse = parameter.values
        if fused_lstm.available_engines("cpu")[engine] is not None:
            continue
        torch.manual_seed(0)
        lstm = fused_lstm.LSTM(8, 7, 3, dropout=0.5, engine=engine, fuse=fuse)
        runs = []
        for _ in range(2):
            torch.manual_seed(1)
            runs.append(lstm(torch.ones(6, 5, 8))[0])
        assert torch.equal(*runs), f"{parameter.id}: one seed, one mask"
        found[parameter.id] = runs[0]
    ours = [name for name in found if name.startswith(("triton", "native"))]
    for name in ours:
        assert_close(found[name], found[ours[0]], f"{name} and {ours[0]}")
        assert not torch.allclose(found[name], found["cudnn"])
