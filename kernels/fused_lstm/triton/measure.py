"""Measurements of a card that no data sheet has: a grid barrier's time, and L2's rate.

`measured` takes some 20 ms on a GPU. `fused_lstm.tools.tune` keeps its results for the library
(tuned.py), and `make gpu` reports them. `parts` says what a barrier's time is made of.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import barrier, launch
from .devices import Device

ROUNDS = 1000  # meetings of a launch
READS = 4  # of all that is read, by each program
MOST_READ = 8 * 2**20  # bytes that all programs read, a few times: in most cards' L2


@triton.jit(do_not_specialize=["rounds"])
def meet_kernel(
    counter_ptr,  # [1] int32, zero
    rounds,
    PLAN: tl.constexpr,
):
    """Meet at a grid barrier of all programs `rounds` times, and do nothing else."""
    programs = tl.num_programs(0)
    for n in range(rounds):
        barrier.arrive(counter_ptr, True, PLAN)
        barrier.wait(counter_ptr, (n + 1) * programs, True, PLAN)


# One program's ways to wait for L2. In PTX, of $1: a number, or the address of one that is 0.
FENCE = tl.constexpr("fence.acq_rel.gpu; mov.u32 $0, $1;")
POLL = tl.constexpr("ld.acquire.gpu.global.s32 $0, [$1];")


@triton.jit(do_not_specialize=["rounds"])
def chain_kernel(
    x_ptr,  # [1] int32, zero
    out_ptr,  # [1] int32, out
    rounds,
    PART: tl.constexpr,
):
    """Do a part of a meeting `rounds` times in one warp, each time after the time before."""
    at = tl.load(x_ptr)
    for n in range(rounds):
        if PART == "fence":
            tl.store(out_ptr, n)  # that there is something to wait for
            at = tl.inline_asm_elementwise(
                FENCE, "=r,r,~{memory}", [at], tl.int32, is_pure=False, pack=1
            )
        elif PART == "atomic":
            # It adds 1, since an addition of 0 is compiled as a load; the counter stays positive.
            seen = tl.atomic_add(x_ptr + at, 1, sem="relaxed", scope="gpu")
            at = (seen < 0).to(tl.int32)
        elif PART == "poll":
            at = tl.inline_asm_elementwise(
                POLL, "=r,l,~{memory}", [x_ptr + at], tl.int32, is_pure=False, pack=1
            )
        else:
            at = tl.load(x_ptr + at, cache_modifier=".cg")
    tl.store(out_ptr, at)


@triton.jit(do_not_specialize=["blocks", "times"])
def read_kernel(
    x_ptr,  # [blocks * BLOCK] int32
    out_ptr,  # [programs] int32, out: the sum of what each has read
    blocks,
    times,
    BLOCK: tl.constexpr,
):
    """Read all of x in each program, past L1, `times` times, each from its own block on."""
    program = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.int32)
    for n in range(blocks * times):
        at = (program + n) % blocks * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + at, cache_modifier=".cg")
    tl.store(out_ptr + program, tl.sum(total, 0))


def meet(counter: torch.Tensor, programs: int, rounds: int, gfx: str) -> None:
    """Launch meetings of `programs` programs; counter [1] int32 is zero; gfx: AMD's name, or ""."""
    plan = launch.Constants(**launch.wrapped(launch.waits(gfx)))
    meet_kernel[(programs,)](counter, rounds, plan, num_warps=4, launch_cooperative_grid=True)


def read(x: torch.Tensor, out: torch.Tensor, times: int, block: int = 2048) -> None:
    """Launch as many programs as `out` has elements, each of which reads x [n] int32."""
    read_kernel[(len(out),)](x, out, len(x) // block, times, block, num_warps=8)


def chain(x: torch.Tensor, out: torch.Tensor, rounds: int, part: str) -> None:
    """Launch one warp that does a part of a meeting again and again; x [1] int32 is zero."""
    chain_kernel[(1,)](x, out, rounds, part, num_warps=1)


def parts_of(device: Device) -> tuple[str, ...]:
    """Return the names of a meeting's parts that are measured.

    Two of them are PTX's, and an AMD GPU loads what all threads read by another path.
    """
    return ("atomic",) if device.gfx else ("fence", "atomic", "poll", "load")


def parts(device: Device) -> dict[str, float]:
    """Return {"PART_us": microseconds of one, each after the one before} of the current GPU.

    fence: with a store before it. atomic: a relaxed addition, whose result the warp has. poll: a
    load that acquires. load: one past L1. All of one address in L2.
    """
    found: dict[str, float] = {}
    for part in parts_of(device):
        x, out = (torch.zeros(1, dtype=torch.int32, device="cuda") for _ in range(2))
        chain(x, out, 1, part)  # compiled
        x.zero_()
        milliseconds = _milliseconds(lambda x=x, out=out, part=part: chain(x, out, ROUNDS, part))
        found[f"{part}_us"] = milliseconds * 1e3 / ROUNDS
    return found


def bytes_read(device: Device) -> int:
    """Return how many bytes all programs read: half of a small L2, in blocks of 64 KiB."""
    return min(MOST_READ, device.l2 // 2) // 2**16 * 2**16


def measured(device: Device) -> dict[str, float]:
    """Return {"barrier_us": of a meeting of all multiprocessors, "barrier_us_N": of N programs,
    "l2_rate": GB/s} of the current GPU.
    """
    found: dict[str, float] = {}
    for programs in (8, 32, device.sms):
        counter = torch.zeros(1, dtype=torch.int32, device="cuda")
        meet(counter, programs, 1, device.gfx)  # compiled
        counter.zero_()
        us = _milliseconds(lambda c=counter, n=programs: meet(c, n, ROUNDS, device.gfx)) * 1e3
        found[f"barrier_us_{programs}"] = us / ROUNDS
    found["barrier_us"] = found[f"barrier_us_{device.sms}"]
    size = bytes_read(device)
    x = torch.zeros(size // 4, dtype=torch.int32, device="cuda")
    out = torch.zeros(device.sms, dtype=torch.int32, device="cuda")
    read(x, out, 1)  # into L2
    milliseconds = _milliseconds(lambda: read(x, out, READS))
    found["l2_rate"] = device.sms * READS * size / milliseconds / 1e6
    return found


def _milliseconds(work) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)
