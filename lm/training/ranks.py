"""More than one process: torchrun starts them, the columns of a batch are divided among them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

_GOLDEN = 0x9E3779B97F4A7C15  # seeds of neighbouring ranks lie far apart


@dataclass(frozen=True)
class Ranks:
    """This process's number among `size`; a process on its own is 0 of 1, and never communicates.

    Every method that communicates must be called by all ranks, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def own(self, columns: int) -> slice:
        """This rank's part of `columns` columns; parts differ by one column at most."""
        return slice(self.rank * columns // self.size, (self.rank + 1) * columns // self.size)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over all ranks, on every one."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def whole(self, part: torch.Tensor, columns: int) -> torch.Tensor:
        """part [L, own columns, H] of every rank -> [L, columns, H], on every rank."""
        if self.size == 1:
            return part
        shape = (part.shape[0], columns, *part.shape[2:])
        tensor = part.new_zeros(shape)
        tensor[:, self.own(columns)] = part
        return self.total(tensor)

    def each(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """`tensor` of every rank, stacked: [size, ...], on every rank; `device` communicates."""
        stacked = torch.zeros(self.size, *tensor.shape, dtype=tensor.dtype, device=device)
        stacked[self.rank] = tensor.to(device)
        return self.total(stacked)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def seed(self, seed: int) -> None:
        """Dropout of its own in every rank; the first goes on with what drew the weights."""
        if not self.leads:
            torch.manual_seed((seed + self.rank * _GOLDEN) % 2**63)

    def average_gradients(self, module: nn.Module) -> nn.Module:
        """`module`, whose gradients are the mean over ranks after each backward pass."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)

    def leave(self) -> None:
        """The end: no more communication."""
        if self.size > 1:
            dist.destroy_process_group()


ALONE = Ranks()


def join(device: torch.device) -> Ranks:
    """Meet the other processes that torchrun started, if any: NCCL on GPUs, gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())
