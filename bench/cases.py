"""Cases: shapes that people know, by name.

T, B, I, H, L: time steps, batch, input size, hidden size, layers; D: directions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

# How the rows come: all T steps of all; a PackedSequence made beforehand; padded, to this project's
# `lengths=`; padded, and packed before and padded after the call, which is timed too (what nn.LSTM,
# which has no `lengths=`, does for `lengths` as well); with states that begin anew, `resets=`
# (nn.LSTM, which has none, is called step by step).
FORMS = ("dense", "packed", "lengths", "padded", "resets")
SPREADS = ("equal", "uniform", "sentences")
GATES = {"lstm": 4, "gru": 3}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Shape(NamedTuple):
    """The sizes of a call; written l2t35b20h650, with i40 before h where I is not H."""

    T: int
    B: int
    I: int
    H: int
    L: int

    def __str__(self) -> str:
        width = "" if self.I == self.H else f"i{self.I}"
        return f"l{self.L}t{self.T}b{self.B}{width}h{self.H}"

    def resized(self, axis: str, value: int) -> Shape:
        """Return it with another size of one dimension; the input is as wide as the layers."""
        return self._replace(**dict.fromkeys("HI" if axis == "H" else axis, value))

    @property
    def tokens(self) -> int:
        """Return the words that one pass reads."""
        return self.T * self.B

    def flops(
        self, mode: str, tokens: int | None = None, directions: int = 1, gates: int = 4
    ) -> int:
        """Return the operations of the matrix products alone; a backward has twice a forward's.

        `tokens` says how many there are, where rows end early.
        """
        inputs = self.I + (self.L - 1) * directions * self.H
        per_token = 2 * gates * self.H * directions * (inputs + self.L * self.H)
        tokens = self.tokens if tokens is None else tokens
        return tokens * per_token * {"backward": 2, "step": 3}.get(mode, 1)


@dataclass(frozen=True)
class Case:
    """A call: its shape, one direction or both, how long the rows are, how they come."""

    name: str
    shape: Shape
    source: str = ""  # who else measures it
    bidirectional: bool = False
    spread: str = "equal"  # of SPREADS
    form: str = "dense"  # of FORMS
    cell: str = "lstm"  # or "gru"; in the suite `cells`, a function's or a package's
    heads: int = 1  # blocks of the recurrent weights
    loss: str = "all"  # steps whose outputs it reads: all, or the last
    call: str = ""  # what is the same in several cases

    def __str__(self) -> str:
        return self.name

    def resized(self, axis: str, value: int) -> Case:
        """Return it with another size of one dimension, named after that."""
        return replace(self, name=f"{axis}={value}", shape=self.shape.resized(axis, value))


PTB = "Zaremba et al. 2014, Penn Treebank"
BENCHDNN = "oneDNN, benchdnn/inputs/rnn"
NAMED = [
    Case("small", Shape(20, 20, 200, 200, 2), PTB),
    Case("medium", Shape(35, 20, 650, 650, 2), PTB),
    Case("large", Shape(35, 20, 1500, 1500, 2), PTB),
    Case("tiny", Shape(100, 4, 64, 64, 2), "weights that fit in a core's cache"),
    Case("tiny-batch", Shape(35, 20, 64, 64, 2), "the same, with Zaremba's T and B"),
    Case("flashrnn", Shape(1024, 16, 768, 768, 1), "FlashRNN, figure 1 (one head)"),
    Case("gnmt", Shape(50, 64, 512, 512, 1), f"{BENCHDNN}: GNMT's encoder"),
    Case("gnmt-bidir", Shape(50, 64, 256, 256, 1), f"{BENCHDNN}: GNMT's encoder", True),
    Case("deepspeech2", Shape(50, 64, 1760, 1760, 1), f"{BENCHDNN}: DeepSpeech 2 (there a GRU)"),
    Case("rnn-t", Shape(1, 256, 1024, 1024, 1), f"{BENCHDNN}: RNN-T, lstm_3"),
    Case("deepbench-512", Shape(25, 16, 512, 512, 1), "DeepBench, training"),
    Case("deepbench-256", Shape(150, 32, 256, 256, 1), "DeepBench, training"),
    Case("deepbench-server", Shape(25, 1, 1024, 1024, 1), "DeepBench, inference"),
    Case("time-series", Shape(100, 32, 1, 64, 1), "one number a step, as forecasters read it"),
    Case("rl", Shape(128, 32, 256, 256, 1), "a rollout whose episodes end in it", form="resets"),
    Case("tagger", Shape(82, 32, 200, 200, 2), "Penn Treebank's sentences, packed",
        bidirectional=True, spread="sentences", form="packed"),
    Case("ppo", Shape(128, 8, 512, 128, 1), "CleanRL's ppo_atari_lstm", form="resets"),
    Case("gru", Shape(35, 20, 650, 650, 2), PTB, cell="gru"),
    Case("streaming", Shape(1, 1, 80, 256, 2), "one frame a call"),
]  # fmt: skip
CASES = {case.name: case for case in NAMED}


def choose(texts: Sequence[str], own: Sequence[Any] = ()) -> list[Any]:
    """Return the cases that texts name, each one of `own`, or some of CASES between commas.

    Raises:
        ValueError: a name that is neither; lists what there is.
    """
    known, found = {str(case): case for case in own} | CASES, []
    for text in texts:
        for name in [text] if text in known else map(str.strip, text.split(",")):
            if name not in known:
                raise ValueError(f"cases: got {name!r}; expected of {', '.join([*CASES, *known])}")
            found.append(known[name])
    return found


def grid(count: int, seed: int, most: float = 1e10) -> list[Case]:
    """Return calls of one layer drawn at random, sizes log-uniform: an LSTM, a GRU, in turns.

    T is 1 to 400, where 1 has a third, B 1 to 256, H and I, which are equal, 16 to 2048. `most` is
    the operations of a call, at most.
    """
    draw, cases = random.Random(seed), []
    while len(cases) < count:
        T, B, H = (round(2 ** draw.uniform(0, math.log2(n))) for n in (400, 256, 128))
        shape = Shape(1 if draw.random() < 1 / 3 else T, B, 16 * H, 16 * H, 1)
        cell = ("lstm", "gru")[len(cases) % 2]
        if shape.flops("inference", gates=GATES[cell]) <= most:
            name = f"{cell} T={shape.T} B={shape.B} H={shape.H}"
            cases.append(Case(name, shape, f"drawn, seed {seed}", cell=cell))
    return cases
