"""LSTM kernels that fuse pointwise operations, steps and layers, beside cuDNN's and a step loop."""

from .triton import interpreter

# Before torch.compile or anyone else imports triton, which reads the choice only once.
interpreter.enable()

from .engines import ENGINES, available_engines, describe_engine  # noqa: E402
from .lstm import LSTM, lstm  # noqa: E402

__all__ = ["ENGINES", "LSTM", "available_engines", "describe_engine", "lstm"]
