"""Kokoro: the text-to-speech model of 82 million weights, as its configuration has it."""

import tempfile

import torch

from .case import Case, mean_square, without_cuda

without_cuda()
from kokoro import KModel  # noqa: E402

CONFIG = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12], "upsample_rates": [10, 6], "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20, "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "resblock_kernel_sizes": [3, 7, 11], "upsample_initial_channel": 512,
    },
    "dim_in": 64, "dropout": 0.2, "hidden_dim": 512, "max_conv_dim": 512, "max_dur": 50,
    "multispeaker": True, "n_layer": 3, "n_mels": 80, "n_token": 178, "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 2048,
               "max_position_embeddings": 512, "num_hidden_layers": 12, "dropout": 0.1},
    "vocab": {},
}  # fmt: skip


def case() -> Case:
    """Return the model and 20 tokens; the loss is the predictor's and the text encoder's."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save({}, file.name)  # no weights of others: those that it is made with
        model = KModel(repo_id="random", config=CONFIG, model=file.name)
    tokens, style = torch.randint(1, 178, (1, 20)), torch.randn(1, 256)
    lengths, mask = torch.tensor([20]), torch.zeros(1, 20, dtype=torch.bool)

    def train() -> torch.Tensor:
        text = model.bert_encoder(model.bert(tokens, attention_mask=(~mask).int())).transpose(1, 2)
        parts = model.predictor.text_encoder(text, style[:, 128:], lengths, mask)
        y, _ = model.predictor.lstm(parts)
        alignment = torch.eye(20).repeat_interleave(4, 1)[None]
        # Not the pitch behind it, whose leaky ReLUs turn a rounding into another gradient.
        shared, _ = model.predictor.shared((parts.transpose(1, 2) @ alignment).transpose(1, 2))
        return mean_square((y, shared, model.text_encoder(tokens, lengths, mask)))

    def infer() -> tuple:
        torch.manual_seed(0)  # of the noise in its voice
        return model.forward_with_tokens(tokens, style, speed=25)

    return Case(model, infer, train)
