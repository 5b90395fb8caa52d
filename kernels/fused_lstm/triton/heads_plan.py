"""Plan of the kernels of heads: the number of programs that share a head, and how they multiply.

    plan("forward", heads=4, units=256, batch=16, gates=4, dtype="bf16", device=DEVICES["H100"])

A pure function of shape, dtype and device. A tile of BLOCK_B rows of a head is one program's, which
waits for no other, or is shared by `parts` programs, which meet once a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import Device
from .plan import K_PARTS, RESERVED, SIZES

BLOCK_B = 16  # rows of batch that a program takes
ALONE_UNITS = 32  # of a head, that is left to one program
RESIDENT_REGISTERS = 96  # of a thread, for weights: found by fused_lstm.tools.inspect_heads
STAGES = 2  # chunks of weights in flight or in use, where they stream from L2
WARPS = 8  # with blocks of 32 units neither kernel spills on sm_80 and sm_90; four warps do
REGISTERS = 255  # of a thread, the most that there are


@dataclass(frozen=True)
class HeadsPlan:
    """One launch of a kernel of heads."""

    parts: int  # programs that share a head's tile of batch; 1: one program, which waits for nobody
    block: int  # units that a program takes in turn
    k_parts: int = 1  # of a product's sum, each a warp's; 1: warps share rows and columns instead
    part_k: int = 16  # units of a part that are multiplied at once
    chunks: int = 1  # of so many, of a part
    resident: bool = False  # a program has one block, whose weights stay on chip
    stages: int = 1  # chunks in flight or in use where weights stream
    persistent: bool = True  # a launch has all steps; else one, since no program can wait
    amd: bool = False

    @property
    def meets(self) -> bool:
        """Return whether programs wait for each other, once a step."""
        return self.parts > 1 and self.persistent

    def launches(self, T: int) -> list[tuple[int, int]]:
        """Return [begin, end) of each launch that T steps take, in order."""
        return [(0, T)] if self.persistent else [(t, t + 1) for t in range(T)]


def plan(
    direction: str,
    *,
    heads: int,
    units: int,
    batch: int,
    gates: int,
    dtype: str,
    device: Device,
    tf32: bool = True,
) -> HeadsPlan:
    """Return the launch for one shape.

    Args:
        direction: "forward" or "backward".
        heads, units, batch, gates: N, K, B, G.
        dtype: "fp16", "bf16", "fp32" or "fp64".
        device: one of fused_lstm.triton.devices; the interpreter's programs cannot wait, so that
            each has a head.
        tf32: whether float32 products may round their inputs to TF32.
    """
    block, amd = 32 if units > 16 else 16, device.gfx != ""
    fit = device.sms // max(1, heads * -(-batch // BLOCK_B))
    if units <= ALONE_UNITS or fit < 2:
        return HeadsPlan(1, block, amd=amd)
    on_tensor_cores = SIZES[dtype] == 2 or (dtype == "fp32" and tf32)
    if on_tensor_cores and not amd:
        return in_parts(direction, units, gates, SIZES[dtype], fit, device.smem)
    return HeadsPlan(shared_out(units, block, fit), block, amd=amd)


def shared_out(units: int, block: int, fit: int) -> int:
    """Return the number of programs, at most `fit`, each with as few blocks as that allows."""
    blocks = -(-units // block)
    turns = -(-blocks // fit)
    return -(-blocks // turns)


def in_parts(direction: str, units: int, gates: int, size: int, fit: int, smem: int) -> HeadsPlan:
    """Return a plan in which each warp sums over its part of K.

    size: bytes of a weight. fit: programs of a head that run at once. smem: bytes of shared memory.
    """
    block, columns = 16, -(-units // (K_PARTS * 16)) * 16  # of K, that a warp sums over
    part_k = 32 if columns % 32 == 0 and size == 2 else 16
    parts = shared_out(units, block, fit)
    # The gates are the forward's rows, and of the backward's sum.
    rows, sums = (block * (1 if gates == 1 else 4), 1) if direction == "forward" else (block, gates)
    bytes_of_k = sums * K_PARTS * columns * size
    needed = rows * bytes_of_k + BLOCK_B * max(K_PARTS * rows * 4, bytes_of_k) + RESERVED
    registers = rows * sums * columns * size // 128
    resident = parts * block >= units and registers <= RESIDENT_REGISTERS and needed <= smem
    stages = 1 if resident else STAGES
    return HeadsPlan(parts, block, K_PARTS, part_k, columns // part_k, resident, stages)


def options(plan: HeadsPlan) -> dict:
    """Return options of the compiler and launch.

    Programs that meet are launched so that CUDA refuses a grid that does not run at once. Then no
    load is moved across the barrier (num_stages), and a program has all registers: ptxas would
    spill a few for a second program on the same multiprocessor.
    """
    chosen: dict = {"num_warps": WARPS}
    if plan.parts > 1:
        chosen |= {"num_stages": 1, "launch_cooperative_grid": plan.persistent}
        chosen |= {} if plan.amd else {"maxnreg": REGISTERS}
    return chosen
