"""EnCodec: the causal model of 24 kHz."""

import torch

from .case import Case, mean_square, without_cuda

without_cuda()
from encodec import EncodecModel  # noqa: E402


def case() -> Case:
    """Return the model and one second of sound."""
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    sound = torch.randn(1, 1, 24000)
    return Case(
        model,
        lambda: model.encoder(sound),
        lambda: mean_square(model.decoder(model.encoder(sound))),
    )
