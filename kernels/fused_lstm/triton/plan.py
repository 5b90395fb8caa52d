"""Which launch a shape gets: a pure function of shape, dtype and device, and its reasons.

    plan("steps", "forward", hidden=1500, batch=20, layers=1, dtype="bf16", device=DEVICES["H100"])

H, L: hidden size, layers. A forward program owns `units` hidden units: 4 * units rows of weights,
summed over H. A backward program owns 4 * units hidden units and a quarter of the 4H gates: as
many rows, summed over as many. So one calculation serves both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from .devices import BARRIER_US, Device

SIZES = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
TILE = 16 * 1024  # bytes of a tile of weights, where H is large enough
MANY = 8  # rounds of a product, so that twice the tile pays: fewer syncs for more instructions
STREAM_STAGES = 3  # tiles in flight or in use where weights stream from L2
RESERVED = 2048  # bytes of shared memory for what the compiler adds: mbarriers, reductions


@dataclass(frozen=True)
class Plan:
    """One kernel's launch. In brackets: what `fused_lstm.inspect` prints as its reason."""

    kind: str  # steps, layers or both
    direction: str  # forward or backward
    mode: str  # persistent: one launch; per-step: one launch a step
    hidden: int
    batch: int
    layers: int  # lanes: of a wavefront, or the two directions of one layer
    dtype: str  # a key of SIZES
    precision: str  # tl.dot's input_precision; or upcast, in the interpreter
    programs: int
    units: int  # hidden units of a block
    split: int  # programs that share a block (backward)
    row_groups: int  # of programs, each with rows of batch and a barrier of its own
    warps: int
    block_b: int
    batch_blocks: int  # of block_b rows that one program takes in turn
    block_k: int
    chunks: int  # of block_k that one product sums over
    resident: int  # chunks of w_hh that stay on chip
    resident_ih: int  # chunks of w_ih that do (layers)
    ahead: int
    stages: int
    hold: bool  # see product.product
    smem: int  # bytes of shared memory, estimated
    why: tuple[str, ...]

    @property
    def persistent(self) -> bool:
        return self.mode == "persistent"

    @property
    def rows(self) -> int:
        """Rows of a program's weight tile."""
        return 4 * self.units if self.direction == "forward" else self.units

    @property
    def padded_batch(self) -> int:
        """Rows of batch in whole blocks."""
        return self.row_groups * self.batch_blocks * self.block_b

    @property
    def blocks(self) -> int:
        """Blocks of units, of all layers, in a row group."""
        return self.programs // (self.split * self.row_groups)

    @property
    def gates(self) -> int:
        """Of four, those that one program's product sums over: in the forward they are its rows."""
        return 4 // self.split if self.direction == "backward" else 1

    @property
    def products(self) -> int:
        return 2 if self.kind == "layers" else 1

    @property
    def resident_fraction(self) -> float:
        return (self.resident + self.resident_ih) / (self.chunks * self.products)

    def waves(self, T: int) -> int:
        """Of T steps: a lane that reads another's output is a step behind it."""
        return T + self.layers - 1 if self.kind == "layers" else T

    def launches(self, count: int) -> list[tuple[int, int]]:
        """[begin, end) of each launch that `count` steps or waves take, in order."""
        return [(0, count)] if self.persistent else [(t, t + 1) for t in range(count)]

    def phases(self) -> list[int]:
        """PHASE of the backward launches that a range of steps takes."""
        return [2] if self.persistent or self.split == 1 else [0, 1]


def plan(
    kind: str,
    direction: str,
    *,
    hidden: int,
    batch: int,
    layers: int,
    dtype: str,
    device: Device,
    tf32: bool = True,
) -> Plan:
    """The launch for one shape.

    Args:
        kind: "steps" (one lane a launch), "layers" (a wavefront of `layers`) or "both" (a layer's
            two directions).
        direction: "forward" or "backward".
        hidden, batch, layers: H, B, L.
        dtype: "fp16", "bf16", "fp32" or "fp64".
        device: one of fused_lstm.triton.devices.
        tf32: whether float32 products may round their inputs to TF32.
    """
    if kind not in ("steps", "layers", "both"):
        raise ValueError(f"kind must be 'steps', 'layers' or 'both', got {kind!r}")
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction must be 'forward' or 'backward', got {direction!r}")
    if dtype not in SIZES:
        raise ValueError(f"dtype must be one of {', '.join(SIZES)}, got {dtype!r}")
    for name, value in (("hidden", hidden), ("batch", batch), ("layers", layers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    layers = {"steps": 1, "layers": layers, "both": 2}[kind]
    if device.arch == 0:
        return _interpreted(kind, direction, hidden, batch, layers, dtype)
    return _compiled(kind, direction, hidden, batch, layers, dtype, device, tf32)


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
    directions: int = 1,
) -> Plan:
    """The launch for a stack of layers: a wavefront of all where it is faster, else one each."""
    shape = {"hidden": hidden, "batch": batch, "dtype": dtype, "device": device, "tf32": tf32}
    if directions == 2:  # a layer has to wait for the whole one below
        return plan("both", direction, layers=2, **shape)
    steps = plan("steps", direction, layers=1, **shape)
    if layers == 1:
        return steps
    wave = plan("layers", direction, layers=layers, **shape)
    if device.arch == 0:
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


def _interpreted(kind, direction, hidden, batch, layers, dtype) -> Plan:
    """Few large programs: one costs the interpreter milliseconds, whatever its size."""
    block = min(max(16, _power_of_2(hidden)), 256)
    block_b = min(max(16, _power_of_2(batch)), 128)
    block_k = min(max(16, _power_of_2(hidden)), 512)
    return Plan(
        kind, direction, "per-step", hidden, batch, layers, dtype,
        precision="upcast" if SIZES[dtype] == 2 else "ieee",
        programs=layers * _ceil(hidden, block), units=block, split=1, row_groups=1, warps=4,
        block_b=block_b, batch_blocks=_ceil(batch, block_b),
        block_k=block_k, chunks=_ceil(hidden, block_k), resident=0, resident_ih=0, ahead=0,
        stages=1, hold=False, smem=0,
        why=("the interpreter runs one program after another: one launch a step",),
    )  # fmt: skip


def _compiled(kind, direction, hidden, batch, layers, dtype, device, tf32) -> Plan:
    size, why = SIZES[dtype], []
    units, programs, persistent = _share_out(direction, hidden, layers, device, why)
    rows, products = 4 * units, 2 if kind == "layers" else 1
    split = 4 if direction == "backward" and persistent else 1
    if direction == "backward" and not persistent:
        programs = layers * _ceil(hidden, rows)

    precision = "tf32" if size == 2 or (dtype == "fp32" and tf32) else "ieee"
    on_tensor_cores = precision == "tf32"
    block_b, row_groups = _divide_rows(batch, rows, programs, persistent, device, why)
    narrow = min(TILE // (rows * size) if on_tensor_cores else 16, max(16, _power_of_2(hidden)))
    # Half as many rounds of a product, where there are many and all of its weights are resident.
    may_double = kind != "layers" and persistent and size == 2 and device.arch < 100
    may_double &= block_b <= 32 and _ceil(hidden, narrow) >= MANY
    for block_k in (2 * narrow, narrow) if may_double else (narrow,):
        chunks = _ceil(hidden, block_k)
        tile, staged = rows * block_k * size, block_k * block_b * size
        scratch = max(staged, rows * block_b * max(4, size)) + RESERVED
        free = device.smem - scratch
        if free >= products * chunks * tile:
            break
    resident, stages = 0, 1
    if not persistent:
        why.append("weights are read anew by every launch")
    elif not on_tensor_cores:
        why.append(f"{dtype} products without tensor cores: weights stream from L2, {_NO_TILES}")
    elif free >= products * chunks * tile:
        resident = products * chunks
        why.append(
            f"{resident} weight tiles of {tile // 1024} KiB and {scratch // 1024} KiB of scratch"
            f" fit in {device.smem // 1024} KiB: all weights resident"
        )
    else:
        stages = STREAM_STAGES
        buffers = stages if device.arch >= 90 else stages - 1  # Hopper's products are asynchronous
        scratch = max(scratch, buffers * (tile + staged) + RESERVED)
        resident = max(0, (device.smem - scratch) // tile)
        why.append(
            f"{products * chunks} weight tiles of {tile // 1024} KiB do not fit in"
            f" {device.smem // 1024} KiB: {resident} resident,"
            f" {products * chunks - resident} stream from L2 every step"
        )
    if resident == 0:
        scratch = max(scratch, tile + staged + RESERVED)
    return Plan(
        kind, direction, "persistent" if persistent else "per-step", hidden, batch, layers, dtype,
        precision, programs * row_groups, units=rows if direction == "backward" else units,
        split=split, row_groups=row_groups, warps=_warps(rows, device), block_b=block_b,
        batch_blocks=_ceil(_ceil(batch, block_b), row_groups),
        block_k=block_k, chunks=chunks,
        resident=min(resident, chunks), resident_ih=max(0, resident - chunks),
        ahead=_ahead(kind, block_b * max(1, tile // TILE), stages > 1, device), stages=stages,
        hold=device.arch < 90,
        smem=scratch + resident * tile, why=tuple(why),
    )  # fmt: skip


_NO_TILES = "since operands of such products live in registers"


def _share_out(direction, hidden, layers, device, why) -> tuple[int, int, bool]:
    """Hidden units a program, programs, and whether all of them run at once."""
    for units in (16, 32, 64):
        blocks = _ceil(hidden, units) if direction == "forward" else 4 * _ceil(hidden, 4 * units)
        if layers * blocks <= device.sms:
            why.append(f"{layers * blocks} programs, one on each of {device.sms} SMs at most")
            return units, layers * blocks, True
    why.append(
        f"{layers * blocks} programs of 64 units do not run at once on {device.sms} SMs:"
        " no barrier, one launch a step"
    )
    return 16, layers * _ceil(hidden, 16), False


def _divide_rows(batch, rows, programs, persistent, device, why) -> tuple[int, int]:
    """Rows of batch that a product takes at once, and how many groups of programs share them out.

    Rows do not wait for each other: as many groups as the SMs hold, each with weights of its own.
    """
    block_b = min(max(16, _power_of_2(batch)), 32)
    fit = max(1, device.sms // programs) if persistent else 1
    if _ceil(batch, block_b) > fit and rows <= 64:
        block_b = min(_power_of_2(batch), 64)
    groups = min(fit, _ceil(batch, block_b))
    groups = _ceil(_ceil(batch, block_b), _ceil(_ceil(batch, block_b), groups))  # none without rows
    if groups > 1:
        why.append(f"{batch} rows of batch shared out to {groups} groups of {programs} programs")
    return block_b, groups


def _warps(rows: int, device: Device) -> int:
    # A warp group of 4 multiplies 64 rows on Hopper; two share a tile of more rows. Before it,
    # 8 warps halve what each thread holds.
    return 4 if device.arch >= 90 and rows == 64 else 8


def _ahead(kind: str, wide: int, streams: bool, device: Device) -> int:
    """As many chunks in flight as registers hold beside the rest: found by fused_lstm.inspect."""
    # A chunk takes 16 of a thread's 255 registers at 32 columns and 4 warps, twice that doubled.
    if device.arch >= 100:
        return 0 if streams or kind == "layers" else 1
    if wide > 32:
        return 1
    if device.arch < 90:
        return 3
    if streams:
        return 1 if kind == "layers" else 2
    return 2 if kind == "layers" else 4


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
    H, B, size = plan.hidden, plan.batch, SIZES[plan.dtype]
    # In a wavefront all but layer 0 multiply their input too.
    products = plan.layers if plan.kind == "both" else 2 * plan.layers - 1
    flops = products * 2 * 4 * H * H * B
    per_layer = plan.programs // plan.layers
    # Each program reads all that it sums over, padded to whole blocks.
    read = plan.gates * plan.chunks * plan.block_k * plan.batch_blocks * plan.block_b
    moving = products * per_layer * read * size
    streamed = (1 - plan.resident_fraction) * products * 4 * H * H * size * plan.row_groups
    state = plan.layers * B * H * (4 * size + size + 2 * max(4, size))  # gates, h, c
    if plan.direction == "backward":
        state += plan.layers * B * H * (4 * size + 2 * plan.split * max(4, size))
    bytes_l2 = int(moving + streamed + state)
    rate = {"fp32": "tf32" if plan.precision == "tf32" else "fp32", "fp64": "fp64"}
    peak = device.tflops[rate.get(plan.dtype, "half")] * min(1, plan.programs / device.sms)
    compute_us, memory_us = flops / peak / 1e6, bytes_l2 / device.l2_rate / 1e3
    barriers = 0 if not plan.persistent else 2 if plan.direction == "backward" else 1
    bound = "L2" if memory_us > compute_us else "products"
    floor = max(compute_us, memory_us) + barriers * BARRIER_US
    return Cost(flops, bytes_l2, barriers, floor, f"{bound} + {barriers} barriers")


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
