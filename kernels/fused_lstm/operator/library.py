"""The `native` engine's C++ library, loaded as fused_lstm is imported: it defines its operators.

`torch.ops.load_library(LIBRARY)` is all that a process needs to run them without this package.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from ..errors import meant

LIBRARY = Path(__file__).parents[1] / "native" / "_native.so"

NOT_BUILT = (
    "its C++ library is not there: install a wheel for this machine, or build it: install a C++"
    " compiler, PyTorch and ninja, run `pip install --no-build-isolation -e .` in the project and"
    " look for 'native engine not built' in what it prints"
)


@cache
def load() -> str | None:
    """Load the library; return why it cannot be, or None."""
    if not LIBRARY.exists():
        return NOT_BUILT
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        return f"its C++ library does not load here: {meant(error)}"
    return None
