"""Denormal numbers as zero on all threads, for code around this package's own operators.

A gradient that comes from the last step alone shrinks by about two a step, and in float32 it is
denormal after some 150 steps. Each product with a denormal number then costs a CPU a hundred cycles
or more. The operators of `native` flush by themselves; PyTorch's own do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..operator import library


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Compute with denormal numbers as zero on all of PyTorch's CPU threads inside a `with` block.

    torch.set_flush_denormal does so for the calling thread alone: the other threads of a product
    stay slow. A number below 1.2e-38 in float32 (2.2e-308 in float64) becomes 0. At the block's end
    each thread has what it had before, also after an exception. Without the C++ engine the block
    changes the calling thread alone.

        with fused_lstm.flush_denormals():
            loss = criterion(model(x)[:, -1], target)
            loss.backward()
    """
    if library.load() is None:
        native = torch.ops.fused_lstm_native
        before = native.control_words()
        native.set_control_words([word | native.flush_bits() for word in before])
        try:
            yield
        finally:
            native.set_control_words(before)
        return
    flushed = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def _flushes() -> bool:
    """Return whether the calling thread has denormal numbers as zero."""
    denormal = torch.tensor(2.0**-1060, dtype=torch.float64)
    return (denormal + denormal).item() == 0
