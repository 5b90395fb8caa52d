"""Exceptions of C++ kernels and of users' own functions."""

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


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type's name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
