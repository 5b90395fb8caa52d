"""Recurrent cells of other packages, called step by step as their users do; each may be missing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .written import Random, Written, one, plain_x, two, x_and_times


class Timed(nn.Module):
    """ncps' CfC, which takes the time since the step before."""

    def __init__(self, I: int, H: int) -> None:
        super().__init__()
        cell = importlib.import_module("ncps.torch").CfCCell
        self.cell = cell(I, H, backbone_layers=1, backbone_units=128, backbone_dropout=0.0)

    def forward(self, inputs: tuple[Tensor, Tensor], h: Tensor) -> Any:
        """Run a step."""
        x, elapsed = inputs
        return self.cell(x, h, elapsed)


class Spiking(nn.Module):
    """Two layers of snnTorch's neurons: Leaky, and Synaptic, which has two states."""

    def __init__(self, I: int, H: int) -> None:
        super().__init__()
        snntorch = importlib.import_module("snntorch")
        self.first, self.second = nn.Linear(I, H), nn.Linear(H, H)
        self.leaky = snntorch.Leaky(beta=0.9)
        self.synaptic = snntorch.Synaptic(alpha=0.8, beta=0.9)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> Any:
        """Run a step."""
        spikes, leaky = self.leaky(self.first(x), state[0])
        spikes, current, membrane = self.synaptic(self.second(spikes), *state[1:])
        return spikes, (leaky, current, membrane)


class Behind(nn.Module):
    """A cell of norse behind a Linear."""

    def __init__(self, I: int, H: int, name: str) -> None:
        super().__init__()
        norse = importlib.import_module("norse.torch")
        self.linear, self.cell = nn.Linear(I, H), getattr(norse, name)(H, H)

    def forward(self, x: Tensor, state: Any) -> Any:
        """Run a step."""
        return self.cell(self.linear(x), state)


def three(B: int, H: int, random: Random) -> tuple[Tensor, Tensor, Tensor]:
    """Return a state of three tensors [B, H]."""
    return random(B, H), random(B, H), random(B, H)


def norse_state(B: int, H: int, random: Random) -> Any:
    """Return an LSNN's state: spikes, a voltage, a current and an adaptation."""
    of = importlib.import_module("norse.torch.functional.lsnn").LSNNState
    return of(*((random(B, H) > 0).to(random(1).dtype), *three(B, H, random)))


def torchrecurrent(name: str) -> Callable[[int, int], nn.Module]:
    """Return what makes a cell of torchrecurrent."""
    return lambda I, H: getattr(importlib.import_module("torchrecurrent"), name)(I, H)


# Name -> its package, and the cell.
CELLS: dict[str, tuple[str, Written]] = {
    "torchrecurrent.LEMCell": ("torchrecurrent", Written(torchrecurrent("LEMCell"), plain_x, two)),
    "torchrecurrent.MGUCell": ("torchrecurrent", Written(torchrecurrent("MGUCell"), plain_x, one)),
    "torchrecurrent.NASCell": ("torchrecurrent", Written(torchrecurrent("NASCell"), plain_x, two)),
    "ncps.CfCCell": ("ncps", Written(Timed, x_and_times, one)),
    "snntorch.Leaky, Synaptic": ("snntorch", Written(Spiking, plain_x, three)),
    "norse.LSNNRecurrentCell": (
        "norse", Written(lambda I, H: Behind(I, H, "LSNNRecurrentCell"), plain_x, norse_state)
    ),
}  # fmt: skip


def missing(name: str) -> str | None:
    """Return why a cell is not there, or None."""
    package, _ = CELLS[name]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed; make models installs it"
    return None
