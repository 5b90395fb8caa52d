"""NeuralForecast: its LSTM, a recurrent encoder and a decoder of a few layers."""

import torch
from neuralforecast.models import LSTM

from .case import Case, of


def case() -> Case:
    """Return the model for 12 steps, and a batch of 32 windows of 48."""
    model = LSTM(h=12, input_size=48, encoder_hidden_size=128, encoder_n_layers=2)
    windows = dict.fromkeys(("futr_exog", "hist_exog", "stat_exog"))
    return of(model, windows | {"insample_y": torch.randn(32, 48, 1)})
