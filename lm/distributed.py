"""Several processes: torchrun starts them, and the columns of a batch are divided among them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process's rank among `size`; a process alone is 0 of 1, and never communicates.

    Every rank must call `sum` and `gather`, in the same order.
    """

    rank: int = 0
    size: int = 1

    def columns(self, count: int) -> slice:
        """Return this rank's part of `count` columns; parts differ by one column at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return `tensor` summed over all ranks."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value`, which lies on the CPU."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


def rank() -> int:
    """Return this process's rank, which torchrun tells it: the first one speaks and writes."""
    return int(os.environ.get("RANK", "0"))


def join(device: torch.device) -> World:
    """Meet the other processes that torchrun started, if any: NCCL on GPUs, gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size())


def leave(status: int) -> NoReturn:
    """End this process with `status`.

    gloo's threads outlive `destroy_process_group`: one that drops a tensor while Python takes
    itself apart aborts the process. So a rank ends without that.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
