"""torchaudio: Tacotron 2, whose decoder is two LSTM cells, called step by step."""

import torch

from .case import Case, mean_square, without_cuda

without_cuda()
from torchaudio.models import Tacotron2  # noqa: E402


def case() -> Case:
    """Return the model and a batch of 8 texts of 40 letters, 30 frames of speech each."""
    model = Tacotron2()
    letters, lengths = torch.randint(1, 148, (8, 40)), torch.full((8,), 40)
    frames, frame_lengths = torch.randn(8, 80, 30), torch.full((8,), 30)

    def call() -> tuple:
        torch.manual_seed(0)  # its prenet drops in inference too
        return model(letters, lengths, frames, frame_lengths)

    return Case(model, call, lambda: mean_square(call()))
