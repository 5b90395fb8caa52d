"""`python examples/with_opacus.py`: private training; needs `pip install 'fused-lstm[opacus]'`.

`import fused_lstm.opacus` lets Opacus's ModuleValidator.fix put layers with per-sample gradients in
place of fused_lstm.LSTM and nn.LSTM, where Opacus alone has a step loop, DPLSTM.
"""

from __future__ import annotations

import warnings

import torch
from opacus import PrivacyEngine
from opacus.validators import ModuleValidator
from torch import nn

import fused_lstm.opacus


class Last(nn.Module):
    """A model that says whether a sequence has more positive numbers than negative ones."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = fused_lstm.LSTM(1, 16, batch_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.out(y[:, -1])


def main() -> float:
    """Train it; return its accuracy."""
    warnings.filterwarnings("ignore", module="opacus|torch")  # what Opacus says of itself
    torch.manual_seed(0)
    x = torch.randn(1024, 9, 1)
    labels = (x.sign().sum((1, 2)) > 0).long()
    data = torch.utils.data.TensorDataset(x, labels)
    model = ModuleValidator.fix(Last())
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    engine = PrivacyEngine()
    model, optimizer, loader = engine.make_private(
        module=model, optimizer=optimizer, data_loader=torch.utils.data.DataLoader(data, 64),
        noise_multiplier=0.6, max_grad_norm=1.0,
    )  # fmt: skip
    for _ in range(5):
        for rows, wanted in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows), wanted).backward()
            optimizer.step()
    accuracy = float((model(x).argmax(1) == labels).float().mean())
    kind = type(model._module.lstm)
    print(
        f"{kind.__module__}.{kind.__name__}: accuracy {accuracy:.2f}"
        f" at epsilon {engine.get_epsilon(1e-4):.1f}"
    )
    return accuracy


if __name__ == "__main__":
    main()
