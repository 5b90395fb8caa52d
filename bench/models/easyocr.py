"""EasyOCR: the recogniser of its second generation for English, before it is quantized."""

import torch
from easyocr.model.vgg_model import Model

from .case import Case, of


def case() -> Case:
    """Return the model and a batch of 8 lines of 64 by 320 pixels."""
    return of(Model(1, 256, 256, 97), torch.randn(8, 1, 64, 320), None)
