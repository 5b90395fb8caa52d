"""What a kernel's error is in Python."""

from __future__ import annotations

import torch

MEANT = {
    "ValueError": ValueError,
    "IndexError": IndexError,
    "OutOfMemoryError": torch.OutOfMemoryError,
}


def meant(error: Exception) -> Exception:
    """A C++ kernel's error as the exception that its first word names; any other one as it is.

    LibTorch's stable ABI, through which a kernel's errors come, has RuntimeError alone.
    """
    kind, _, message = str(error).partition(": ")
    return MEANT[kind](message) if kind in MEANT else error
