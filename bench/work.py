"""The work that every contender does: one LSTM's shape, weights, input and incoming gradient.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lm.config import PRESETS

# What is timed of it. `backward` has its forward done beforehand; `step` is forward + backward.
MODES = ("inference", "forward", "backward", "step")


class Shape(NamedTuple):
    T: int
    B: int
    I: int
    H: int
    L: int

    def __str__(self) -> str:
        return " ".join(f"{name}={size}" for name, size in zip("TBIHL", self, strict=True))

    @property
    def tokens(self) -> int:
        """Words that one pass reads."""
        return self.T * self.B

    def flops(self, mode: str) -> int:
        """Operations of the matrix products alone; a backward pass has twice a forward's."""
        per_token = sum(
            8 * self.H * ((self.I if l == 0 else self.H) + self.H) for l in range(self.L)
        )
        return self.tokens * per_token * {"backward": 2, "step": 3}.get(mode, 1)


SIZES = {
    name: Shape(p.num_steps, p.batch_size, p.hidden_size, p.hidden_size, p.num_layers)
    for name, p in PRESETS.items()
    if name in ("small", "medium", "large")
}


@dataclass(frozen=True)
class Problem:
    """The same for all: `reference` is the nn.LSTM whose answer is the right one."""

    shape: Shape
    reference: nn.LSTM
    x: Tensor  # [T, B, I]
    h0: Tensor  # [L, B, H]
    c0: Tensor  # [L, B, H]
    dy: Tensor  # [T, B, H], the gradient that comes back

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def weights(self) -> list[Tensor]:
        """Flat, as nn.LSTM's: w_ih [4H, I or H], w_hh [4H, H], b_ih, b_hh [4H] a layer."""
        return list(self.reference.parameters())

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.reference.named_parameters()]

    def named(self) -> dict[str, Tensor]:
        """What a peer is handed over."""
        given = {"x": self.x, "h0": self.h0, "c0": self.c0, "dy": self.dy}
        return given | dict(zip(self.names, self.weights, strict=True))


def make_problem(
    shape: Shape,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Weights as nn.LSTM draws them, input and gradient from a normal distribution, state zero.

    A text begins with that state, and one of the peers (haste) knows no other; that engines use
    the state they are given is for the tests.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reference = nn.LSTM(shape.I, shape.H, shape.L).to(device, dtype)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(device, dtype)

    T, B, I, H, L = shape
    h0, c0 = torch.zeros(2, L, B, H, device=device, dtype=dtype)
    return Problem(shape, reference, normal(T, B, I), h0, c0, normal(T, B, H))
