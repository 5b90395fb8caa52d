"""PyTorch Forecasting: its recurrent network, whose LSTM is a subclass of nn.LSTM."""

import numpy as np
import pandas as pd
from pytorch_forecasting import RecurrentNetwork, TimeSeriesDataSet

from .case import Case, mean_square


def case() -> Case:
    """Return the network for 12 steps after 48, and a batch of 32 series."""
    data = pd.DataFrame({
        "series": np.repeat([str(n) for n in range(32)], 60),
        "time": np.tile(np.arange(60), 32),
        "value": np.random.default_rng(0).standard_normal(32 * 60).astype("float32"),
    })  # fmt: skip
    windows = TimeSeriesDataSet(
        data, "time", "value", ["series"], max_encoder_length=48, max_prediction_length=12,
        time_varying_unknown_reals=["value"],
    )  # fmt: skip
    model = RecurrentNetwork.from_dataset(windows, hidden_size=64, rnn_layers=2, dropout=0.0)
    x, _ = next(iter(windows.to_dataloader(train=True, batch_size=32, shuffle=False)))
    return Case(model, lambda: model(x).prediction, lambda: mean_square(model(x).prediction))
