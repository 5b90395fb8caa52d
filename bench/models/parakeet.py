"""Parakeet: the prediction network of its transducer, two LSTM layers, in transformers' sizes."""

import torch

from .case import Case, mean_square, without_cuda

without_cuda()
from transformers import ParakeetRNNTConfig  # noqa: E402
from transformers.models.parakeet.generation_parakeet import ParakeetRNNTDecoderCache  # noqa: E402
from transformers.models.parakeet.modeling_parakeet import ParakeetRNNTDecoder  # noqa: E402


def case() -> Case:
    """Return the network; inference takes 20 tokens one by one, training 8 texts of 60 tokens."""
    sizes = ParakeetRNNTConfig()
    model = ParakeetRNNTDecoder(sizes)
    tokens = torch.randint(sizes.blank_token_id, (8, 60))

    def infer() -> torch.Tensor:
        state = ParakeetRNNTDecoderCache(sizes)
        return torch.cat([model(token, state).clone() for token in tokens[:1, :20].split(1, 1)], 1)

    return Case(model, infer, lambda: mean_square(model(tokens)))
