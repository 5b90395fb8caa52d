"""What a plan has to know of a GPU, as data, so that any machine can ask what any GPU would run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch


@dataclass(frozen=True)
class Device:
    name: str
    arch: int  # compute capability, 90 for 9.0; 0 is Triton's interpreter
    sms: int
    smem: int  # bytes of shared memory that one program may have
    l2: int  # bytes
    # Only for floors in microseconds, and for choosing between two plans that both fit:
    clock: float  # GHz
    hbm: float  # GB/s
    l2_rate: float  # GB/s, about: what others measured, no data sheet states it
    tflops: dict[str, float]  # dense peak by precision: half, tf32, fp32, fp64
    registers: int = 65536  # 32-bit, per SM

    def __hash__(self) -> int:
        return hash((self.name, self.arch, self.sms, self.smem))


def _device(name, arch, sms, smem_kib, l2_mb, clock, hbm, l2_rate, half, tf32, fp32, fp64):
    tflops = {"half": half, "tf32": tf32, "fp32": fp32, "fp64": fp64}
    return Device(name, arch, sms, smem_kib * 1024, l2_mb * 10**6, clock, hbm, l2_rate, tflops)


# From NVIDIA's data sheets and architecture white papers; tensor-core rates without sparsity.
DEVICES = {
    device.name: device
    for device in (
        #       name     arch  sms smem  L2  clock  HBM   L2/s   half  tf32  fp32  fp64
        _device("H100", 90, 132, 227, 50, 1.83, 3350, 5500, 989, 494, 67, 67),
        _device("H200", 90, 132, 227, 50, 1.83, 4800, 5500, 989, 494, 67, 67),
        _device("A100", 80, 108, 163, 40, 1.41, 2039, 4000, 312, 156, 19.5, 19.5),
        _device("L4", 89, 58, 99, 48, 2.04, 300, 1500, 121, 60, 30, 0.5),
        _device("RTX 4090", 89, 128, 99, 72, 2.52, 1008, 4500, 165, 82.6, 82.6, 1.3),
        _device("B200", 100, 148, 227, 126, 1.85, 8000, 9000, 2250, 1125, 75, 37),
    )
}

INTERPRETER = Device(
    "interpreter", 0, 0, 0, 0, 1.0, 1.0, 1.0, {"half": 1, "tf32": 1, "fp32": 1, "fp64": 1}
)

BARRIER_US = 1.0  # a grid-wide barrier, about; bench/gpu.py's T=1024 rows bound it from above


def by_arch(arch: int) -> Device:
    """The first described GPU of a compute capability: `by_arch(90)` is the H100."""
    for device in DEVICES.values():
        if device.arch == arch:
            return device
    known = ", ".join(f"sm_{arch}" for arch in sorted({d.arch for d in DEVICES.values()}))
    raise ValueError(f"arch must be one of {known}, got sm_{arch}")


@cache
def current(device: torch.device) -> Device:
    """The machine's own: what the driver says, and the rest from the table or the like of it."""
    if device.type == "cpu":
        return INTERPRETER
    found = torch.cuda.get_device_properties(device)
    arch = found.major * 10 + found.minor
    named = [d for d in DEVICES.values() if d.name in found.name]
    older = [d for d in DEVICES.values() if d.arch <= arch] or [DEVICES["A100"]]
    like = named[0] if named else max(older, key=lambda d: d.arch)
    return replace(
        like,
        name=found.name,
        arch=arch,
        sms=found.multi_processor_count,
        smem=found.shared_memory_per_block_optin,
        l2=found.L2_cache_size,
    )
