"""Darts: BlockRNNModel with an LSTM, as its fit makes the module."""

import numpy as np
import torch
from darts import TimeSeries
from darts.models import BlockRNNModel
from darts.utils.data.torch_datasets.utils import PLModuleInput

from .case import Case, mean_square

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


def case() -> Case:
    """Return the module for 12 steps after 48, and a batch of 32 series."""
    model = BlockRNNModel(48, 12, model="LSTM", hidden_dim=64, n_rnn_layers=2, n_epochs=1,
                          batch_size=1, pl_trainer_kwargs=QUIET)  # fmt: skip
    model.fit(TimeSeries.from_values(np.sin(np.arange(61.0)).astype("float32")))
    module, x = model.model, PLModuleInput(torch.randn(32, 48, 1))
    return Case(module, lambda: module(x).prediction, lambda: mean_square(module(x).prediction))
