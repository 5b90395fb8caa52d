"""`python examples/with_lightning.py`: Lightning; needs `pip install fused-lstm lightning`.

A LightningModule holds fused_lstm.LSTM as it holds nn.LSTM. `configure_model` is where Lightning
lets a model be changed: a model with nn.LSTM is converted there, and its checkpoints stay loadable
without fused_lstm, since parameters have nn.LSTM's names.
"""

from __future__ import annotations

import lightning
import torch
from torch import nn

import fused_lstm


class Counter(lightning.LightningModule):
    """A model that says how many ones it has seen at each step, 0 to 3 and more."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 32, batch_first=True)
        self.out = nn.Linear(32, 4)

    def configure_model(self) -> None:
        fused_lstm.convert(self)

    def training_step(self, batch, index):
        x, counts = batch
        y, _ = self.lstm(x)
        loss = nn.functional.cross_entropy(self.out(y).flatten(0, 1), counts.flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def main() -> float:
    """Train it; return the last loss."""
    lightning.seed_everything(0, verbose=False)
    ones = (torch.rand(512, 12, 1) < 0.2).float()
    counts = ones.cumsum(1)[..., 0].clamp(max=3).long()
    data = torch.utils.data.TensorDataset(ones, counts)
    loader = torch.utils.data.DataLoader(data, 32, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Counter()
    trainer.fit(model, loader)
    loss = float(trainer.callback_metrics["loss"])
    print(f"{type(model.lstm).__module__}.{type(model.lstm).__name__}: loss {loss:.3f}")
    return loss


if __name__ == "__main__":
    main()
