"""Exceptions of C++ kernels."""

from __future__ import annotations

import torch

MEANT = {
    "ValueError": ValueError,
    "IndexError": IndexError,
    "OutOfMemoryError": torch.OutOfMemoryError,
}


def meant(error: Exception) -> Exception:
    """Return the exception that the first word of a C++ kernel's error names, or `error` itself.

    A kernel's errors come through LibTorch's stable ABI, whose only exception is RuntimeError.
    """
    kind, _, message = str(error).partition(": ")
    return MEANT[kind](message) if kind in MEANT else error
