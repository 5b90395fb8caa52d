"""float32 on a GPU is as precise as nn.LSTM's cuDNN: torch.backends.cudnn.rnn.fp32_precision.

That is TF32 unless told otherwise, by this switch, by those it inherits from (cudnn's, then the
general one) or by the older torch.backends.cudnn.allow_tf32, which sets it. The kernels take it as
a constant. The large products before and after them are torch's, and torch.backends.cuda.matmul's
switch decides those: it is set for as long as they take, and restored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor


def tf32() -> bool:
    """Whether products of an LSTM may round float32 to TF32: asked as cuDNN's own asks."""
    return torch.backends.cudnn.rnn.fp32_precision == "tf32"


def matmul_as_rnn(function: Callable) -> Callable:
    """Run `function`, whose first Tensor has the products' dtype, with matmul's switch as rnn's.

    The switch is the process's, not the thread's: a product that another thread launches meanwhile
    is as precise. A value that matmul inherited is its own afterwards.
    """

    @wraps(function)
    def run(*args):
        first = next(a for a in args if isinstance(a, Tensor))
        switch, wanted = torch.backends.cuda.matmul, "tf32" if tf32() else "ieee"
        before = switch.fp32_precision
        if first.dtype != torch.float32 or (before == "tf32") == (wanted == "tf32"):
            return function(*args)
        switch.fp32_precision = wanted
        try:
            return function(*args)
        finally:
            switch.fp32_precision = before

    return run
