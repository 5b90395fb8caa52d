"""LSTM, GRU and RNN kernels that fuse pointwise operations, steps and layers.

Modules that a user imports lie flat: zoo, heads, opacus, compare, philox. The rest are folders:

    layers, loops     torch.nn's modules, cells of one's own, a person's step
    adopt             what replaces torch.nn's modules in a model
    cells             a cell as a program, and what prints and compiles it
    call              a call's record, its layout and rows, and which engine runs it
    operator          what torch's dispatcher sees: schemas, fakes, derivatives
    reference         every cell in plain PyTorch, step by step: read it first
    native, triton    the engines of this project; engines: those that are PyTorch's own
    training, inference  recomputation, loss, dropout; weights packed once, CUDA graphs
"""

from .triton import interpreter

# Before triton is imported, which reads the choice of its interpreter only once.
interpreter.enable()

from torch.serialization import add_safe_globals  # noqa: E402

from .adopt.convert import conversions, convert  # noqa: E402
from .adopt.explain import explain  # noqa: E402
from .adopt.install import install, uninstall  # noqa: E402
from .call.choose import ENGINES, available_engines, describe_engine  # noqa: E402
from .call.run import lstm  # noqa: E402
from .call.spec import Spec  # noqa: E402
from .cells import Cell, cell  # noqa: E402
from .inference.graphs import graphed  # noqa: E402
from .inference.prepare import Prepared, prepare, quantize  # noqa: E402
from .layers.custom import Recurrent  # noqa: E402
from .layers.modules import GRU, LSTM, RNN, SLSTM, GRUCell, LSTMCell, RNNCell  # noqa: E402
from .layers.streaming import Streaming  # noqa: E402
from .loops import Fused, as_resets, fuse  # noqa: E402
from .native import release_memory  # noqa: E402
from .training.cross_entropy import linear_cross_entropy  # noqa: E402
from .training.denormals import flush_denormals  # noqa: E402
from .training.dropout import Dropout, dropout  # noqa: E402

# torch.load(weights_only=True) then takes a module that was saved whole.
add_safe_globals(
    [LSTM, GRU, RNN, SLSTM, Recurrent, LSTMCell, GRUCell, RNNCell, Dropout, Prepared, Spec]
)

__version__ = "0.1.0"  # the only place: pyproject.toml reads it here

__all__ = [
    "__version__",
    "LSTM",
    "lstm",
    "GRU",
    "RNN",
    "SLSTM",
    "cell",
    "Cell",
    "Recurrent",
    "fuse",
    "Fused",
    "as_resets",
    "LSTMCell",
    "GRUCell",
    "RNNCell",
    "Streaming",
    "Spec",
    "convert",
    "conversions",
    "prepare",
    "quantize",
    "graphed",
    "install",
    "uninstall",
    "explain",
    "linear_cross_entropy",
    "Dropout",
    "dropout",
    "ENGINES",
    "available_engines",
    "describe_engine",
    "release_memory",
    "flush_denormals",
]
