"""LSTM kernels that fuse pointwise operations, steps and layers, beside cuDNN's and a step loop."""

from .triton import interpreter

# Before torch.compile or anyone else imports triton, which reads the choice only once.
interpreter.enable()

from .cross_entropy import linear_cross_entropy  # noqa: E402
from .dropout import Dropout, dropout  # noqa: E402
from .engines import ENGINES, available_engines, describe_engine  # noqa: E402
from .lstm import LSTM, lstm  # noqa: E402
from .native import release_memory  # noqa: E402

__all__ = [
    "LSTM",
    "lstm",
    "linear_cross_entropy",
    "Dropout",
    "dropout",
    "ENGINES",
    "available_engines",
    "describe_engine",
    "release_memory",
]
