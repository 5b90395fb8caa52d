"""GPUs described as data for a plan, so that any machine can ask which plan any GPU would run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch


@dataclass(frozen=True)
class Device:
    name: str
    arch: int  # compute capability, 90 for 9.0; 0 where there is none
    sms: int  # multiprocessors; of AMD's GPUs compute units, or pairs of them (RDNA)
    smem: int  # bytes of shared memory that one program may have
    l2: int  # bytes
    # Only for floors in microseconds, and for choosing between two plans that both fit:
    clock: float  # GHz
    hbm: float  # GB/s
    l2_rate: float  # GB/s, about: what others measured, no data sheet states it
    tflops: dict[str, float]  # dense peak by precision: half, tf32, fp32, fp64
    barrier_us: float = 1.0  # of a grid-wide barrier, about; measure.py measures it
    gfx: str = ""  # AMD's name of an architecture
    wave: int = 32  # threads of a warp

    @property
    def is_interpreter(self) -> bool:
        """True for Triton's interpreter, which is no GPU."""
        return self.name == "interpreter"

    @property
    def has_tf32(self) -> bool:
        """True where Triton multiplies in TF32 on this GPU; of AMD's GPUs, on gfx942 alone."""
        return self.gfx in ("", "gfx942")

    @property
    def wgmma(self) -> bool:
        """True where a warp group multiplies 64 rows at once, from shared memory: Hopper."""
        return 90 <= self.arch < 100

    @property
    def tcgen05(self) -> bool:
        """True where products have a memory of their own: data-center Blackwell, sm_100 and sm_103.

        sm_110 and sm_12x have neither this nor wgmma: their warps multiply as Ampere's do.
        """
        return 100 <= self.arch < 110

    @property
    def asynchronous(self) -> bool:
        """True where products read their operands from shared memory, while warps go on."""
        return self.wgmma or self.tcgen05

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
        _device("RTX 5090", 120, 170, 99, 96, 2.41, 1792, 5500, 210, 105, 105, 1.6),
    )
}


def _amd(name, gfx, wave, units, lds_kib, l2_mb, clock, hbm, l2_rate, half, tf32, fp32, fp64):
    made = _device(name, 0, units, lds_kib, l2_mb, clock, hbm, l2_rate, half, tf32, fp32, fp64)
    return replace(made, gfx=gfx, wave=wave)


# From AMD's data sheets; L2's rates are guesses. No kernel of this project has run on any of them.
AMD = {
    device.name: device
    for device in (
        #    name        gfx       wave units LDS  L2 clock  HBM   L2/s  half  tf32   fp32   fp64
        _amd("MI210", "gfx90a", 64, 104, 64, 8, 1.70, 1638, 3500, 181, 45.3, 45.3, 45.3),
        _amd("MI300X", "gfx942", 64, 304, 64, 32, 2.10, 5300, 9000, 1307, 654, 163, 163),
        _amd("MI350X", "gfx950", 64, 256, 160, 32, 2.20, 8000, 9000, 2300, 144, 144, 72),
        _amd("7900 XTX", "gfx1100", 32, 48, 64, 6, 2.50, 960, 3500, 123, 61, 61, 1.9),
        _amd("RX 9070", "gfx1201", 32, 28, 64, 8, 2.52, 640, 3000, 145, 36, 36, 1.1),
    )
}

# An AMD wave's wait until its own stores have arrived, by how an architecture's name begins.
STORES_DONE = {
    "gfx9": "s_waitcnt vmcnt(0)",
    "gfx11": "s_waitcnt_vscnt null, 0x0",
    "gfx12": "s_wait_storecnt 0x0",
}


def stores_done(gfx: str) -> str:
    """Return the instruction by which a wave waits for its own stores, or "" on NVIDIA's GPUs.

    gfx: AMD's name of an architecture, or "".
    """
    return next((wait for begin, wait in STORES_DONE.items() if gfx.startswith(begin)), "")


# What a driver calls them. A variant with other memory or another socket is another card.
DRIVERS_NAMES = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA L4": "L4",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA B200": "B200",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
}

INTERPRETER = Device(
    "interpreter", 0, 0, 0, 0, 1.0, 1.0, 1.0, {"half": 1, "tf32": 1, "fp32": 1, "fp64": 1}
)


def by_arch(arch: int) -> Device:
    """Return the first described GPU of a compute capability: `by_arch(90)` is the H100."""
    for device in DEVICES.values():
        if device.arch == arch:
            return device
    known = ", ".join(f"sm_{arch}" for arch in sorted({d.arch for d in DEVICES.values()}))
    raise ValueError(f"arch: got sm_{arch}; expected one of {known}")


def gfx_of(properties: Any) -> str:
    """Return AMD's name of a GPU's architecture, or "" for another vendor's GPU.

    For another vendor's GPU PyTorch gives gcnArchName the name of the card.
    """
    name = getattr(properties, "gcnArchName", "")
    return name.partition(":")[0] if name.startswith("gfx") else ""


def by_gfx(gfx: str) -> Device:
    """Return the described GPU of AMD's with this architecture."""
    for device in AMD.values():
        if device.gfx == gfx:
            return device
    known = ", ".join(device.gfx for device in AMD.values())
    raise ValueError(f"gfx: got {gfx!r}; expected one of {known}")


@cache
def current(device: torch.device) -> Device:
    """Return the description of this machine's GPU, or of the interpreter for a CPU.

    The table describes a GPU by its exact name; the driver describes any other.
    """
    if device.type == "cpu":
        return INTERPRETER
    return described(torch.cuda.get_device_properties(device))


def described(properties: Any) -> Device:
    """Return the description of a GPU by its driver (`torch.cuda.get_device_properties`).

    No driver tells some rates. These come from the nearest described architecture, per
    multiprocessor and clock cycle.
    """
    if gfx := gfx_of(properties):
        return replace(
            by_gfx(gfx), name=properties.name, sms=properties.multi_processor_count,
            l2=properties.L2_cache_size,
        )  # fmt: skip
    arch = properties.major * 10 + properties.minor
    limits = {
        "name": properties.name,
        "arch": arch,
        "sms": properties.multi_processor_count,
        "smem": properties.shared_memory_per_block_optin,
        "l2": properties.L2_cache_size,
    }
    if (name := DRIVERS_NAMES.get(properties.name)) is not None:
        return replace(DEVICES[name], **limits)
    like = nearest(arch)
    clock = getattr(properties, "clock_rate", 0) / 1e6 or like.clock  # kHz
    hbm = like.hbm
    if (rate := getattr(properties, "memory_clock_rate", 0)) > 0:  # kHz, two transfers a cycle
        hbm = 2 * rate * properties.memory_bus_width / 8 / 1e6
    factor = limits["sms"] * clock / (like.sms * like.clock)
    tflops = {precision: of * factor for precision, of in like.tflops.items()}
    rates = {"clock": clock, "hbm": hbm, "l2_rate": like.l2_rate * factor, "tflops": tflops}
    return replace(like, **limits, **rates)


def nearest(arch: int) -> Device:
    """Return the described GPU with the nearest architecture; of two as near, the older one."""
    return min(DEVICES.values(), key=lambda device: (abs(device.arch - arch), device.arch))
