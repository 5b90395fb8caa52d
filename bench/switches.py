"""PyTorch's switches for float32 products, held for as long as something is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


@contextmanager
def held(name: str, value: object, *switches: Any) -> Iterator[None]:
    """Have the attribute `name` of each be `value` until the end of the block."""
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, value)
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            setattr(switch, name, old)


def full_float32() -> AbstractContextManager[None]:
    """Hold float32 on a GPU too, where cuDNN rounds to TF32: losses then agree."""
    return held("allow_tf32", False, torch.backends.cuda.matmul, torch.backends.cudnn)


def onednn_float32(word: str) -> AbstractContextManager[None]:
    """Hold "ieee", "tf32" or "bf16" on a CPU: the LSTM's switch and the softmax layer's."""
    onednn: Any = torch.backends.mkldnn
    return held("fp32_precision", word, onednn.rnn, onednn.matmul)
