"""What a run needs to go on to the same bits, besides its weights and where it is in the text.

The state of the optimizer and of every random generator, as named tensors and facts that JSON can
hold. What reads them back raises ValueError, KeyError and the like for what is damaged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from lm.training.ranks import Ranks

Number = TypeVar("Number", int, float)
MOMENTS = {"sgd": (), "adam": ("step", "exp_avg", "exp_avg_sq")}


@dataclass(frozen=True)
class Training:
    """What a run needs to go on, besides its weights: tensors, and what JSON can hold."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


def fact(facts: Mapping[str, Any], name: str, kind: type[Number]) -> Number:
    """The fact `name`, at least 0; ValueError unless it is a `kind`."""
    value = facts[name]
    if type(value) not in {int, kind} or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}")
    return kind(value)


def require(name: str, tensor: torch.Tensor, shape: torch.Size) -> None:
    """ValueError unless a tensor has this shape and holds floating-point numbers."""
    if tensor.shape != shape or not tensor.is_floating_point():
        kind = "" if tensor.is_floating_point() else f"{tensor.dtype} "
        raise ValueError(f"{name} is {kind}{list(tensor.shape)}, should be {list(shape)}")


# --- optimizer ---


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = [name for name, _ in model.named_parameters()]
    return {
        f"optimizer.{key}.{names[index]}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if value is not None
    }


def set_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, kind: str, tensors: Mapping
) -> None:
    """`kind` is the configuration's word for the optimizer."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        state[index] = {key: tensors[f"optimizer.{key}.{name}"] for key in MOMENTS[kind]}
        for key, tensor in state[index].items():
            shape = torch.Size() if key == "step" else parameter.shape
            require(f"optimizer.{key}.{name}", tensor, shape)
    state = state if MOMENTS[kind] else {}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# --- random numbers ---


def random_state(ranks: Ranks, device: torch.device) -> Training:
    """Of Python, NumPy and PyTorch; PyTorch's of every rank, whom all must ask."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    tensors = {
        "random.torch": ranks.each(torch.get_rng_state(), device),
        "random.python": torch.tensor(python[1], dtype=torch.int64),
        "random.numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
    }
    if device.type != "cpu":
        state = torch.get_device_module(device).get_rng_state(device)
        tensors[f"random.{device.type}"] = ranks.each(state, device)
    places = {"pos": numpy["state"]["pos"], "has_gauss": numpy["has_gauss"]}
    return Training(
        tensors, {"python_gauss": python[2], "numpy": places | {"gauss": numpy["gauss"]}}
    )


def set_random_state(found: Training, ranks: Ranks, device: torch.device, seed: int) -> None:
    """Of this rank; one that was not there yet begins from `seed`."""
    tensors, facts = found.tensors, found.facts
    python, numpy = tensors["random.python"].tolist(), facts["numpy"]
    if not isinstance(facts["python_gauss"], float | None):
        raise ValueError(f"python_gauss is {facts['python_gauss']!r}")
    random.setstate((3, tuple(python), facts["python_gauss"]))
    key = tensors["random.numpy"].numpy().astype(np.uint32)
    if not 0 <= numpy["pos"] <= len(key):  # NumPy would read beyond it
        raise ValueError(f"numpy's position is {numpy['pos']!r}")
    np.random.set_state(("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    saved, kind = tensors["random.torch"], device.type
    if ranks.rank >= len(saved):
        ranks.seed(seed)
        return
    # A copy: PyTorch reads a generator's state from its storage's beginning, not the tensor's.
    torch.set_rng_state(saved[ranks.rank].clone())
    if kind != "cpu" and f"random.{kind}" in tensors:
        state = tensors[f"random.{kind}"][ranks.rank].clone()
        torch.get_device_module(device).set_rng_state(state, device)
