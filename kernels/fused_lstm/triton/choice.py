"""Which launches a stack of layers gets: a wavefront of all, or one each. By a step's floor.

H, P, L, B, G: hidden size, size of h, layers, batch, gates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .devices import BARRIER_US, Device
from .plan import SIZES, Plan, plan


@lru_cache(1024)  # asked for by every forward and every backward
def choose(
    direction: str,
    *,
    hidden: int,
    batch: int,
    layers: int,
    dtype: str,
    device: Device,
    tf32: bool = True,
    projected: int = 0,
    directions: int = 1,
    norm: bool = False,
    gates: int = 4,
    in_parts: bool = True,
) -> Plan:
    """The launch for a stack of layers: a wavefront of all where it is faster, else one each."""
    shape: dict[str, Any] = {"hidden": hidden, "batch": batch, "dtype": dtype, "device": device}
    shape |= {"tf32": tf32, "projected": projected, "norm": norm, "gates": gates}
    shape["in_parts"] = in_parts
    if directions == 2:  # a layer has to wait for the whole one below
        return plan("both", direction, layers=2, **shape)
    steps = plan("steps", direction, layers=1, **shape)
    if layers == 1:
        return steps
    if norm:
        reason = "the lanes of a wavefront do not meet inside a step: one launch a layer"
        return replace(steps, why=(*steps.why, reason))
    wave = plan("layers", direction, layers=layers, **shape)
    if device.is_interpreter:
        return wave
    if steps.persistent and not wave.persistent:
        reason = f"{layers} layers at once do not run at once on {device.sms} SMs"
        return replace(steps, why=(*steps.why, f"{reason}: one launch a layer"))
    one, all = cost(steps, device).floor_us, cost(wave, device).floor_us
    if all > layers * one:
        reason = f"a wave of {layers} layers takes {all:.1f} us at least, one layer {one:.1f} us"
        return replace(steps, why=(*steps.why, f"{reason}: one launch a layer"))
    reason = f"a wave of {layers} layers takes {all:.1f} us, its layers {layers} x {one:.1f} us"
    return replace(wave, why=(*wave.why, reason))


# --- what a step costs at least ---


@dataclass(frozen=True)
class Cost:
    flops: int  # floating-point operations a step, padding left out
    bytes_l2: int  # bytes that programs read and write through L2 a step
    barriers: int
    floor_us: float  # the slower of the two at the card's peak, and the barriers
    bound: str  # what the floor is made of


def cost(plan: Plan, device: Device) -> Cost:
    """A step's (steps) or wave's (layers) floor on `device`, in the steady state."""
    H, P, B, G, size = plan.hidden, plan.outputs, plan.batch, plan.gates, SIZES[plan.dtype]
    # In a wavefront all but layer 0 multiply their input too.
    products = plan.layers if plan.kind == "both" else 2 * plan.layers - 1
    projected = plan.layers if plan.projected else 0
    weights = products * G * H * P + projected * H * P
    flops = 2 * weights * B
    # Each program reads all that it sums over, padded to whole blocks; of those that have rows.
    every = plan.programs // plan.layers
    some = -(-P // plan.units) * plan.split * plan.row_groups
    of_gates, of_hr = (every, some) if plan.direction == "forward" else (some, every)
    chunks = of_gates * products * plan.summed_gates * plan.chunks
    chunks += of_hr * projected * plan.chunks_hr
    moving = chunks * plan.block_k * plan.batch_blocks * plan.block_b * size
    streamed = (1 - plan.resident_fraction) * weights * size * plan.row_groups
    state = plan.layers * B * (H * G * size + P * size + 2 * H * max(4, size))  # gates, h, c
    if plan.direction == "backward":
        state += plan.layers * B * (H * G * size + 2 * P * plan.split * max(4, size))
    state += 2 * projected * B * (H if plan.direction == "forward" else P) * size  # exchanged
    bytes_l2 = int(moving + streamed + state)
    rate = {"fp32": "tf32" if plan.precision == "tf32" else "fp32", "fp64": "fp64"}
    peak = device.tflops[rate.get(plan.dtype, "half")] * min(1, plan.programs / device.sms)
    compute_us, memory_us = flops / peak / 1e6, bytes_l2 / device.l2_rate / 1e3
    meetings = plan.meetings + (plan.direction == "backward")
    barriers = meetings if plan.persistent else 0
    bound = "L2" if memory_us > compute_us else "products"
    floor = max(compute_us, memory_us) + barriers * BARRIER_US
    return Cost(flops, bytes_l2, barriers, floor, f"{bound} + {barriers} barriers")
