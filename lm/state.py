"""What a run needs to go on to the same bits: taken from a trainer, and given back to one.

Weights apart: optimizer state, position in the text, carried state, random state of every
generator, losses and norms so far, learning curve. The learning rate follows from the position.
"""

from __future__ import annotations

import dataclasses
import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lm.checkpoint import Checkpoint, Training
from lm.errors import UserError

if TYPE_CHECKING:
    from lm.trainer import Epoch, Trainer


def capture(trainer: Trainer) -> Training:
    """The run as it stands between two steps. All ranks must call it; the answer is for all."""
    meter, ranks, device = trainer.meter, trainer.ranks, trainer.device
    meter.take()
    h, c = (ranks.whole(part, trainer.config.batch_size) for part in trainer.hidden)
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    tensors = {
        "hidden.h": h,
        "hidden.c": c,
        "losses": torch.tensor(meter.losses, dtype=torch.float64),
        "norms": torch.tensor(meter.norms, dtype=torch.float64),
        "random.torch": ranks.each(torch.get_rng_state(), device),
        "random.python": torch.tensor(python[1], dtype=torch.int64),
        "random.numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        **_optimizer_tensors(trainer),
    }
    if device.type != "cpu":
        state = torch.get_device_module(device).get_rng_state(device)
        tensors[f"random.{device.type}"] = ranks.each(state, device)
    facts = {
        "steps": trainer.steps,
        "tokens": len(trainer.corpus.train),
        "curve": [dataclasses.asdict(point) for point in trainer.curve],
        "words": meter.words,
        "training_seconds": meter.seconds,
        "seconds": trainer.seconds(),
        "python_gauss": python[2],
        "numpy": {"pos": numpy["state"]["pos"], "has_gauss": numpy["has_gauss"],
                  "gauss": numpy["gauss"]},
        "bits": bits_depend_on(trainer),
    }  # fmt: skip
    return Training(tensors, facts)


def restore(trainer: Trainer, found: Checkpoint) -> list[str]:
    """Bring a fresh trainer to where a checkpoint was taken; why the bits may differ, in words.

    Raises UserError where the checkpoint is of another text, or its training state is damaged.
    """
    tensors, facts = found.training.tensors, found.training.facts
    try:
        if (facts["tokens"], found.vocabulary) != (len(trainer.corpus.train), trainer.vocabulary):
            raise UserError(f"data '{trainer.corpus.name}' is not the text of {found.path}")
        _restore_position(trainer, tensors, facts)
        _restore_optimizer(trainer, tensors)
        _restore_random(trainer, tensors, facts)
        return _differences(trainer, facts["bits"])
    except (
        ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{found.path} is damaged: training state: {reason}") from None


def bits_depend_on(trainer: Trainer) -> dict[str, Any]:
    """What must stay the same for the same bits."""
    return {
        "engine": trainer.engine,
        "threads": torch.get_num_threads(),
        "device": trainer.device.type,
        "ranks": trainer.ranks.size,
        "torch": torch.__version__,
    }


def _differences(trainer: Trainer, before: dict[str, Any]) -> list[str]:
    now = bits_depend_on(trainer)
    return [f"{k} {now[k]}, was {before[k]}" for k in now if now[k] != before[k]]


def _restore_position(trainer: Trainer, tensors: dict, facts: dict) -> None:
    from lm.trainer import Epoch

    trainer.steps = _number(facts, "steps", int)
    if not isinstance(facts["curve"], list):
        raise ValueError(f"curve is {facts['curve']!r}")
    trainer.curve = [_checked(Epoch(**point)) for point in facts["curve"]]
    trainer.seconds_before = _number(facts, "seconds")
    meter = trainer.meter
    for name in ("losses", "norms"):
        if tensors[name].dim() != 1 or tensors[name].dtype != torch.float64:
            raise ValueError(f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}")
        setattr(meter, name, tensors[name].tolist())
    meter.words = _number(facts, "words", int)
    meter.seconds = _number(facts, "training_seconds")
    first = len(trainer.curve) * trainer.epoch_steps
    if not (len(meter.losses) == len(meter.norms) == trainer.steps >= first):
        raise ValueError(f"it is at step {trainer.steps}, and has {len(meter.losses)} losses")
    own, hidden = trainer.ranks.own(trainer.config.batch_size), []
    for name, zeros in zip(("hidden.h", "hidden.c"), trainer.hidden, strict=True):
        part = tensors[name][:, own]
        if part.shape != zeros.shape or not part.is_floating_point():
            raise ValueError(f"{name} is {list(part.shape)}, should be {list(zeros.shape)}")
        hidden.append(part.to(trainer.device).contiguous())
    trainer.hidden = tuple(hidden)


def _number(facts: dict, name: str, kind: type = float) -> int | float:
    """The fact `name`, at least 0; ValueError unless it is a `kind`."""
    value = facts[name]
    if type(value) not in {int, kind} or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}")
    return kind(value)


def _checked(point: Epoch) -> Epoch:
    facts = dataclasses.asdict(point)
    for name in (
        facts if point.valid_perplexity is not None else facts.keys() - {"valid_perplexity"}
    ):
        _number(facts, name, int if name in ("epoch", "steps") else float)
    return point


# --- optimizer ---


def _optimizer_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    names = [name for name, _ in trainer.model.named_parameters()]
    state = trainer.updater.optimizer.state_dict()["state"]
    return {
        f"optimizer.{key}.{names[index]}": value
        for index, entries in state.items()
        for key, value in entries.items()
        if value is not None
    }


def _restore_optimizer(trainer: Trainer, tensors: dict[str, torch.Tensor]) -> None:
    if trainer.steps == 0:
        return
    optimizer, state = trainer.updater.optimizer, {}
    keys = {"sgd": (), "adam": ("step", "exp_avg", "exp_avg_sq")}[trainer.config.optimizer]
    for index, (name, parameter) in enumerate(trainer.model.named_parameters()):
        state[index] = {key: tensors[f"optimizer.{key}.{name}"] for key in keys}
        for key, tensor in state[index].items():
            shape = torch.Size() if key == "step" else parameter.shape
            if tensor.shape != shape or not tensor.is_floating_point():
                raise ValueError(f"optimizer.{key}.{name} is {tensor.dtype} {list(tensor.shape)}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state if keys else {}})


# --- random numbers ---


def _restore_random(trainer: Trainer, tensors: dict, facts: dict) -> None:
    python, numpy = tensors["random.python"].tolist(), facts["numpy"]
    if not isinstance(facts["python_gauss"], float | None):
        raise ValueError(f"python_gauss is {facts['python_gauss']!r}")
    random.setstate((3, tuple(python), facts["python_gauss"]))
    key = tensors["random.numpy"].numpy().astype(np.uint32)
    if not 0 <= numpy["pos"] <= len(key):  # NumPy would read beyond it
        raise ValueError(f"numpy's position is {numpy['pos']!r}")
    np.random.set_state(("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    saved, rank = tensors["random.torch"], trainer.ranks.rank
    if rank >= len(saved):  # it had fewer ranks
        trainer.ranks.seed(trainer.steps)
        return
    # A copy: PyTorch reads a generator's state from its storage's beginning, not the tensor's.
    torch.set_rng_state(saved[rank].clone())
    kind = trainer.device.type
    if kind != "cpu" and f"random.{kind}" in tensors:
        state = tensors[f"random.{kind}"][rank].clone()
        torch.get_device_module(trainer.device).set_rng_state(state, trainer.device)
