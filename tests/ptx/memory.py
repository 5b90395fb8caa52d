"""The tensors of this process as the machine's global memory.

A launch runs on an image: every storage it was given, copied side by side with gaps in between, so
that addresses are the same in each run and an access outside of a tensor meets a gap. What
torch.empty made counts as not written until something writes it, here or on the machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

BASE = 0x7F00_0000_0000  # the address of an image
GAP = 4096
ALIGNMENT = 512  # of a storage, as the CUDA allocator aligns it
OUTSIDE, NOT_WRITTEN, WRITTEN = range(3)
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


@dataclass
class Block:
    """A storage. It is kept alive, so that no other one gets its address."""

    storage: torch.UntypedStorage
    written: np.ndarray  # uint8 [bytes]

    @property
    def bytes(self) -> np.ndarray:
        """What the storage holds, not a copy."""
        memory = (ctypes.c_uint8 * self.storage.nbytes()).from_address(self.storage.data_ptr())
        return np.frombuffer(memory, np.uint8)


@dataclass
class Image:
    """Global memory of one launch."""

    bytes: np.ndarray
    written: np.ndarray
    starts: list[tuple[Block, int]]
    names: list[tuple[str, int, Tensor]]  # argument, address, tensor

    def address(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        start = next(at for block, at in self.starts if _same(block.storage, storage))
        return BASE + start + tensor.storage_offset() * tensor.element_size()

    def name_of(self, address: int) -> str:
        """An address as an argument's element: gates_ptr[3, 0, 17]."""
        for name, start, tensor in self.names:
            n = (address - start) // tensor.element_size()
            if not 0 <= address - start < tensor.numel() * tensor.element_size():
                continue
            if not tensor.is_contiguous():
                return f"{name} + {address - start} bytes"
            index = np.unravel_index(n, tuple(tensor.shape)) if tensor.dim() else ()
            return f"{name}[{', '.join(str(int(i)) for i in index)}]"
        return hex(address)

    def put_back(self) -> None:
        """Copy what the machine wrote to the tensors."""
        for block, start in self.starts:
            end = start + len(block.written)
            block.bytes[:] = self.bytes[start:end]
            block.written[:] = self.written[start:end]


class Memory(TorchDispatchMode):
    """Notes, while it is entered, which storages torch.empty made and who wrote them."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, Block] = {}  # by address

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func._schema.name.removeprefix("aten::") in EMPTY:
            self.allocate(made)
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._note(argument, value)
        for argument in func._schema.arguments:
            self._note(argument, kwargs.get(argument.name))
        return made

    def allocate(self, tensor: Tensor) -> None:
        """A tensor that nobody has written yet."""
        self._block(tensor, NOT_WRITTEN)

    def image(self, names: Iterable[tuple[str, Tensor]]) -> Image:
        """A launch's memory: the arguments' storages, in order."""
        names, starts, end = list(names), [], GAP
        for _, tensor in names:
            block = self._block(tensor, WRITTEN)
            if all(block is not other for other, _ in starts):
                starts.append((block, end))
                end = -(-(end + len(block.written) + GAP) // ALIGNMENT) * ALIGNMENT
        image = Image(np.full(end, 0xFF, np.uint8), np.full(end, OUTSIDE, np.uint8), starts, [])
        for block, at in starts:
            image.bytes[at : at + len(block.written)] = block.bytes
            image.written[at : at + len(block.written)] = block.written
        image.names = [(name, image.address(tensor), tensor) for name, tensor in names]
        return image

    def _block(self, tensor: Tensor, state: int) -> Block:
        storage = tensor.untyped_storage()
        found = self._blocks.get(storage.data_ptr())
        if found is None or not _same(found.storage, storage):
            found = Block(storage, np.full(storage.nbytes(), state, np.uint8))
            self._blocks[storage.data_ptr()] = found
        return found

    def _note(self, argument: torch.Argument, value: object) -> None:
        """A tensor that an operator wrote."""
        if argument.alias_info is None or not argument.alias_info.is_write:
            return
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(tensor, Tensor):
                continue
            block, size = (
                self._blocks.get(tensor.untyped_storage().data_ptr()),
                tensor.element_size(),
            )
            if block is not None:
                torch.as_strided(
                    torch.from_numpy(block.written), (*tensor.shape, size),
                    (*(stride * size for stride in tensor.stride()), 1),
                    tensor.storage_offset() * size,
                ).fill_(WRITTEN)  # fmt: skip


def _same(a: torch.UntypedStorage, b: torch.UntypedStorage) -> bool:
    return a.data_ptr() == b.data_ptr() and a.nbytes() == b.nbytes()
