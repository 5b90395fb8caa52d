"""GluonTS: DeepAR for hourly series, as DeepAREstimator makes it by default."""

import torch
from gluonts.torch.model.deepar import DeepARModel

from .case import Case


def case() -> Case:
    """Return the model and a batch of 32 series; inference draws 20 samples of 24 hours."""
    model = DeepARModel("h", 96, 24, num_feat_dynamic_real=5, num_layers=2, hidden_size=40,
                        num_parallel_samples=20, dropout_rate=0.0)  # fmt: skip
    B, past = 32, model._past_length
    inputs = {
        "feat_static_cat": torch.zeros(B, 1, dtype=torch.long),
        "feat_static_real": torch.zeros(B, 1),
        "past_time_feat": torch.randn(B, past, 5),
        "past_target": torch.randn(B, past),
        "past_observed_values": torch.ones(B, past),
        "future_time_feat": torch.randn(B, 24, 5),
    }
    truth = {"future_target": torch.randn(B, 24), "future_observed_values": torch.ones(B, 24)}

    def infer() -> torch.Tensor:
        torch.manual_seed(0)  # it draws its samples
        return model(**inputs)

    return Case(model, infer, lambda: model.loss(**inputs, **truth).mean())
