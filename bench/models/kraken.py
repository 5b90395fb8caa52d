"""kraken: the recogniser of text lines that its training makes by default."""

import torch
from kraken.configs.vgsl import VGSLRecognitionTrainingConfig
from kraken.lib.vgsl import TorchVGSLModel

from .case import Case, mean_square


def case() -> Case:
    """Return the model of 97 characters and a batch of 4 lines of 600 to 1,200 pixels."""
    spec = VGSLRecognitionTrainingConfig().spec
    model = TorchVGSLModel(vgsl=f"[{spec[1:-1]} O1c97]")
    lines, widths = torch.rand(4, 1, 120, 1200), torch.tensor([1200, 1000, 800, 600])

    def call() -> torch.Tensor:
        return model(lines, widths.clone())[0]

    return Case(model, call, lambda: mean_square(call()))
