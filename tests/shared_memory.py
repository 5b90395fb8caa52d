"""Shared memory of plans, beside what Triton's compiler takes for their kernels, on any machine.

`main` prints it for the shapes at which a card is tightest. A kernel is compiled only as far as its
shared memory is known: no machine code is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import alone
from fused_lstm.call.spec import Spec
from fused_lstm.tools import inspect
from fused_lstm.triton import launch
from fused_lstm.triton.devices import AMD, DEVICES, Device
from fused_lstm.triton.plan import Plan, plan

BATCHES, SIZES = (16, 32, 64, 128, 256), range(16, 1936, 16)


def without_machine_code(cache: Path) -> None:
    """Have Triton stop at LLVM's code from now on, in this process; cache: a folder of its own."""
    from triton import knobs
    from triton.backends.nvidia.compiler import CUDABackend

    def make_ptx(self, source, metadata, options, capability) -> str:
        metadata["name"] = "none"
        return ""

    knobs.cache.dir = str(cache)
    backend: Any = CUDABackend
    backend.make_ptx, backend.make_cubin = make_ptx, lambda *_: b""
    vars(inspect)["thread"] = lambda cubin: (0, 0)


def plans(card: Device, cell: Spec, direction: str, dtype: str) -> Iterator[Plan]:
    """Yield the persistent plans of a cell at all sizes."""
    kernels = launch.kernel_cell(cell)
    for B, H in product(BATCHES, SIZES):
        found = plan(
            "steps", direction, hidden=H, batch=B, layers=1, dtype=dtype, device=card,
            gates=kernels.by_h, inner=kernels.inner, inside=kernels.inside(direction),
        )  # fmt: skip
        if found.persistent:
            yield found


def of_many(name: str) -> Any:
    """Return a cell of files whose cells take seconds to trace."""
    import sum_cells
    from bench import zoo

    return sum_cells.CELLS.get(name) or getattr(zoo, name)


def main(card: str, kernels: Sequence[tuple[str, str, str]], cache: str) -> None:
    """Print JSON: of each cell, direction and dtype the two tightest plans, one of each k_parts."""
    without_machine_code(Path(cache))
    device, rows = (DEVICES | AMD)[card], []
    for name, direction, dtype in kernels:
        told = getattr(alone, name, None) or of_many(name)
        told.on_triton()
        cell = Spec(told.name)
        tightest: dict[int, Plan] = {}
        for found in plans(device, cell, direction, dtype):
            known = tightest.setdefault(found.k_parts, found)
            tightest[found.k_parts] = max(known, found, key=lambda one: one.smem)
        for found in tightest.values():
            taken = inspect.compile_plan(found, device.arch, cell).metadata.shared
            rows.append({
                "name": f"{name} {direction} {dtype} H={found.hidden} B={found.batch}",
                "planned": found.smem, "taken": taken, "limit": device.smem,
            })  # fmt: skip
    print(json.dumps(rows))
