"""Choice of launches for a stack of layers, by a step's floor: one wavefront of all, or one each.

Or, of many rows, a launch for each step's product and cell: the level "hoisted".

H, P, L, B, G: hidden size, size of h, layers, batch, gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .devices import Device
from .plan import SIZES, Plan, alone, plan


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
    norm: int = 0,
    gates: int = 4,
    inner: tuple[int, ...] = (),
    inside: int = 0,
    in_parts: bool = True,
    heads: int = 0,
    refused: frozenset[Plan] = frozenset(),
) -> Plan:
    """Return the launch for a stack: a wavefront of all layers where faster, else one each.

    heads: N where lanes are heads: the launch has as many as run at once, a divisor of N. refused:
    plans that a GPU did not load.
    """
    shape: dict[str, Any] = {"hidden": hidden, "batch": batch, "dtype": dtype, "device": device}
    shape |= {"tf32": tf32, "projected": projected, "norm": norm, "gates": gates}
    shape |= {"inner": inner, "inside": inside, "in_parts": in_parts, "refused": refused}
    if heads:
        return _of_heads(direction, heads, shape, device, refused)
    if gates == 0 and not inside:
        return plan("both" if directions == 2 else "steps", direction, layers=1, **shape)
    if directions == 2:  # a layer has to wait for the whole one below
        return _cheaper(plan("both", direction, layers=2, **shape), device, refused)
    steps = _cheaper(plan("steps", direction, layers=1, **shape), device, refused)
    if layers == 1:
        return steps
    if norm or inside:
        reason = "the lanes of a wavefront do not meet inside a step: one launch a layer"
        return replace(steps, why=(*steps.why, reason))
    wave = plan("layers", direction, layers=layers, **shape)
    if device.is_interpreter:
        return wave
    if wave in refused:
        reason = f"the GPU did not load a wave of {layers} layers"
        return replace(steps, why=(*steps.why, f"{reason}: one launch a layer"))
    if steps.persistent and not wave.persistent:
        reason = f"{layers} layers at once do not run at once on {device.sms} SMs"
        return replace(steps, why=(*steps.why, f"{reason}: one launch a layer"))
    if device.tcgen05 and (dtype == "fp64" or (dtype == "fp32" and wave.streams)):
        reason = "a wave in float64, or whose TF32 weights stream, spills registers on this card"
        return replace(steps, why=(*steps.why, f"{reason}: one launch a layer"))
    one, all = estimate(steps, device), estimate(wave, device)
    if all > layers * one:
        reason = f"a wave of {layers} layers takes about {all:.1f} us, one layer {one:.1f} us"
        return replace(steps, why=(*steps.why, f"{reason}: one launch a layer"))
    reason = f"a wave of {layers} layers takes {all:.1f} us, its layers {layers} x {one:.1f} us"
    return replace(wave, why=(*wave.why, reason))


def _of_heads(
    direction: str, heads: int, shape: dict[str, Any], device: Device, refused: frozenset[Plan]
) -> Plan:
    """Return the launch of as many heads as run at once: a divisor of their number, or one head."""
    for lanes in (n for n in range(heads, 1, -1) if heads % n == 0):
        found = _cheaper(plan("heads", direction, layers=lanes, **shape), device, refused)
        if found.persistent or device.is_interpreter:
            return found
    return _cheaper(plan("heads", direction, layers=1, **shape), device, refused)


def _cheaper(among: Plan, device: Device, refused: frozenset[Plan]) -> Plan:
    """Return the faster of two plans: a lane shared out to programs, or a program with it alone.

    Programs that share a lane meet in every step.
    """
    one = alone(among, device)
    if one is None or one in refused:
        return among
    alone_us, among_us = estimate(one, device), estimate(among, device)
    if alone_us > among_us:
        reason = f"alone a program would take about {alone_us:.1f} us, these {among_us:.1f} us"
        return replace(among, why=(*among.why, reason))
    return replace(one, why=(*one.why, f"about {alone_us:.1f} us, {among_us:.1f} us if shared out"))


# --- what a step costs at least ---

# Clock cycles of an SM, found by fused_lstm.tools.inspect: what a unit of a row takes, and what the
# backward of a lane alone has in syncs more than another.
CYCLES, SYNCS = 1.3, 1600


def estimate(plan: Plan, device: Device) -> float:
    """Estimate a step's microseconds: its floor, and the cell's work of the programs on one SM."""
    cycles = plan.own * plan.batch_blocks * plan.block_b * CYCLES
    if plan.alone:
        cycles += SYNCS * (plan.direction == "backward")
        cycles *= -(-plan.programs // device.sms)
    return cost(plan, device).floor_us + cycles / device.clock / 1e3


@dataclass(frozen=True)
class Cost:
    flops: int  # floating-point operations a step, padding left out
    bytes_l2: int  # bytes that programs read and write through L2 a step
    barriers: int
    floor_us: float  # the slower of the two at the card's peak, and the barriers
    bound: str  # what the floor is made of


def cost(plan: Plan, device: Device) -> Cost:
    """Return the floor of a step (steps) or of a wave (layers) on `device`, in the steady state."""
    H, P, B, G, size = plan.hidden, plan.outputs, plan.batch, plan.gates, SIZES[plan.dtype]
    # In a wavefront all but layer 0 multiply their input too.
    products = plan.layers if plan.kind in ("both", "heads") else 2 * plan.layers - 1
    projected = plan.layers if plan.projected else 0
    weights = products * G * H * P + projected * H * P + plan.layers * sum(plan.inner) * H * H
    flops = 2 * weights * B
    # Each program reads all that it sums over, padded to whole blocks unless masked; of those that
    # have rows.
    every = plan.programs // plan.layers
    some = -(-P // plan.units) * plan.split * plan.row_groups
    of_gates, of_hr = (every, some) if plan.direction == "forward" else (some, every)
    chunks = of_gates * products * plan.summed_gates * plan.chunks
    chunks += (of_hr * projected + every * plan.layers * plan.planes) * plan.chunks_hr
    rows = (B if plan.masked else plan.padded_batch) / plan.row_groups
    moving = 0 if plan.alone else chunks * plan.block_k * rows * size
    streamed = (1 - plan.resident_fraction) * weights * size * plan.row_groups
    state = plan.layers * B * (H * G * size + P * size + 2 * H * max(4, size))  # gates, h, c
    if plan.direction == "backward":
        partial = 2 * P * plan.split * max(4, size) if plan.split > 1 else 0
        state += plan.layers * B * (H * G * size + partial)
    state += 2 * projected * B * (H if plan.direction == "forward" else P) * size  # exchanged
    # A phase hands on values, and the next one reads columns again.
    state += 2 * plan.layers * B * H * (plan.planes * size + plan.inside * max(4, size))
    bytes_l2 = int(moving + streamed + state)
    peak = _peak(plan, device) * min(1, plan.programs / device.sms)
    compute_us, memory_us = flops / peak / 1e6, bytes_l2 / device.l2_rate / 1e3
    barriers = plan.meetings + (plan.split > 1) if plan.persistent else 0
    bound = "L2" if memory_us > compute_us else "products"
    floor = max(compute_us, memory_us) + barriers * device.barrier_us
    return Cost(flops, bytes_l2, barriers, floor, f"{bound} + {barriers} barriers")


def _peak(plan: Plan, device: Device) -> float:
    """Return a card's peak in TFLOP/s, in the precision of a plan's products."""
    rate = {"fp32": "tf32" if plan.precision == "tf32" else "fp32", "fp64": "fp64"}
    return device.tflops[rate.get(plan.dtype, "half")]


# --- many rows: a step's product by the library, and its cell, are launches of their own ---

MANY_ROWS, MANY_UNITS = 1024, 256  # of fewer this is not asked
LAUNCHES = 3  # a step's: the gates' or dh's other part, the product and the cell
LAUNCH_US = 2.0  # of a launch that waits for the one before it, about
HOST_US = 10.0  # that Python and PyTorch take to begin a launch, about
TILES = (128, 256), (128, 128), (64, 64)  # rows by columns of what a program of the library makes


def why_hoisted(plans: Sequence[Plan], device: Device) -> str | None:
    """Return why a plain LSTM of many rows is faster at "hoisted" than in these plans, or None.

    plans: a layer's forward and backward. The level is that of both, in inference too. All is
    arithmetic: nobody has timed it.
    """
    rows, units = plans[0].batch, plans[0].hidden
    if device.is_interpreter or rows < MANY_ROWS or units < MANY_UNITS:
        return None
    steps, hoisted = 0.0, 0.0
    for one in plans:
        launches = 0 if one.persistent else len(one.phases())
        steps += _launched(estimate(one, device), launches) / one.layers
        hoisted += _launched(hoisted_us(one, device), LAUNCHES)
    if hoisted >= steps:
        return None
    return (
        f"a step of a layer, {rows} rows forwards and backwards, takes about {hoisted:.0f} us at"
        f" 'hoisted' and {steps:.0f} us in one launch, by arithmetic"
    )


def _launched(us: float, launches: int) -> float:
    """Return the microseconds of work in some launches, each of which waits for the one before."""
    return max(us + launches * LAUNCH_US, launches * HOST_US)


def hoisted_us(plan: Plan, device: Device) -> float:
    """Return the microseconds of a layer's step at "hoisted", without those of launches.

    The library's product takes the tile that suits it, and each of its programs reads its rows of
    both factors. What other launches read and write is counted at L2's rate, as `cost` does. Of a
    wave's layers all but one multiply their input in the step, which at "hoisted" is a part of a
    large product, at the peak.
    """
    B, H, size = plan.batch, plan.hidden, SIZES[plan.dtype]
    columns, summed = (4 * H, H) if plan.direction == "forward" else (H, 4 * H)
    peak, products = _peak(plan, device), []
    for tile_rows, tile_columns in TILES:
        down, across = -(-B // tile_rows), -(-columns // tile_columns)
        reached = peak * min(1, down * across / device.sms)
        read = (across * B + down * columns) * summed * size
        moving_us = (read + B * columns * size) / device.l2_rate / 1e3
        products.append(max(2 * B * columns * summed / reached / 1e6, moving_us))
    inputs = 1 - 1 / plan.layers if plan.kind == "layers" else 0
    large_us = inputs * 2 * B * 4 * H * H / peak / 1e6
    # Numbers of a unit. Forwards x's part is copied and added to; the cell reads it, and h is
    # joined with that of other steps. Backwards dh is a sum, and so are dgates and h joined.
    numbers, states = (4 * 4 + 3, 2) if plan.direction == "forward" else (3 + 4 * 4 + 3, 4)
    other_us = B * H * (numbers * size + states * max(4, size)) / device.l2_rate / 1e3
    return min(products) + large_us + other_us
