"""pyannote.audio: PyanNet, which segments speech, with its defaults."""

import torch

from .case import Case, of, without_cuda

without_cuda()
from pyannote.audio.core.task import Problem, Resolution, Specifications  # noqa: E402
from pyannote.audio.models.segmentation import PyanNet  # noqa: E402


def case() -> Case:
    """Return the model of four speakers and a batch of 2 windows of 10 seconds."""
    model = PyanNet(
        lstm={
            "hidden_size": 128,
            "num_layers": 4,
            "bidirectional": True,
            "monolithic": True,
            "dropout": 0.0,
        }
    )
    model.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION, resolution=Resolution.FRAME, duration=10.0,
        classes=["1", "2", "3", "4"],
    )  # fmt: skip
    model.build()
    return of(model, torch.randn(2, 1, 160000))
