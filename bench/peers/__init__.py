"""Other systems' LSTMs on the same problem, each in a process of its own.

A peer is a module here with a function `build(problem, threads)`, which returns an object with
`answer() -> dict of arrays`, `step()` and `inference()` (or those of them in its `modes`: who
cannot train gives no gradients); `problem` is a dict of NumPy arrays in
PyTorch's layout and gate order, and so is the answer. Both calls return when the work is done. A
peer that trains has `build_learner(lesson, threads)` too, for an object with `answer()`, `train()`
and `rest()`: a training step of the language model, and one without its LSTM (bench/training.py).
Weights go to the library's own gate order and gradients come back from it, so that an order
mapped wrongly cannot pass the check.

torch.compile, the sixth system, is the engine `compile`, which races in the main process. Those for
a GPU alone were written from their documentation and have not met one yet; what they get wrong,
the check of answers refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a peer's process has one library, its own
    import torch


class Peer(NamedTuple):
    module: str  # in this package
    requires: str  # what must be importable, and is a distribution of that name
    devices: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float32", "float64")
    install: str = "make peers, or pip install '.[peers]'"
    at_least: str = "0"  # version
    trains: bool = False
    modes: tuple[str, ...] = ("inference", "step")  # of an LSTM alone
    cells: bool = False  # of cells that nn.LSTM does not have: bench/cells.py times it
    own: bool = False  # of this project: `--before` times it


TENSORFLOW = {"at_least": "2.16", "trains": True}
JAX = "0.4.30"
INFERENCE = ("inference", "call")
ON_GPU = ("cuda",), ("float32", "float16", "bfloat16")

PEERS = {
    "tensorflow": Peer("tensorflow_cell", "tensorflow", **TENSORFLOW),  # unrolled in a graph
    "tensorflow-block-cell": Peer("tensorflow_block_cell", "tensorflow", ("cpu",), **TENSORFLOW),
    "tensorflow-block": Peer("tensorflow_block", "tensorflow", ("cpu",), **TENSORFLOW),
    "tensorflow-xla": Peer("tensorflow_xla", "tensorflow", **TENSORFLOW),
    "keras": Peer("keras_lstm", "tensorflow", **TENSORFLOW),  # cuDNN on a GPU, a loop on a CPU
    # Keras's loop where it leaves its fast path: recurrent_dropout, layer normalization
    "keras-cells": Peer(
        "keras_cells", "tensorflow", ("cpu",), at_least="2.16", modes=("step",), cells=True
    ),
    "jax": Peer("jax_scan", "jax", at_least=JAX, trains=True),  # lax.scan under jit (XLA)
    "onnxruntime": Peer("onnx_runtime", "onnxruntime", ("cpu",), ("float32",), modes=INFERENCE),
    "onnxruntime-int8": Peer(
        "onnx_runtime_int8", "onnxruntime", ("cpu",), ("int8",), modes=INFERENCE
    ),
    "openvino": Peer("open_vino", "openvino", ("cpu",), ("float32", "bfloat16"), modes=INFERENCE),
    "flashrnn": Peer("flash_rnn", "flashrnn", *ON_GPU, "pip install flashrnn"),
    "checkout": Peer("checkout", "torch", dtypes=(*ON_GPU[1], "float64"), modes=(), own=True),
    "torchrl": Peer("torch_rl", "torchrl", *ON_GPU, "pip install torchrl"),
}


# They may have an environment of their own, in which they change no library of this one's.
_APART = Path(__file__).parents[2] / "build" / "peers" / "bin" / "python"
PYTHON = os.environ.get("PEERS_PYTHON") or str(_APART if _APART.exists() else sys.executable)
_ASK = """
import importlib.metadata, importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    if importlib.util.find_spec(name) is not None:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # as tensorflow-cpu is
            found[name] = ""
print(json.dumps(found))
"""


@cache
def installed() -> dict[str, str]:
    """Return what peers require and PYTHON can import, name -> version, "" where it has none."""
    names = sorted({peer.requires for peer in PEERS.values()})
    command = [PYTHON, "-c", _ASK, *names]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"PEERS_PYTHON: got {PYTHON}, which does not run: {error}") from None
    return json.loads(said)


def missing(name: str, device: torch.device) -> str | None:
    """Return why a peer cannot run on a device, and what to do; None if it can."""
    peer = PEERS[name]
    if device.type not in peer.devices:
        return f"runs on {' and '.join(peer.devices)}, not on {device.type}"
    if (version := installed().get(peer.requires)) is None:
        return f"{peer.requires} is not installed; {peer.install}"
    if version and _numbers(version) < _numbers(peer.at_least):
        return f"{peer.requires} {version} is older than {peer.at_least}; {peer.install}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return (2, 21) for 2.21.0rc1."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
