"""Triton's own launcher, which is C, on a libcuda that launches nothing (tests/libcuda.c).

`main` makes calls as on an H100 and prints, of each launch, what cuLaunchKernelEx got beside what
it must get.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("libcuda.c")
MOST = 128


class Recorded(ctypes.Structure):
    """The record of the last launch, as libcuda.c lays it out."""

    _fields_ = list({
        "launches": ctypes.c_uint32, "asked": ctypes.c_uint32, "grid": ctypes.c_uint32 * 3,
        "block": ctypes.c_uint32, "smem": ctypes.c_uint32, "cooperative": ctypes.c_uint32,
        "parameters": ctypes.c_uint64 * MOST,
    }.items())  # fmt: skip


def library(folder: Path) -> ctypes.CDLL:
    """Compile libcuda.c, and load it under the name by which Triton's launcher asks for libcuda."""
    import triton

    headers = Path(triton.__file__).parent / "backends/nvidia/include"
    path = folder / "libcuda.so.1"
    words = ["gcc", "-shared", "-fPIC", f"-I{headers}", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*words, str(SOURCE), "-o", str(path)], check=True)
    (folder / "libcuda.so").symlink_to(path)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def take_over(folder: Path) -> ctypes.CDLL:
    """Have Triton compile for an H100, and launch by its own launcher on this libcuda."""
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime import driver

    from bench.gpu import dry
    from fused_lstm.triton.devices import DEVICES

    found = library(folder)
    dry.take_over(DEVICES["H100"])
    active: Any = driver.active
    active.utils = nvidia.CudaUtils()
    type(active).launcher_cls = nvidia.CudaLauncher
    type(active).map_python_to_cpp_type = staticmethod(nvidia.ty_to_cpp)
    return found


def flat(values: Any) -> list[Any]:
    """Return a launch's parameters in order: tuples one by one, and None left out."""
    if isinstance(values, list | tuple):
        return [one for value in values for one in flat(value)]
    return [] if values is None else [values]


def as_kernel_reads(raw: int, kind: str) -> float:
    """Return a parameter of PTX's type `kind` from its first 8 bytes."""
    if kind.endswith("64"):
        return raw
    (value,) = struct.unpack("f" if kind == "f32" else "i", raw.to_bytes(8, "little")[:4])
    return value


def record_launches(libcuda: ctypes.CDLL) -> list[dict[str, Any]]:
    """Return a list that each launch from now on adds to."""
    from fused_lstm.triton import launch

    recorded = Recorded.in_dll(libcuda, "recorded")
    count = ctypes.c_uint32.in_dll(libcuda, "parameters")
    plain, rows = launch.Launch.__call__, []

    def launched(self: launch.Launch, arguments: launch.Arguments) -> None:
        plain(self, arguments)  # compiled now: it says how many parameters it has
        *_, compiled = self.compiled.values()
        head = re.search(r"\.entry.*?\)", compiled.asm["ptx"], re.DOTALL)[0]
        kinds = re.findall(r"\.param \.(\w+)", head)
        count.value, before, asked = len(kinds), recorded.launches, recorded.asked
        plain(self, arguments)
        values = zip(recorded.parameters, kinds, strict=False)
        rows.append({
            "name": f"{self.plan.kind} {self.plan.direction} {self.cell}",
            "launches": recorded.launches - before,
            "asked": recorded.asked - asked,
            "parameters": [as_kernel_reads(*each) for each in values],
            "expected": [*map(as_float32, flat(arguments.addresses)), 0, 0],  # two of scratch
            "grid": [*recorded.grid], "block": recorded.block, "smem": recorded.smem,
            "cooperative": recorded.cooperative,
            "planned": [self.plan.programs, 32 * self.plan.warps, compiled.metadata.shared,
                        int(self.plan.meetings > 0)],
        })  # fmt: skip
        count.value = 0

    vars(launch)["Launch"].__call__ = launched
    return rows


def as_float32(value: float) -> float:
    """Return a number as a float32 keeps it, and an integer as it is."""
    return struct.unpack("f", struct.pack("f", value))[0] if isinstance(value, float) else value


# --- calls ---


def dense(fuse: str, T: int, B: int, dropout: float = 0.0, ragged: bool = False) -> None:
    """Call both operators of an LSTM of two layers."""
    from bench.gpu import dry
    from fused_lstm.triton import op

    H = 64
    x, h0, weights = dry.zeros((T, B, H, H, 2), torch.bfloat16)
    seed = torch.zeros(1, dtype=torch.int64) if dropout else None
    more = {"batch_sizes": torch.tensor([20, 20, 10])} if ragged else {}
    x = x.view(60, H)[:50].contiguous() if ragged else x
    call = x, h0, h0.clone(), weights, dropout, seed, fuse
    y, _, _, h, c, gates = op.lstm(*call, True, **more)
    op.lstm_backward(y, None, None, *call, y, h, c, gates, True, **more)


def told(H: int = 64) -> None:
    """Call both operators of a cell that has all, backwards, with gradients by every state."""
    from dataclasses import replace

    import fused_lstm
    from fused_lstm.call.run import expected_weights
    from fused_lstm.call.spec import Spec
    from fused_lstm.triton import op

    @fused_lstm.cell(states="c", weights="w", products={"u": 1, "v": 2})
    def cell(i, g, *, c, w, u, v):
        a, b = v(torch.tanh(u(torch.tanh(g))))
        c = torch.sigmoid(i + a) * c + w * torch.tanh(b)
        return torch.tanh(c), c

    cell.on_triton()
    spec = Spec(cell.name)
    sizes = expected_weights(replace(spec, layers=2), H, H, H)
    x, h0, c0, *weights = (
        torch.zeros(size, dtype=torch.bfloat16)
        for size in ((3, 20, H), (2, 20, H), (2, 20, H * spec.c_parts), *sizes)
    )
    more = {"directions": -1, **spec.schema}
    call = x, h0, c0, weights, 0.0, None, "steps"
    y, _, _, h, c, gates = op.lstm(*call, True, **more)
    states = {"dh": torch.zeros_like(h), "dc": torch.zeros_like(c)}
    op.lstm_backward(y, None, None, *call, y, h, c, gates, True, **more, **states)


def in_heads(N: int = 2, K: int = 64) -> None:
    """Call both operators of block-diagonal weights."""
    from fused_lstm.triton import heads

    x, h0, w = (
        torch.zeros(size, dtype=torch.bfloat16)
        for size in ((3, 20, 4 * N * K), (20, N * K), (N, 4 * K, K))
    )
    y, h_n, _, *saved = heads.recurrence(x, h0, h0.clone(), w, None, "lstm", True)
    heads.recurrence_backward(y, h_n, None, h0, h0.clone(), w, None, y, *saved, "lstm")


@torch.no_grad()
def main(folder: str) -> None:
    """Print JSON: a row for each launch."""
    torch.set_num_threads(1)
    from host_calls import drop_bodies

    rows = record_launches(take_over(Path(folder)))
    in_heads()  # with bodies, which take shared memory
    drop_bodies()
    for fuse in ("steps", "layers"):
        dense(fuse, 2, 1)
    dense("layers", 3, 20, dropout=0.3, ragged=True)
    told()
    print(json.dumps(rows))
