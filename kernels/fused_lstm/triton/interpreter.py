"""Triton's interpreter: on a machine without a GPU the same kernels run on the CPU, slowly.

Triton decides when a kernel is defined, by the environment variable TRITON_INTERPRET, so
`enable` must run before anything imports triton; fused_lstm.triton and engines.compiled call it.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType

import torch

VARIABLE = "TRITON_INTERPRET"


def enable() -> None:
    """Choose the interpreter where there is no GPU and the user has not chosen."""
    if not torch.cuda.is_available() and "triton" not in sys.modules:
        os.environ.setdefault(VARIABLE, "1")


def is_interpreted() -> bool:
    """Return whether the kernels of this process run in the interpreter."""
    import triton

    return triton.knobs.runtime.interpret


def version(module: ModuleType) -> tuple[int, ...]:
    """Return the first two numbers of a module's version."""
    return tuple(map(int, module.__version__.split(".")[:2]))


def too_old() -> str | None:
    """Return why the installed interpreter cannot run, or None where it can.

    Triton before 3.7 makes a loop's bound an integer in a way that numpy 2.4 refuses.
    """
    import numpy
    import triton

    if version(triton) >= (3, 7) or version(numpy) < (2, 4):
        return None
    return (
        f"the interpreter of triton {triton.__version__} does not run on numpy {numpy.__version__}:"
        " pip install 'numpy<2.4' or a newer triton"
    )


@cache
def announce() -> None:
    """Say once that this verifies and does not race."""
    print(
        "triton: no GPU, so the kernels run in Triton's interpreter: it verifies them, slowly;"
        " it says nothing about their speed",
        file=sys.stderr,
    )
