"""Contenders: every engine and fuse level of fused_lstm.ENGINES, and bench.peers.

Nothing else here knows an engine by name, except the tables below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import fused_lstm

from . import peers

BASE = "cudnn"  # nn.LSTM: all others are checked against it, and compared with it
LOOP = "loop-none"
OURS, PREPARED, WITHOUT = "native-layers", "native-prepared", "nn.LSTM without oneDNN"
NAMES = {  # what a reader calls them
    BASE: "nn.LSTM",
    LOOP: "step loop",
    PREPARED: "native, prepared",
    "compile": "torch.compile",
    "tensorflow": "TensorFlow",
    "tensorflow-block-cell": "TensorFlow LSTMBlockCell",
    "tensorflow-block": "TensorFlow BlockLSTM",
    "tensorflow-xla": "TensorFlow XLA",
    "keras": "Keras LSTM",
    "jax": "JAX scan",
    "flashrnn": "FlashRNN",
    "torchrl": "TorchRL",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}


COMPILE_FOR_MINUTES = ("compile", "tensorflow-xla")  # the unrolled steps of larger models


@dataclass(frozen=True)
class Contender:
    """One row of a table. `fuse` is None where the engine decides itself, and for peers."""

    label: str
    engine: str
    fuse: str | None = None
    peer: bool = False
    stock: bool = False  # trains with stock PyTorch's loss and update, not with this project's


NN_LSTM = Contender(BASE, "cudnn")


def engines() -> list[Contender]:
    """Return every engine of the table with each of its levels, from the lowest."""
    return [
        Contender(name if fuse is None else f"{name}-{fuse}", name, fuse)
        for name, engine in fused_lstm.ENGINES.items()
        for fuse in engine.fuses or (None,)
    ]


def everyone() -> list[Contender]:
    """Return engines and peers that run an LSTM alone."""
    able = [name for name, peer in peers.PEERS.items() if not peer.cells and not peer.own]
    return engines() + [Contender(name, name, peer=True) for name in able]


def of_labels(*labels: str) -> Callable[[], list[Contender]]:
    """Return what picks the contenders with these labels."""
    return lambda: [c for c in everyone() if c.label in labels]


def trainers() -> list[Contender]:
    """Return the contenders that train a whole language model.

    Peers; every engine and level in the post's program as stock PyTorch runs it, from the step loop
    upwards; and each engine that fuses anything, at its highest level, with this project's loss and
    update, which come on top. torch.compile, which takes minutes, is among the LSTMs alone.
    """
    stock = [c for c in engines() if c.engine != "compile"]
    top = {c.engine: c for c in stock if c.engine != "loop"}
    return [
        *(c for c in everyone() if c.peer and peers.PEERS[c.engine].trains),
        *(replace(c, label=f"stock-{c.label}", stock=True) for c in stock),
        *top.values(),
    ]


def highest() -> list[Contender]:
    """Return nn.LSTM, and the highest level of each engine with kernels of its own."""
    top = {c.engine: c for c in engines()}
    return [c for c in top.values() if c.label == BASE or c.fuse in fused_lstm.call.choose.FUSED]


def why_not(contender: Contender, device: torch.device, dtype: str = "float32") -> str | None:
    """Return why a contender is not timed on a device, in a dtype; None if it can be."""
    if contender.peer:
        peer = peers.PEERS[contender.engine]
        fits = dtype in peer.dtypes
        return peers.missing(contender.engine, device) if fits else f"does not run in {dtype} here"
    if (contender.engine, device.type) == ("triton", "cpu"):
        return "Triton's interpreter verifies and does not race"
    return fused_lstm.available_engines(device)[contender.engine]


def choose(names: Sequence[str], known: Sequence[Contender]) -> list[Contender]:
    """Return the contenders that `names` ask for: a label, or an engine for all of its levels.

    Raises:
        ValueError: a name that is neither; lists what there is.
    """
    for name in names:
        if not any(name in (c.label, c.engine) for c in known):
            labels = ", ".join(dict.fromkeys(n for c in known for n in (c.engine, c.label)))
            raise ValueError(f"engines: got {name!r}; expected of {labels}")
    return [c for c in known if c.label in names or c.engine in names]


def in_default_run(contender: Contender, case: str) -> bool:
    """Return whether it is timed without having been asked for."""
    return case == "small" or contender.engine not in COMPILE_FOR_MINUTES


def entered(
    known: Sequence[Contender], options: Any, case: str, dtype: str = ""
) -> tuple[list[Contender], dict[str, str]]:
    """Return those of `known` that run as options ask, and label -> why others cannot.

    nn.LSTM runs too, asked for or not.
    """
    few = "" if options.quick else case
    asked = [c for c in known if options.engines == "all" or in_default_run(c, few)]
    if options.engines not in (None, "all"):
        asked = choose(options.engines.split(","), known)
    bases = [c for c in known if c.label in (BASE, f"stock-{BASE}")]
    asked = bases + [c for c in asked if c not in bases]
    dtype = dtype or str(options.dtype).removeprefix("torch.")
    whys = {c.label: why_not(c, options.device, dtype) for c in asked}
    able = [c for c in asked if not whys[c.label]]
    return able, {label: why for label, why in whys.items() if why}
