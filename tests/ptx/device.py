"""Stands where Triton's CUDA driver does, so that `kernel[grid](...)` runs on the machine.

    with Device(arch=90, seed=3) as device:
        sweep.forward(plan, ...)        # CPU tensors; Triton binds, specialises and compiles
    device.findings

Nothing of the project knows of it: grid, arguments, constants and options of a launch are those
that a GPU would get. Triton must not be in its interpreter (TRITON_INTERPRET=0, see pool.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from fused_lstm.triton import devices

from .build import CACHE
from .memory import Memory
from .parser import parse
from .run import WEAK, Finding, Report, Schedule, run


def _stages(*arguments) -> tuple[str, str] | None:
    """Triton's hook on its compiler: the machine runs PTX, so ptxas has nothing to do."""
    if not arguments:
        return "ptx machine", "ptx machine"  # for the name in Triton's cache
    stages = arguments[1]
    stages["cubin"] = lambda ptx, metadata: ptx.encode()
    return None


class Failed(Exception):
    """The machine could not go on: a deadlock, an address outside. The report says where."""


class Device:
    """A driver for Triton, and what all launches on it found."""

    takes_tensors = True  # no addresses: it has to know where each ends

    def __init__(
        self,
        arch: int,
        seed: int = 0,
        schedule: Schedule = WEAK,
        change: Callable[[str], str] | None = None,  # of the PTX: puts a fault in
    ) -> None:
        self.arch, self.seed, self.schedule = arch, seed, schedule
        self.change = change or (lambda ptx: ptx)
        self.max_instructions = 2_000_000_000
        self.memory, self.reports = Memory(), []

    @property
    def findings(self) -> list[Finding]:
        return [finding for report in self.reports for finding in report.findings]

    def total(self, name: str) -> float:
        """Of a statistic, over all launches."""
        return sum(report.stats[name] for report in self.reports)

    def __enter__(self) -> Device:
        driver.set_active(self)
        knobs.runtime.add_stages_inspection_hook = _stages
        # Of its own: under Triton 3.6 these kernels and real ones would have the same names.
        knobs.cache.dir = str(CACHE / f"triton-{triton.__version__}")
        self.memory.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.memory.__exit__(*error)

    def launch(self, grid, ptx: str, metadata, arguments: list[tuple[str, object]]) -> Report:
        """Run one launch; raises Failed where it could not end."""
        arguments = [*arguments, *_scratch(grid, metadata)]
        tensors = [(name, value) for name, value in arguments if isinstance(value, Tensor)]
        image = self.memory.image(tensors)
        values = [image.address(v) if isinstance(v, Tensor) else v for _, v in arguments]
        report = run(
            parse(self.change(ptx)), image, grid, metadata.num_warps, metadata.shared, values,
            self.seed, self.schedule, self.max_instructions,
        )  # fmt: skip
        image.put_back()
        self.reports.append(report)
        if report.stats["failed"]:
            raise Failed(str(report))
        return report

    # --- what Triton asks of a driver ---

    def get_current_device(self) -> int:
        return self.arch  # Triton caches kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def launcher_cls(self, source, metadata) -> Callable:
        return Launcher(source, metadata)

    @property
    def utils(self) -> Device:
        return self

    def get_device_properties(self, device: int) -> dict:
        return {"max_shared_mem": devices.by_arch(device).smem}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        """module, function, registers, spills, threads: the function is the PTX."""
        return name, binary.decode(), 0, 0, 1024

    def unload_module(self, module) -> None: ...


class Launcher:
    """One compiled kernel's. Triton keeps it: it runs on the device that is active by then."""

    def __init__(self, source, metadata) -> None:
        self.signature, self.metadata = source.signature, metadata

    def __call__(self, x: int, y: int, z: int, stream, function: str, packed, info, enter, leave,
                 *arguments) -> None:  # fmt: skip
        found = zip(self.signature.items(), arguments, strict=True)
        flat = [pair for (name, kind), value in found for pair in _flatten(name, kind, value)]
        driver.active.launch((x, y, z), function, self.metadata, flat)


def _scratch(grid, metadata) -> Iterator[tuple[str, Tensor | int]]:
    """What Triton passes after a kernel's arguments: memory of each program's own, or 0 for none.

    FpSan keeps the operands of products there (fpsan.py). It is zeroed: who reads it before it is
    written is Triton, of which nothing is to be found here.
    """
    for name in ("global_scratch", "profile_scratch"):
        size = getattr(metadata, f"{name}_size", 0) * prod(grid)
        yield name, torch.zeros(size, dtype=torch.uint8) if size else 0


def _flatten(name: str, kind, value) -> Iterator[tuple[str, object]]:
    """What a kernel is given of an argument: nothing of a constant, each element of a tuple."""
    if isinstance(kind, tuple):
        for index, (one, element) in enumerate(zip(kind, value, strict=True)):
            yield from _flatten(f"{name}[{index}]", one, element)
    elif kind != "constexpr":
        yield name, value
