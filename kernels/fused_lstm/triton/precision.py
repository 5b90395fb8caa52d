"""float32 on a GPU is as precise as nn.LSTM's cuDNN: torch.backends.cudnn.rnn.fp32_precision.

That is TF32 unless told otherwise, by this switch, by a switch that it inherits from (cudnn's, then
the general one) or by the older torch.backends.cudnn.allow_tf32, which sets it. The kernels take it
as a constant. The large products before and after them are torch's, and
torch.backends.cuda.matmul's switch decides their precision: it is set for as long as they take, and
restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def tf32() -> bool:
    """Return whether products of an LSTM may round float32 to TF32, by cuDNN's own switch."""
    switch: Any = torch.backends.cudnn.rnn  # a module, to a checker
    return switch.fp32_precision == "tf32"


def matmul_tf32() -> bool:
    """Return whether torch's own products may round float32 to TF32."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def matmul_as_rnn(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Let products of this dtype follow the LSTM's switch inside the context, not matmul's.

    The switch is the process's, not the thread's: a product that another thread launches meanwhile
    has the same precision. A value that matmul inherited is its own afterwards.
    """
    # Asked first: to read the switches takes microseconds.
    return _float32_as_rnn() if dtype == torch.float32 else nullcontext()


@contextmanager
def _float32_as_rnn() -> Iterator[None]:
    switch, wanted = torch.backends.cuda.matmul, "tf32" if tf32() else "ieee"
    before = switch.fp32_precision
    if (before == "tf32") == (wanted == "tf32"):
        yield
        return
    try:
        older = switch.allow_tf32
    except RuntimeError:  # the older switch says something else: it is left alone
        older = None
    if older is None:
        switch.fp32_precision = wanted
    else:  # both: who reads the older one meanwhile, in another thread, would get an error
        switch.allow_tf32 = wanted == "tf32"
    try:
        yield
    finally:
        if older is not None:
            switch.allow_tf32 = older
        switch.fp32_precision = before


def rounded(x: Tensor) -> Tensor:
    """Round float32 to TF32, to the nearest, ties away from zero, as tile.rounded does."""
    bits = x.view(torch.int32)
    return torch.where(x == x, (bits + 0x1000) & -0x2000, bits).view(torch.float32)
