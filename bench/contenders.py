"""Who may race: every engine and fuse level of fused_lstm.ENGINES, and the peers of bench.peers.

Nothing else here knows an engine by name, except the two tables of exceptions below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

import fused_lstm

from . import peers
from .work import SIZES

BASE = "cudnn"  # nn.LSTM: all others are checked against it, and compared with it
LOOP = "loop-none"

# (engine, device) -> why its time would say nothing.
NEVER_TIMED = {("triton", "cpu"): "Triton's interpreter verifies and does not race"}

# In a default run, which is to end within 8 minutes on two cores, only at these sizes: what
# compiles for minutes before it runs, and peers where a round of theirs takes many seconds.
DEFAULT_SIZES = {
    "compile": ("small",),
    "tensorflow": ("small", "medium"),
    "tensorflow-xla": ("small",),
    "keras": ("small", "medium"),
    "jax": ("small", "medium"),
    "stock-loop-none": ("small", "medium"),
    "stock-native-pointwise": ("small", "medium"),
}


class Contender(NamedTuple):
    """One row of a table. `fuse` is None where the engine decides itself, and for peers."""

    label: str
    engine: str
    fuse: str | None
    peer: bool = False
    stock: bool = False  # trains with stock PyTorch's loss and update, not with this project's


def engines() -> list[Contender]:
    """Every engine of the table with each of its levels, from the lowest."""
    found = []
    for name, engine in fused_lstm.ENGINES.items():
        for fuse in engine.fuses or (None,):
            found.append(Contender(name if fuse is None else f"{name}-{fuse}", name, fuse))
    return found


def everyone() -> list[Contender]:
    return engines() + [Contender(name, name, None, peer=True) for name in peers.PEERS]


def trainers() -> list[Contender]:
    """Who trains a whole language model.

    Peers; every engine and level in the post's program as stock PyTorch runs it, from the step loop
    upwards; and each engine that fuses anything, at its highest level, with this project's loss and
    update, which come on top. torch.compile, which takes minutes, is among the LSTMs alone.
    """
    stock = [c for c in engines() if c.engine != "compile"]
    top = {c.engine: c for c in stock if c.engine != "loop"}
    return [
        *(c for c in everyone() if c.peer and peers.PEERS[c.engine].trains),
        *(c._replace(label=f"stock-{c.label}", stock=True) for c in stock),
        *top.values(),
    ]


def highest() -> list[Contender]:
    """nn.LSTM, and the highest level of each engine with kernels of its own."""
    top = {c.engine: c for c in engines()}
    return [c for c in top.values() if c.label == BASE or c.fuse in fused_lstm.engines.FUSED]


def why_not(contender: Contender, device: torch.device) -> str | None:
    """Why a contender is not timed on a device; None if it can be."""
    if contender.peer:
        return peers.missing(contender.engine, device)
    never = NEVER_TIMED.get((contender.engine, device.type))
    return never or fused_lstm.available_engines(device)[contender.engine]


def choose(names: Sequence[str], known: Sequence[Contender]) -> list[Contender]:
    """The contenders that `names` ask for: a label, or an engine for all of its levels.

    Raises:
        ValueError: a name that is neither; lists what there is.
    """
    for name in names:
        if not any(name in (c.label, c.engine) for c in known):
            labels = ", ".join(dict.fromkeys(n for c in known for n in (c.engine, c.label)))
            raise ValueError(f"engines: got {name!r}, should be of {labels}")
    return [c for c in known if c.label in names or c.engine in names]


def choose_sizes(names: Sequence[str]) -> list[str]:
    """`names` in the order of SIZES; ValueError for one that is not there."""
    for name in names:
        if name not in SIZES:
            raise ValueError(f"sizes: got {name!r}, should be of {', '.join(SIZES)}")
    return [name for name in SIZES if name in names]


def in_default_run(contender: Contender, size: str) -> bool:
    """Whether it is timed at `size` without having been asked for by name."""
    sizes = DEFAULT_SIZES.get(contender.label) or DEFAULT_SIZES.get(contender.engine)
    return sizes is None or size in sizes
