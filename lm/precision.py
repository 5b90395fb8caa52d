"""How exact the products of float32 are: PyTorch's own switches, set by one word."""

from __future__ import annotations

import torch

# --precision -> what the switches call it: 24 bits, TensorFloat-32's 11, bfloat16's 8.
PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


def set_precision(word: str) -> None:
    """Allow float32 products to round their factors, for the rest of the process.

    The word is `torch.set_float32_matmul_precision`'s, which decides for the softmax layer; the
    LSTM has switches of its own. Where hardware has nothing faster, products stay exact.
    """
    switch = PRECISIONS[word]
    torch.set_float32_matmul_precision(word)
    torch.backends.mkldnn.rnn.fp32_precision = switch
    # cuDNN's knows no bfloat16.
    torch.backends.cudnn.rnn.fp32_precision = "ieee" if switch == "ieee" else "tf32"
