"""Plan of a launch: a pure function of shape, dtype and device, and its reasons.

    plan("steps", "forward", hidden=1500, batch=20, layers=1, dtype="bf16", device=DEVICES["H100"])

H, P, L, G: hidden size, size of h (H where it is not projected), layers, gates. A forward program
owns `units` hidden units: G * units rows of weights, summed over P. A backward program owns G *
units elements of h and one of the G gates: as many rows, summed over H. So one calculation serves
both. A tile has a power of 2 times `units` rows, as Triton wants it: of three gates the last
quarter is masked. Where h is projected, each also owns `own` rows of w_hr, or of its transpose;
where there are products inside a step, rows of each one's weight, as `inner_rows` says.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..call.spec import CELLS, Spec
from .devices import Device

SIZES = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
TILE = 16 * 1024  # bytes of a tile of weights, where H is large enough
MANY = 8  # rounds of a product, so that twice the tile pays: fewer syncs for more instructions
STREAM_STAGES = 3  # tiles in flight or in use where weights stream from L2
K_PARTS = 8  # warps that share out a product's sum, where they do
PART_REGISTERS = (
    176  # of a thread, that its weights and sums may take: found by fused_lstm.tools.inspect
)
READ_US = 0.2  # what reading K once more may take, by arithmetic, for half as many units a program
ALONE_UNITS = 128  # of a lane, that one program may have to itself
SCAN = 128  # elements of a program's tile where no product is in the loop: one a thread
RESERVED = 2048  # bytes of shared memory for what the compiler adds: mbarriers, reductions
MIXED = 4096  # bytes more where a warp group multiplies after warps that multiplied on their own


@dataclass(frozen=True)
class Plan:
    """One kernel's launch. In brackets: the reason that `tools.inspect` prints."""

    kind: str  # steps, layers, both or heads
    direction: str  # forward or backward
    mode: str  # persistent: one launch; per-step: one launch a step
    hidden: int
    batch: int
    layers: int  # lanes: of a wavefront, the two directions of one layer, or heads
    projected: int  # P where h is projected, else 0
    dtype: str  # a key of SIZES
    precision: str  # tl.dot's input_precision; or upcast, in the interpreter
    programs: int
    rows: int  # of a weight tile
    units: int  # of a block: hidden units, or elements of h (backward)
    own: int  # units of a block that one program finishes: rows of its projection's tile
    split: int  # programs that share a block (backward)
    row_groups: int  # of programs, each with rows of batch and a barrier of its own
    warps: int
    block_b: int
    batch_blocks: int  # of block_b rows that one program takes in turn
    block_k: int
    chunks: int  # of block_k that one product sums over
    resident: int  # chunks of w_hh that stay on chip
    resident_ih: int  # chunks of w_ih that do (layers)
    chunks_hr: int  # of the projection's product, or of each inside a step; 0 where there is none
    resident_hr: int
    ahead: int
    stages: int
    hold: bool  # products take w_hh and w_ih from registers, see tile.load_moving
    hold_hr: tuple[bool, ...]  # and w_hr, or each product inside a step its own
    why: tuple[str, ...] = field(compare=False)
    norm: int = 0  # meetings of a block of batch, in which its rows are normalized over all units
    gates: int = 4  # G
    k_parts: int = 1  # of a product's sum, each a warp's; 1: warps share rows and columns instead
    gfx: str = ""  # AMD's name of an architecture
    asynchronous: bool = False  # products read shared memory while warps go on: sm_90, sm_100
    tcgen05: bool = False  # products have a memory of their own: sm_100
    alone: bool = False  # a program has a lane to itself: its weights and states stay on chip
    inner: tuple[int, ...] = ()  # columns of a unit that each product inside a step makes
    inside: int = 0  # meetings inside a step, by products and sums
    phase: bool = False  # h is exchanged without a barrier, where `has_phase`

    def __hash__(self) -> int:
        """Return a hash of a few fields: every call looks up what was made of its plan."""
        return hash((self.kind, self.direction, self.hidden, self.batch, self.dtype))

    @cached_property
    def outputs(self) -> int:
        """P."""
        return self.projected or self.hidden

    @cached_property
    def amd(self) -> bool:
        return self.gfx != ""

    @cached_property
    def persistent(self) -> bool:
        return self.mode == "persistent"

    @cached_property
    def padded_batch(self) -> int:
        """Rows of batch in whole blocks."""
        return self.row_groups * self.batch_blocks * self.block_b

    @cached_property
    def masked(self) -> bool:
        """Say whether programs load only the rows of an exchange that exist, not whole blocks.

        A mask takes up to 5 instructions for each 16 bytes that a thread loads, which a few rows
        do not pay for. In float32 it costs more: on sm_80 a loop over streamed weights is no longer
        unrolled, 2,694 instructions a step of H=1500 for 1,911.
        """
        few = self.padded_batch - self.batch >= self.padded_batch / 8
        return self.persistent and few and SIZES[self.dtype] == 2

    @cached_property
    def blocks(self) -> int:
        """Blocks of units, of all layers, in a row group."""
        return self.programs // (self.split * self.row_groups)

    @cached_property
    def parts(self) -> int:
        """Programs that share out the units of a lane, in a row group."""
        return self.programs // (self.layers * self.row_groups)

    @cached_property
    def summed_gates(self) -> int:
        """Number of gates that one program's product sums over.

        In the forward the gates are the product's rows, and the number is 1.
        """
        return self.gates // self.split if self.direction == "backward" else min(1, self.gates)

    @property
    def products(self) -> int:
        return 2 if self.kind == "layers" else 1

    @property
    def resident_fraction(self) -> float:
        """Part of a program's weights that stays on chip."""
        others, rows = sum(self.inner_rows) or self.own, self.rows * min(1, self.gates)
        resident = rows * (self.resident + self.resident_ih) + others * self.resident_hr
        every = rows * self.chunks * self.products + others * self.chunks_hr
        return resident / every if every else 1.0

    @property
    def streams(self) -> bool:
        """Return whether a step reads some weights anew."""
        return self.resident_fraction < 1

    @cached_property
    def rounds(self) -> bool:
        """Return whether factors of products are rounded to TF32."""
        return self.dtype == "fp32" and self.precision == "tf32"

    @property
    def meetings(self) -> int:
        """Number of times that all programs meet in a step, or wave."""
        if self.alone:
            return 0
        return 1 + (self.projected > 0) + self.inside + self.batch_blocks * self.norm

    @property
    def inner_rows(self) -> list[int]:
        """Rows of a program's tiles of each product inside a step, in a chunk of K."""
        return _inner_rows(self.direction, self.own, self.inner)

    @property
    def planes(self) -> int:
        """Number of vectors [B, .] that programs exchange inside a step, in the projection's place.

        Products inside a step are of one each, and backwards of one a column that they made.
        """
        return sum(self.inner) if self.direction == "backward" else len(self.inner)

    @cached_property
    def smem(self) -> int:
        """Bytes of shared memory that a program may take."""
        return memory(self)

    def waves(self, T: int) -> int:
        """Return the waves of T steps: a lane that reads another's output is a step behind it."""
        return T + self.layers - 1 if self.kind == "layers" else T

    def launches(self, count: int) -> list[tuple[int, int]]:
        """Return [begin, end) of each launch that `count` steps or waves take, in order."""
        return [(0, count)] if self.persistent else [(t, t + 1) for t in range(count)]

    def phases(self) -> list[tuple[str, ...]]:
        """Return the phases of each launch that a range of steps takes, in order."""
        parts: list[tuple[str, ...]] = [(name,) for name in inner_phases(self.inside)]
        if self.direction == "forward":
            parts = [("finish",), *parts, *[("project",)] * (self.projected > 0)]
        else:
            parts = [("sum",), *parts, *[("gather",)] * (self.projected > 0), ("finish",)]
            if self.split == 1:  # nobody to wait for after the sums
                parts[:2] = [parts[0] + parts[1]]
        return [sum(parts, ())] if self.persistent else parts


def memory(plan: Plan) -> int:
    """Return the bytes of shared memory that the compiler takes for a plan's kernel, at most.

    They are tiles of weights that stay on chip, and beside these, in turn, what products multiply
    and the sums that warps exchange. Found by fused_lstm.tools.inspect.
    """
    if plan.alone and plan.gates == 0:  # nothing leaves a thread
        return 0
    size, tallest = SIZES[plan.dtype], _tallest(plan.direction, plan.rows, plan.own, plan.inner)
    of_gates = plan.rows * plan.summed_gates * (plan.resident + plan.resident_ih)
    others = (sum(plan.inner_rows) or plan.own) * plan.resident_hr
    tiles = (of_gates + others) * plan.block_k * size
    if plan.alone:  # gates on their way to one thread, or to a product's operand
        gates = plan.gates if plan.direction == "backward" else _tile_gates(plan.gates)
        passing = gates * plan.units * plan.block_b * (4 if plan.tcgen05 else 3)
        return tiles + passing + RESERVED
    chunk, tile = plan.block_k * plan.block_b * size, tallest * plan.block_k * size
    if plan.stages > 1:
        buffers = plan.stages if plan.asynchronous else plan.stages - 1
        # A resident product's chunk is still there as copies begin.
        passing = buffers * (tile + chunk) + (chunk if plan.asynchronous else 0)
    elif plan.resident == 0:
        passing = tile + chunk
    elif plan.k_parts > 1:  # all chunks that are loaded ahead, and the one that is multiplied
        columns = max((plan.summed_gates, *_columns_summed(plan.direction, plan.inner)))
        passing = plan.products * min(columns * plan.chunks, plan.ahead + 1) * chunk
    else:
        passing = chunk
        if plan.asynchronous and not plan.tcgen05 and plan.rows < 64 <= tallest:
            tiles += MIXED
    return tiles + max(passing, plan.k_parts * tallest * plan.block_b * max(4, size)) + RESERVED


def inner_phases(count: int) -> list[str]:
    """Return the names of a step's phases, of `count` meetings inside it, except "finish"."""
    return [f"inner {k}" for k in range(count)]


def has_phase(plan: Plan, cell: Spec) -> bool:
    """Return whether a plan's programs exchange h without a barrier, by its phase (phase.py).

    A plan asks for it (`phase`), and it is right only

    - forward, in one launch whose programs run at once and hand on h: not `alone`, not a scan;
    - on an NVIDIA GPU, whose loads and stores the argument is of, and without tcgen05, whose
      products no test runs;
    - where a lane reads no other lane's h ("layers" does), which would need more than two slots,
      and in "steps" and "both", which tests cover: not "heads";
    - where the only meeting is the one for h: not projected, no product, sum or norm inside a step;
    - where all weights are resident, since streamed products copy h to shared memory by copies that
      look at nothing; and h is not masked by recurrent dropout on its way;
    - where a chunk has a word for each thread at least, so that none is loaded by two;
    - where a bit of h is free: of float32 rounded to TF32 any cell's, in half precision that of an
      LSTM without zoneout of h, whose o tanh(c) is at most 1 whatever h0 and c0 are.
    """
    half = SIZES[plan.dtype] == 2
    words = plan.block_k * plan.block_b // (2 if half else 1)
    bounded = CELLS[cell.cell].is_lstm and cell.zones[0] == 0
    return (
        plan.phase
        and (plan.direction, plan.mode) == ("forward", "persistent")
        and not (plan.alone or plan.amd or plan.tcgen05)
        and plan.kind in ("steps", "both")
        and not (plan.projected or plan.inside or plan.norm)
        and plan.gates > 0
        and plan.resident == plan.chunks
        and cell.recurrent_dropout == 0
        and words >= 32 * plan.warps
        and (plan.rounds or (half and bounded))
    )


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
    projected: int = 0,
    norm: int = 0,
    gates: int = 4,
    inner: tuple[int, ...] = (),
    inside: int = 0,
    in_parts: bool = True,
    refused: Collection[Plan] = (),
) -> Plan:
    """Return the launch for one shape.

    Args:
        kind: "steps" (one lane a launch), "layers" (a wavefront of `layers`), "both" (a layer's
            two directions) or "heads" (`layers` of them, of `hidden` units each).
        direction: "forward" or "backward".
        hidden, batch, layers: H, B, L.
        dtype: "fp16", "bf16", "fp32" or "fp64".
        device: one of fused_lstm.triton.devices.
        tf32: whether float32 products may round their inputs to TF32.
        projected: P where h is projected, else 0.
        norm: how often the rows of a step are normalized over all units, of which all programs of
            a lane have a part: 2 of an LSTM with layer norm, 1 of a GRU.
        gates: G, those that h has a part in: 1 to 8, or 0 for a scan.
        inner: columns of a unit that each product inside a step makes, 1 to 4.
        inside: how often all programs of a lane meet inside a step, by products and sums.
        in_parts: whether a product's sum may be shared out to warps; False to compare.
        refused: plans that a GPU did not load: the next one of the list is returned.
    """
    if kind not in ("steps", "layers", "both", "heads"):
        raise ValueError(f"kind: got {kind!r}; expected 'steps', 'layers', 'both' or 'heads'")
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction: got {direction!r}; expected 'forward' or 'backward'")
    if dtype not in SIZES:
        raise ValueError(f"dtype: got {dtype!r}; expected one of {', '.join(SIZES)}")
    if not 0 <= gates <= 8:
        raise ValueError(f"gates: got {gates}; expected 0 to 8")
    for name, value in (("hidden", hidden), ("batch", batch), ("layers", layers)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; expected at least 1")
    if projected < 0:
        raise ValueError(f"projected: got {projected}; expected at least 0")
    if norm and kind == "layers":
        raise ValueError(f"norm: got {norm} with kind 'layers'; expected 'steps' or 'both'")
    if (inner or inside) and (kind in ("layers", "heads") or projected or norm):
        got = f"{inner}, {inside=} with kind {kind!r}, {projected=}, {norm=}"
        raise ValueError(f"inner: got {got}; expected 'steps' or 'both' and no other option")
    if inner and not inside:
        raise ValueError(f"inside: got 0 with {inner=}; expected the meetings of these products")
    layers = {"steps": 1, "both": 2}.get(kind, layers)
    shape = hidden, batch, layers, projected, dtype, gates, inner, inside
    if gates == 0 and not inside:
        return scan(kind, direction, hidden, batch, layers, dtype)
    if device.is_interpreter:
        return _interpreted(kind, direction, *shape, norm)
    found = replace(_compiled(kind, direction, *shape, device, tf32), norm=norm)
    # Nobody has timed such a plan where products have a memory of their own: `tune` does.
    if in_parts and not device.tcgen05:
        some = sums_in_parts(found, device)
        found = next((one for one in some if one not in refused), found)
    if norm and not found.persistent:
        raise ValueError(f"layer_norm: {found.why[0]}; use engine 'loop'")
    return found


def runs_at_once(hidden: int, gates: int, lanes: int, device: Device) -> bool:
    """Return whether all programs of `lanes` run at once, as layer normalization needs it.

    hidden: the larger of H and P. gates: as `plan` has them. lanes: 2 of both directions, else 1.
    """
    return device.is_interpreter or all(
        _share_out(direction, hidden, lanes, gates, device, [])[2]
        for direction in ("forward", "backward")
    )


def scan(kind: str, direction: str, hidden: int, batch: int, layers: int, dtype: str) -> Plan:
    """Return the launch of a cell without a product in the loop, whose programs wait for nobody."""
    units = min(max(16, _power_of_2(hidden)), SCAN)
    block_b = min(_power_of_2(batch), SCAN // units)
    blocks, groups = _ceil(hidden, units), _ceil(batch, block_b)
    return Plan(
        kind, direction, "persistent", hidden, batch, layers, 0, dtype, precision="ieee",
        programs=layers * blocks * groups, rows=units, units=units, own=units, split=1,
        row_groups=groups, warps=4, block_b=block_b, batch_blocks=1, block_k=1, chunks=1,
        resident=1, resident_ih=0, chunks_hr=0, resident_hr=0, ahead=0, stages=1, hold=False,
        hold_hr=(), gates=0, alone=True,
        why=("no gate has a part of h: every unit's states stay in registers",),
    )  # fmt: skip


def _interpreted(
    kind, direction, hidden, batch, layers, projected, dtype, gates, inner, inside, norm
) -> Plan:
    """Return a plan of few large programs.

    A program of any size costs the interpreter milliseconds.
    """
    outputs = projected or hidden
    widest = max(hidden, outputs)
    block = max(16, _power_of_2(widest))
    if not norm:  # programs run one after another, and none can meet another
        block = min(block, 256)
    block_b = min(max(16, _power_of_2(batch)), 128)
    block_k = min(max(16, _power_of_2(widest)), 512)
    sums, others = (outputs, hidden) if direction == "forward" else (hidden, outputs)
    return Plan(
        kind, direction, "per-step", hidden, batch, layers, projected, dtype,
        precision="upcast" if SIZES[dtype] == 2 else "ieee",
        programs=layers * _ceil(widest, block),
        rows=_tile_gates(max(1, gates)) * block if direction == "forward" else block,
        units=block, own=block, split=1, row_groups=1, warps=4,
        block_b=block_b, batch_blocks=_ceil(batch, block_b),
        block_k=block_k, chunks=_ceil(sums, block_k), resident=0, resident_ih=0,
        chunks_hr=_ceil(others, block_k) if projected or inner else 0, resident_hr=0, ahead=0,
        stages=1, hold=False, hold_hr=(False,) * max(1, len(inner)),
        why=("the interpreter runs one program after another: one launch a step",),
        norm=norm, gates=gates, inner=inner, inside=inside,
    )  # fmt: skip


def _compiled(
    kind, direction, hidden, batch, layers, projected, dtype, gates, inner, inside, device, tf32
) -> Plan:
    size, outputs, why = SIZES[dtype], projected or hidden, []
    widest = max(hidden, outputs)
    parts = max(1, gates)  # in the backward, of a block
    own, programs, persistent = _share_out(direction, widest, layers, parts, device, why)
    rows, products = _tile_gates(parts) * own, 2 if kind == "layers" else 1
    units, split = own, 1
    if direction == "backward" and persistent:
        units, split = parts * own, parts
    elif direction == "backward":
        units = own = rows
        programs = layers * _ceil(widest, rows)
    sums, others = (outputs, hidden) if direction == "forward" else (hidden, outputs)
    # Rows of all tiles of a chunk that products beside R h have.
    rows_hr = sum(_inner_rows(direction, own, inner)) if inner else own if projected else 0
    tallest = _tallest(direction, rows, own, inner)

    rounds = (size == 2 or (dtype == "fp32" and tf32)) and device.has_tf32
    precision = "tf32" if rounds else "ieee"
    on_tensor_cores = rounds or size == 2
    block_b, row_groups = _divide_rows(batch, rows, size, programs, persistent, device, why)
    large = TILE if device.smem > 64 * 1024 else TILE // 2
    narrow = large // (max(tallest, 64) * size) if on_tensor_cores else 16
    narrow = min(narrow, max(16, _power_of_2(widest)))
    # Half as many rounds of a product, where there are many and all of its weights are resident.
    may_double = kind != "layers" and persistent and size == 2 and not device.tcgen05
    may_double &= block_b <= 32 and _ceil(sums, narrow) >= MANY

    def resident(block_k: int) -> Plan:
        """Return the plan with all weights resident, in chunks of `block_k`."""
        chunks, chunks_hr = _ceil(sums, block_k), _ceil(others, block_k) if rows_hr else 0
        return Plan(
            kind, direction, "persistent" if persistent else "per-step", hidden, batch, layers,
            projected, dtype, precision, programs * row_groups,
            rows=rows, units=units, own=own, split=split, row_groups=row_groups,
            warps=_warps(rows, dtype, device), block_b=block_b,
            batch_blocks=_ceil(_ceil(batch, block_b), row_groups),
            block_k=block_k, chunks=chunks, resident=chunks, resident_ih=chunks * (products - 1),
            chunks_hr=chunks_hr, resident_hr=chunks_hr,
            ahead=0, stages=1, hold=not device.asynchronous or rows < 64,
            hold_hr=tuple(
                not device.asynchronous or n < 64
                for n in _inner_rows(direction, own, inner) or [own]
            ),
            why=(), gates=gates, gfx=device.gfx, asynchronous=device.asynchronous,
            tcgen05=device.tcgen05, inner=inner, inside=inside,
        )  # fmt: skip

    found = resident(narrow)
    if may_double and (doubled := resident(2 * narrow)).smem <= device.smem:
        found = doubled
    tile, tile_hr = (n * found.block_k * size for n in (rows, rows_hr))
    tiles = products * found.chunks * min(1, gates)
    none = replace(found, resident=0, resident_ih=0, resident_hr=0)
    if not persistent:
        found = none
        why.append("weights are read anew by every launch")
    elif not on_tensor_cores:
        found = none
        why.append(f"{dtype} products without tensor cores: weights stream from L2, {_NO_TILES}")
    elif found.smem <= device.smem:
        scratch = found.smem - tiles * tile - found.chunks_hr * tile_hr
        why.append(
            f"{tiles} weight tiles of {tile // 1024} KiB and {scratch // 1024} KiB of scratch"
            f" fit in {device.smem // 1024} KiB: all weights resident"
        )
    else:
        none = replace(none, stages=STREAM_STAGES)
        free = max(0, device.smem - none.smem)
        many = min(tiles, free // tile)
        found = replace(
            none, resident=min(many, found.chunks), resident_ih=max(0, many - found.chunks),
            resident_hr=min(found.chunks_hr, (free - many * tile) // tile_hr) if rows_hr else 0,
        )  # fmt: skip
        why.append(
            f"{tiles} weight tiles of {tile // 1024} KiB do not fit in"
            f" {device.smem // 1024} KiB: {many} resident,"
            f" {tiles - many} stream from L2 every step"
        )
    if rows_hr and on_tensor_cores and persistent:
        whose = "each product inside a step" if inner else "the projection"
        why.append(f"of {found.chunks_hr} tiles of {whose}, {found.resident_hr} are resident")
    wide = block_b * max(1, tile // TILE)
    ahead = _ahead(kind, direction, size, wide, found.stages > 1, device)
    return replace(found, ahead=ahead, why=tuple(why))


def sums_in_parts(found: Plan, device: Device) -> list[Plan]:
    """Return plans with each product's sum shared out to 8 warps, the best first.

    A warp multiplies all of a program's rows by its eighth of K, and the sums meet once. This takes
    fewer instructions, and a third of the syncs of warps that share rows and columns. Where a
    program's weights are too many, warps that multiply on their own stream them so too; a warp
    group that multiplies from shared memory is ahead.
    """
    may = found.persistent and SIZES[found.dtype] == 2 and found.batch_blocks == 1
    may &= found.own == 16 and found.gates > 0 and not (found.projected or found.amd)
    if not may:
        return []
    size, products, backward = SIZES[found.dtype], found.products, found.direction == "backward"
    columns = _ceil(found.hidden, K_PARTS * 16) * 16  # of K, that a warp sums over
    part_k = 32 if columns % 32 == 0 else 16
    chunks, pad = columns // part_k, K_PARTS * columns

    def read_us(programs: int, gates: int) -> float:
        """Return the microseconds to read all of K, of `gates` gates each."""
        return programs * products * gates * pad * found.block_b * size / device.l2_rate / 1e3

    # Programs of 8 units have half the instructions, and are twice as many to read all of K: where
    # that is soon done, or half as many would have to stream weights.
    soon = read_us(found.programs, 1) < READ_US
    owns = (8, 16) if soon else (16, 8) if found.resident_fraction < 1 else (16,)
    # Tiles of products inside a step have 16 rows at least.
    splits = [(own, found.split) for own in owns if own == 16 or not found.inner]
    if backward and found.split > 1:
        # A program that sums over all gates needs no barrier for it, but reads every gate.
        blocks = found.layers * _ceil(found.hidden, 16) * found.row_groups
        more_us = read_us(blocks, found.gates) - read_us(found.programs, 1)
        if more_us < device.barrier_us:
            splits.insert(0, (16, 1))
        elif device.wgmma and columns <= 32:
            return []  # so few columns leave 4 warps that share rows and columns ahead
    fitting = []
    for own, split in splits:
        sums = found.gates // split if backward else 1  # over so many gates
        units = found.gates * own // sums if backward else own
        rows = own if sums > 1 else _tile_gates(found.gates) * own
        blocks = _ceil(found.hidden, units) * split * found.row_groups
        of_weights = rows * products * sums + sum(found.inner_rows)
        tallest = _tallest(found.direction, rows, own, found.inner)
        registers = (of_weights * columns * size + tallest * found.block_b * 4) // 128
        one = replace(
            found, programs=found.layers * blocks, rows=rows, units=units, own=own, split=split,
            warps=K_PARTS, block_k=K_PARTS * part_k, chunks=chunks, resident=chunks,
            resident_ih=chunks * (products - 1), ahead=chunks * sums, stages=1, hold=False,
            chunks_hr=chunks if found.inner else 0, resident_hr=chunks if found.inner else 0,
            hold_hr=(False,) * len(found.hold_hr), k_parts=K_PARTS,
            why=(
                f"{found.layers * blocks} programs, one on each of {device.sms} SMs at most",
                *(why for why in found.why if "rows of batch" in why),
                f"{registers} of a thread's registers hold its weights and sums: all resident,"
                f" each of {K_PARTS} warps sums over {columns} of K",
                *((f"each sums over all {sums} gates: a meeting less",) if sums > 1 else ()),
            ),
        )  # fmt: skip
        fits = one.programs <= device.sms and one.smem <= device.smem
        if fits and registers <= PART_REGISTERS and rows >= 16:
            fitting.append(one)
    streams = found.stages > 1 and found.kind != "layers" and found.block_b <= 32
    streams &= not found.inner
    if streams and not fitting and not device.asynchronous:
        one = streamed_in_parts(found, device)
        # The sums need memory that weights had: where little is left, more of them stream.
        fitting += [one] if 2 * one.resident >= one.chunks else []
    return fitting


def streamed_in_parts(found: Plan, device: Device) -> Plan:
    """Return a plan whose weights stream in part, with each chunk's sum shared out to 8 warps."""
    block_k = K_PARTS * 16
    chunks, tile = _ceil(found.hidden, block_k), found.rows * block_k * SIZES[found.dtype]
    one = replace(
        found, warps=K_PARTS, block_k=block_k, chunks=chunks, resident=0, ahead=1, hold=False,
        k_parts=K_PARTS,
    )  # fmt: skip
    resident = min(chunks, (device.smem - one.smem) // tile)
    return replace(
        one, resident=resident,
        why=(
            *(why for why in found.why if "programs" in why or "rows of batch" in why),
            f"{chunks} weight tiles of {tile // 1024} KiB do not fit in {device.smem // 1024} KiB:"
            f" {resident} resident, {chunks - resident} stream from L2 every step",
            f"each of {K_PARTS} warps sums over its part of K",
        ),
    )  # fmt: skip


def alone(found: Plan, device: Device) -> Plan | None:
    """Return the plan with a whole lane in each program, or None where that is impossible.

    All weights of a lane have to fit in one program. Such a plan has no barrier and no exchange;
    but few programs share out the cell's work.
    """
    size, units = SIZES[found.dtype], max(16, _power_of_2(found.hidden))
    may = found.persistent and size == 2 and found.kind != "layers" and units <= ALONE_UNITS
    if not may or found.projected or found.inside or found.norm or found.amd:
        return None
    for block_b in (16, 32):  # rows of batch: few where there are SMs enough, else those that fit
        one = alone_on(found, units, block_b)
        if one.programs <= device.sms and one.smem <= device.smem:
            return one
    one = alone_on(found, units, 16)
    return one if one.smem <= device.smem else None


def alone_on(found: Plan, units: int, block_b: int) -> Plan:
    """Return the plan with a program for a whole lane of `block_b` rows of batch."""
    size, forward = SIZES[found.dtype], found.direction == "forward"
    gates = _tile_gates(found.gates) if forward else found.gates
    weights, groups = gates * units * units * size, _ceil(found.batch, block_b)
    return replace(
        found, mode="persistent", programs=found.layers * groups,
        rows=gates * units if forward else units, units=units, own=units, split=1,
        row_groups=groups, warps=8, block_b=block_b, batch_blocks=1, block_k=units, chunks=1,
        resident=1, resident_ih=0, ahead=0, stages=1, hold=False, k_parts=1, alone=True,
        why=(
            f"{weights // 1024} KiB of weights fit in one program: it has a lane to itself,"
            f" of {block_b} rows of batch, and waits for no other",
        ),
    )  # fmt: skip


_NO_TILES = "since operands of such products live in registers"


def _inner_rows(direction: str, own: int, inner: tuple[int, ...]) -> list[int]:
    """Return the rows of a program's tiles of each product inside a step, in a chunk of K.

    Backwards a product has a tile of `own` rows for each column that it made.
    """
    return [own * (n if direction == "backward" else _tile_gates(n)) for n in inner]


def _columns_summed(direction: str, inner: tuple[int, ...]) -> tuple[int, ...]:
    """Return over how many columns a program sums in each product inside a step."""
    return inner if direction == "backward" else (1,) * len(inner)


def _tallest(direction: str, rows: int, own: int, inner: tuple[int, ...]) -> int:
    """Return the rows of a program's largest tile of weights."""
    others = _inner_rows(direction, own, inner) if direction == "forward" else ()
    return max([rows, *others])


def _tile_gates(gates: int) -> int:
    """Return the number of gates that a tile has rows for: Triton wants a power of 2."""
    return _power_of_2(gates)


def _share_out(direction, hidden, layers, gates, device, why) -> tuple[int, int, bool]:
    """Return hidden units a program, programs, and whether all of them run at once."""
    for units in (16, 32, 64):
        blocks = _ceil(hidden, units)
        if direction == "backward":
            blocks = gates * _ceil(hidden, gates * units)
        if layers * blocks <= device.sms:
            why.append(f"{layers * blocks} programs, one on each of {device.sms} SMs at most")
            return units, layers * blocks, True
    why.append(
        f"{layers * blocks} programs of 64 units do not run at once on {device.sms} SMs:"
        " no barrier, one launch a step"
    )
    return 16, layers * _ceil(hidden, 16), False


def _divide_rows(batch, rows, size, programs, persistent, device, why) -> tuple[int, int]:
    """Return the rows of batch in one product, and the number of program groups for all rows.

    Rows do not wait for each other: as many groups as the SMs hold, each with weights of its own.
    """
    block_b = min(max(16, _power_of_2(batch)), 32)
    if rows * block_b * max(4, size) + RESERVED > device.smem:  # sums among the warps
        block_b = 16
    fit = max(1, device.sms // programs) if persistent else 1
    if _ceil(batch, block_b) > fit and rows <= 64:
        block_b = min(_power_of_2(batch), 64)
    groups = min(fit, _ceil(batch, block_b))
    groups = _ceil(_ceil(batch, block_b), _ceil(_ceil(batch, block_b), groups))  # none without rows
    if groups > 1:
        why.append(f"{batch} rows of batch shared out to {groups} groups of {programs} programs")
    return block_b, groups


def _warps(rows: int, dtype: str, device: Device) -> int:
    # A warp group of 4 multiplies 64 rows, but not in float64; two share a tile of more rows. Where
    # warps multiply on their own, 8 of them halve what each thread holds.
    if device.asynchronous and rows == 64 and dtype != "fp64":
        return 4
    return 8 * 32 // device.wave


def _ahead(kind: str, direction: str, size: int, wide: int, streams: bool, device: Device) -> int:
    """Return how many chunks in flight the registers hold: found by fused_lstm.tools.inspect."""
    # A chunk takes 16 of a thread's 255 registers at 32 columns and 4 warps, twice that doubled.
    if device.tcgen05:
        none = streams or kind == "layers" or (direction == "backward" and size == 4)
        return 0 if none else 1
    if wide > 32:
        return 1
    if not device.asynchronous:
        return 3
    if streams:
        return 1 if kind == "layers" else 2
    return 2 if kind == "layers" else 4


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
