"""From a plan to a launch: the constants a kernel is compiled with, and its barrier's counters."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial, wraps
from math import prod
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.runtime.errors import OutOfResources

from ..call.spec import CELLS, PLAIN, Spec
from ..cells.sums import MAXIMUM, PRODUCT
from . import backward, cells, forward, precision
from .barrier import APART
from .cells import lstm, printed
from .devices import stores_done
from .helper import FENCES_COPIES, KEEP_LOOP, TAKES_BUFFERS
from .interpreter import is_interpreted
from .philox import scale_of
from .plan import SIZES, Plan, has_phase, inner_phases

LONG = 2.0  # seconds
COMPILING = "fused_lstm: compiling Triton kernels of a new shape; Triton's cache keeps them"
POLLS = "FUSED_LSTM_POLLS"  # an environment variable, see barrier.py
TOO_MANY = (
    "launch: got fewer multiprocessors than the GPU says it has (too many blocks in cooperative"
    " launch); expected all of them, which MPS or a green context divides:"
    " use fuse='hoisted' or 'pointwise', whose launches do not wait for each other"
)
REFUSED: dict[Plan, OutOfResources] = {}  # of plans whose kernels the GPU did not load, the error
INTERPRETED = is_interpreted()  # when kernels were defined, which makes them so for good
NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def on_their_device(operator: Callable) -> Callable:
    """Wrap `operator` so that the GPU of its tensors is the current one.

    Triton launches on the current GPU and its stream, whatever GPU the tensors are on.
    """

    @wraps(operator)
    def run(*args, **options):
        for argument in args:
            if isinstance(argument, Tensor):
                break
        if argument.device.type == "cpu":
            return with_a_plan_that_loads(operator, *args, **options)
        with torch.cuda.device(argument.device):
            try:
                return with_a_plan_that_loads(operator, *args, **options)
            except RuntimeError as error:
                if "too many blocks in cooperative launch" in str(error):
                    raise RuntimeError(TOO_MANY) from error
                raise

    return run


def with_a_plan_that_loads(operator: Callable, *args, **options) -> Any:
    """Run `operator`, and again with its next plan where the GPU does not load a plan's kernel.

    A plan's shared memory is an estimate, and another version of the compiler may take more.
    """
    while True:
        refused = len(REFUSED)
        try:
            return operator(*args, **options)
        except OutOfResources as error:
            if len(REFUSED) == refused:  # there is no other plan
                raise RuntimeError(
                    f"launch: got a kernel with {error.required} bytes of {error.name}; expected at"
                    f" most {error.limit}: use fuse='hoisted' or 'pointwise'"
                ) from error


# --- what a kernel is compiled with ---


# Made by fused_lstm.cell: name, and whether with zoneout -> the kernels' form.
CUSTOM: dict[tuple[str, bool], cells.KernelCell] = {}
BY_HAND = {"peephole", "zoneout", "layer_norm"}  # options of an LSTM


def kernel_cell(cell: Spec) -> cells.KernelCell:
    """Return the kernels' form of a cell."""
    if CELLS[cell.cell].custom:
        return CUSTOM[cell.cell, any(cell.zones)]
    if CELLS[cell.cell].is_lstm and BY_HAND.intersection(cell.options):
        return lstm.COUPLED if cell.coupled else lstm.LSTM
    name = "coupled" if cell.coupled else cell.cell
    return printed.CELLS[name + "_zoneout" * (cell.zones[0] > 0)]


@dataclass(frozen=True, eq=False)  # one object a plan: told apart, and hashed, by identity
class Weight:
    """One of a kernel's weights, and the exchange that it is multiplied by."""

    K: int  # elements of a row, summed over
    STRIDE_ROW: int
    STRIDE_K: int
    CHUNKS: int  # of BLOCK_K, of a row
    RESIDENT: int  # of these, that stay on chip
    HOLD: bool
    PAD: int  # elements of a row of the exchange: chunks * BLOCK_K
    TILE: int  # of a block of batch: BLOCK_B rows
    SLOT: int  # and of all of them
    K_PART: int  # of a row, that one of K_PARTS sums over
    GATES: int  # matrices whose products are summed
    STRIDE_GATE: int  # from one of these to the next
    # Sizes of a product inside a step:
    ROWS: int = 0  # of a tile
    MADE: int = 0  # columns of a unit that it makes
    FIRST: int = 0  # of these among those of all products
    PLANE: int = 0  # first of its GATES planes of `between`


@dataclass(frozen=True, eq=False)
class Call:
    """A product, a sum or a maximum inside a step, in one direction; phases count from 0."""

    IS_PRODUCT: bool
    IS_MAXIMUM: bool
    NUMBER: int  # among products, or among sums and maxima
    FED: int  # the phase that hands on what programs exchange; -1: there is none
    READ: int  # the phase that begins with it, from 1 on; 0: there is none
    WIDTH: int  # units of what is exchanged or added up
    SHARE: float  # of a sum 1 over how many units it adds up forwards


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a cell's step that torch's own cell lacks: PLAN.HAS."""

    WEIGHTS: int  # vectors of weights of a unit, peepholes too
    COUPLED: bool  # an LSTM's forget gate is 1 minus the input gate
    G: int  # the index of g among an LSTM's gates
    CLIP: bool  # the gradient by h that comes through w_hh is cut
    RECURRENT: bool  # a mask on what w_hh is multiplied by
    ZONE_H: int  # zoneout: 0 none, 1 its expectation, 2 drawn
    ZONE_C: int
    ZONE_OF_H: bool  # ZONE_C is of a state that is h, by the numbers of h's
    NORM: bool  # w_hh's product is normalized
    NORM_C: bool  # and c


def zones(cell: Spec) -> tuple[float, float]:
    """Return the probabilities that h and the state c are kept.

    Where the state is h itself, keeping the state keeps h.
    """
    return cell.zones if cell.has_c else (0.0, cell.zones[0])


def norms(cell: Spec) -> int:
    """Return how many times per step all programs of a lane normalize its rows."""
    return int(cell.layer_norm) + int(cell.layer_norm and CELLS[cell.cell].is_lstm)


@lru_cache(1024)
def has(cell: Spec, draws: bool) -> Features:
    """Return the features of a cell; draws: whether there is a seed, as in training."""
    peepholes = 3 - cell.coupled if cell.peephole else 0
    zone_h, zone_c = ((2 if draws else 1) if p > 0 else 0 for p in zones(cell))
    found = {
        "WEIGHTS": peepholes + CELLS[cell.cell].weights,
        "COUPLED": cell.coupled,
        "G": 2 - cell.coupled,
        "CLIP": cell.recurrent_clip is not None,
        "RECURRENT": draws and cell.recurrent_dropout > 0,
        "ZONE_H": zone_h,
        "ZONE_C": zone_c,
        "ZONE_OF_H": not cell.has_c,
        "NORM": cell.layer_norm,
        "NORM_C": cell.layer_norm and CELLS[cell.cell].is_lstm,
    }
    return Features(**wrapped(found))


# Fields and properties of a Plan that kernels read, as PLAN's constants of the same names: a size
# under its letter, all others in capitals.
OF_PLAN = {"LANES": "layers", "H": "hidden", "P": "outputs"} | {
    name.upper(): name
    for name in (
        "projected", "gates", "summed_gates", "rows", "units", "own", "split", "row_groups",
        "block_b", "batch_blocks", "block_k", "k_parts", "ahead", "stages", "persistent", "alone",
        "precision", "rounds", "meetings", "norm", "inside",
    )
}  # fmt: skip


class Constants:
    """A kernel's PLAN: the constants of OF_PLAN, and those that `constants` derives."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __repr__(self) -> str:
        """Return all values: Triton compiles a kernel anew where this text differs."""
        return f"Constants({vars(self)})"


@lru_cache(1024)
def constants(
    plan: Plan,
    cell: Spec = PLAIN,
    save: bool = True,
    phases: tuple[str, ...] = (),
    dropout: bool = False,
    varlen: bool = False,
    resets: bool = False,
    draws: bool = False,
    rounded: bool = False,
    reverse: bool = False,
    width: int = 0,
    by_states: bool = False,
    keep_loop: bool = KEEP_LOOP,
) -> Constants:
    """Return PLAN of a launch that has `phases`.

    draws: whether a cell's masks are drawn; rounded: whether weights are rounded to TF32 already;
    width: of heads; reverse: from the last step to the first; by_states: whether there are
    gradients by every state; keep_loop: as `fewest_spills` gives it.
    """
    kernels, size = kernel_cell(cell), SIZES[plan.dtype]
    if kernels.by_h != plan.gates:
        raise ValueError(f"plan.gates: got {plan.gates}; expected {kernels.by_h}, {kernels}'s")
    inside = kernels.inner, kernels.inside(plan.direction)
    if inside != (plan.inner, plan.inside):
        got, wanted = f"{plan.inner}, {plan.inside} meetings", f"{inside[0]}, {inside[1]}"
        raise ValueError(f"plan.inner: got {got}; expected {wanted}, {kernels}'s")
    chain = plan.kind == "layers" and plan.layers > 1
    recurrent = draws and cell.recurrent_dropout > 0
    one_block = plan.persistent and plan.batch_blocks == 1 and not plan.inside
    two_ahead = one_block and plan.gates == 0  # a step of a scan is shorter than a load
    early = two_ahead or (one_block and not varlen)  # rows alive are not known before the step
    derived = {
        # Lanes.
        "CHAIN": chain,  # a lane reads what the lane below it writes
        "BOTH": plan.kind == "both",  # or: lanes 0 and 1 are a layer's directions
        "HEADS": plan.kind == "heads",  # or: lanes are heads, of one w_hh, with y side by side
        "REVERSE": reverse,  # lanes run from the last step to the first
        "WIDTH": width or plan.layers * plan.outputs,  # of a row of y, where lanes are side by side
        # The cell.
        "SUMMED": kernels.sums,  # of G gates, that are a sum with x's part
        "OF_X": kernels.of_x,  # parts by x that stay alone
        "OF_H": kernels.of_h,  # parts by h that do
        "APART": kernels.apart,  # there are some: gradients by x's parts are not those by h's
        "STATES": kernels.states,  # S
        "SAVED": kernels.saved,  # V
        "COLUMNS": columns(cell, plan.projected > 0),  # of x's parts and of what is saved
        "KEEPS_M": keeps_m(cell, plan.projected > 0),  # h before it is projected is saved
        "DCOLUMNS": gradient_columns(cell),
        "EXCHANGED": exchanged(plan, cell),
        "HAS": has(cell, draws),
        # Products and their exchanges.
        **_weights(plan),
        **_meetings(kernels, cell, plan.direction, plan.hidden),
        "FORWARD": plan.direction == "forward",
        # With an LSTM's options a chain of H=650 would spill on an H100.
        "MASKED": plan.masked and not (chain and cell.options),
        "PART_K": plan.block_k // plan.k_parts,  # of a chunk's columns, a warp's
        "COPIES": plan.stages > 1 and FENCES_COPIES,  # x of streamed weights to shared memory
        "ROUND_WEIGHTS": plan.rounds and not rounded,  # when they are loaded
        "ACC": tl.float64 if size == 8 else tl.float32,  # the state dtype
        "BITS": {2: tl.int16, 4: tl.int32, 8: tl.int64}[size],
        "UP": dropout or (recurrent and chain),  # the lane above reads what w_hh is not fed
        "SEPARATE": resets or cell.layer_norm or (chain and kernels.apart),  # x's and h's sums
        # Backward: w_hh^T . dgates is not summed with what comes from above. Where warps have
        # parts of a sum, each would draw the whole mask of what comes from above.
        "SENT": resets or recurrent or (dropout and plan.k_parts > 1),
        # The time loop and its meetings.
        # X's parts come first.
        "EARLY": early,
        "TWO_AHEAD": two_ahead,
        # Two steps are a round, so that values loaded ahead wait where they were loaded to: to hand
        # them on is to wait for them.
        "UNROLL": 2 if two_ahead else 1,
        "KEEP_LOOP": keep_loop,
        # Programs wait for each other at the barrier.
        "MEETS": plan.persistent and not (plan.alone or has_phase(plan, cell)),
        "SLOTS": slots(plan, cell),
        **_phase(plan, cell),
        "BEFORE": int(plan.projected > 0 and plan.direction == "backward"),  # norms' meetings
        "COUNTERS": counters(plan),
        "PARTS": plan.parts,
        **waits(plan.gfx),
        # The launch.
        "SAVE": save,  # forward: keep what a backward needs
        "SUMS": "sum" in phases,
        "GATHERS": "gather" in phases,
        "FINISHES": "finish" in phases,
        "PROJECTS": "project" in phases,
        # Phases after a step's first, backwards before its last.
        "RUNS": tuple([name in phases for name in inner_phases(plan.inside)]),
        "DROPOUT": dropout,  # between lanes
        "VARLEN": varlen,  # rows of batch end early
        "RESETS": resets,  # states are zeroed before some steps
        "BY_STATES": by_states,  # backward: gradients by the states after every step
    }
    of_plan = {name: getattr(plan, field) for name, field in OF_PLAN.items()}
    return Constants(**wrapped(of_plan | derived))


def keeps_m(cell: Spec, projected: bool) -> bool:
    """Return whether a step saves h before it is projected; an LSTM's is computed again."""
    return projected and CELLS[cell.cell].custom


def columns(cell: Spec, projected: bool) -> int:
    """Return the columns a unit of the buffer of x's parts and of what is saved."""
    kernels = kernel_cell(cell)
    return max(kernels.columns, kernels.saved + keeps_m(cell, projected))


def gradient_columns(cell: Spec) -> int:
    """Return the columns a unit of the gradients by x's parts of the gates.

    With layer norm the parts by h that stay alone follow, as they are before the norm.
    """
    kernels = kernel_cell(cell)
    return kernels.by_x + (kernels.of_h if cell.layer_norm else 0)


def exchanged(plan: Plan, cell: Spec) -> int:
    """Return the number of gradients by gates in the backward's exchange buffer.

    There is one by h's part of each gate, and one by each part by x that stays alone where the lane
    below needs it.
    """
    kernels = kernel_cell(cell)
    return kernels.by_h + (kernels.of_x if plan.kind == "layers" and plan.layers > 1 else 0)


def _weights(plan: Plan) -> dict[str, Any]:
    """Return W_HH [G*H, P], W_IH and W_HR [P, H], by rows forward and by columns backward.

    INNER has those of products inside a step; what these multiply is exchanged where W_HR's is.
    """
    forward, H, P = plan.direction == "forward", plan.hidden, plan.outputs

    def weight(
        K: int, columns: int, chunks: int, resident: int, hold: bool, gates: int = 1, **more: int
    ) -> Weight:
        pad = chunks * plan.block_k
        return Weight(
            **wrapped(
                {
                    "K": K,
                    "STRIDE_ROW": columns if forward else 1,
                    "STRIDE_K": 1 if forward else columns,
                    "CHUNKS": chunks,
                    "RESIDENT": resident,
                    "HOLD": hold,
                    "PAD": pad,
                    "TILE": plan.block_b * pad,
                    "SLOT": plan.padded_batch * pad,
                    "K_PART": pad // plan.k_parts,
                    "GATES": gates,
                    "STRIDE_GATE": H * P,
                    **more,
                }
            )
        )

    of_gates, first, inner = (H if not forward else P, P, plan.chunks), 0, []
    of_hr = plan.chunks_hr, plan.resident_hr
    for made, rows, hold in zip(plan.inner, plan.inner_rows, plan.hold_hr, strict=False):
        gates = 1 if forward else made
        plane = len(inner) if forward else first
        sizes = {"ROWS": rows, "MADE": made, "FIRST": first, "PLANE": plane}
        inner.append(weight(H, H, *of_hr, hold, gates, **sizes))
        first += made
    return wrapped({
        "INNER": tuple(inner),
        "W_HH": weight(*of_gates, plan.resident, plan.hold, plan.summed_gates),
        "W_IH": weight(*of_gates, plan.resident_ih, plan.hold, plan.summed_gates),
        "W_HR": weight(H if forward else P, H, *of_hr, any(plan.hold_hr)),
    })  # fmt: skip


def _meetings(cell: cells.KernelCell, spec: Spec, direction: str, H: int) -> dict[str, Any]:
    """Return what a kernel knows of a cell's products, sums and maxima inside a step."""
    calls, counts = [], {True: 0, False: 0}
    widths = [(H, H)] * len(cell.meetings)
    if spec.units is not None:
        widths = CELLS[spec.cell].cell.widths_of_calls(H, spec.units)
    for meeting, (width, back) in zip(cell.meetings, widths, strict=True):
        is_product, forward = meeting.kind == PRODUCT, direction == "forward"
        fed = meeting.fed if forward else meeting.fed_back
        calls.append(Call(**wrapped({
            "IS_PRODUCT": is_product, "IS_MAXIMUM": meeting.kind == MAXIMUM,
            "NUMBER": counts[is_product], "FED": fed, "READ": fed + 1,
            "WIDTH": width if forward else back, "SHARE": 1 / width,
        })))  # fmt: skip
        counts[is_product] += 1
    return {
        "CALLS": tuple(calls),
        "CALL_COUNT": len(calls),
        "PRODUCTS": len(cell.inner),
        "TOTALS": cell.totals,
        "NUMBERS": sum(cell.numbers),
    }


def _phase(plan: Plan, cell: Spec) -> dict[str, Any]:
    """Return what a kernel knows of the words of h, where these have a phase (phase.py)."""
    bit, nan, above_1 = {
        "fp16": (0x4000, 0x40000000, 0x03FF03FF), "bf16": (0x4000, 0x40000000, 0x007F007F),
    }.get(plan.dtype, (1, 0, 0))  # fmt: skip
    per_word = max(1, 4 // SIZES[plan.dtype])
    return {
        "PHASE": has_phase(plan, cell),
        "PHASE_BIT": bit,
        "NAN_BIT": nan,  # of half precision: says that there is one
        "HIGHEST": bit | nan,  # bits of two exponents
        "ABOVE_1": above_1,  # to add it sets these bits of what is above 1
        "PER_WORD": per_word,  # elements of h
        "PHASED": -(-plan.outputs // (4 * per_word)) * 4,  # words of a row, in vectors of 4
    }


def wrapped(found: dict) -> dict:
    """Wrap constants in tl.constexpr for compiled code, which adds and compares only these."""
    return found if INTERPRETED else {name: tl.constexpr(v) for name, v in found.items()}


def fewest_spills(compiled: Callable[[bool], Any], spills: Callable[[Any], int]) -> Any:
    """Return a kernel, `compiled` so that nothing leaves its time loop only where others spill.

    What leaves the loop is computed once and takes registers for as long as the loop runs: a GRU's
    bfloat16 loop has 767 instructions for 1,489 on sm_100, and its TF32 backward spills.
    """
    found = compiled(KEEP_LOOP)
    if KEEP_LOOP or spills(found) == 0:
        return found
    return min(found, compiled(True), key=spills)


@lru_cache(1024)
def rates(p: float, cell: Spec) -> dict[str, float]:
    """Return the kernels' probabilities, by their names; p: of dropout between lanes."""
    zone_h, zone_c = zones(cell)
    near_h, near_c = (torch.tensor(z, dtype=torch.float32).item() for z in (zone_h, zone_c))
    return {
        "dropout_p": p,
        "dropout_scale": scale_of(p),
        "zone_h": near_h,
        "zone_h_rest": zone_h - near_h,
        "zone_c": near_c,
        "zone_c_rest": zone_c - near_c,
    }


def most_registers(plan: Plan) -> int | None:
    """Return how many registers a thread may take, or None where ptxas chooses.

    ptxas spills rather than take more than leaves room for a second or third program on the
    multiprocessor, though there is none: at 80, 128 or 168 of a kernel that needs 96 to 180.
    Where a kernel needs nearly all, it spills less without a limit. Found by tools.inspect.
    """
    if plan.amd or plan.gates == 0:
        return None
    if plan.kind == "heads" or (plan.streams if plan.tcgen05 else plan.chunks == 1):
        return 255
    few = plan.tcgen05 and plan.direction == "backward" and plan.chunks <= 6
    return 240 if few else None


def waits(gfx: str) -> dict[str, Any]:
    """Return a barrier's constants; gfx: AMD's name of an architecture, or ""."""
    return {"NVIDIA": gfx == "", "STORES_DONE": stores_done(gfx), "POLLS": polls()}


def polls() -> int:
    """Return after how many polls a program that waits at a barrier traps; 0 is never."""
    return int(os.environ.get(POLLS, "0"))


@lru_cache(1024)
def options(plan: Plan) -> dict:
    """Return options of the compiler and launch; num_stages = 1: no prefetch across a barrier."""
    if INTERPRETED:
        return {}
    found: dict[str, Any] = {"num_warps": plan.warps, "num_stages": 1, "enable_fp_fusion": True}
    if (most := most_registers(plan)) is not None:
        found["maxnreg"] = most
    if plan.amd:
        del found["enable_fp_fusion"]
    return found | {"launch_cooperative_grid": plan.persistent and not plan.alone}


# --- a launch ---

KERNELS: dict[str, Any] = {
    "forward": forward.lstm_forward_kernel,
    "backward": backward.lstm_backward_kernel,
}


@lru_cache
def positions(direction: str) -> dict[str, int]:
    """Return the positions of a kernel's arguments, without its constants."""
    return {name: n for n, name in enumerate(KERNELS[direction].arg_names[:-2])}


@contextmanager
def said_where_it_takes_long() -> Iterator[None]:
    """Say in one line, after two seconds, that kernels are compiled."""
    timer = threading.Timer(LONG, print, [COMPILING], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Arguments:
    """A launch's arguments in the kernel's own order, as tensors and as addresses."""

    __slots__ = "addresses", "bits", "tensors"

    def __init__(self, tensors: list[Any], addresses: list[Any]) -> None:
        self.tensors, self.addresses = tensors, addresses
        self.bits = 0  # that any address has

    def set(self, given: dict[str, Any], at: dict[str, int]) -> None:
        """Set arguments, by name; at: their positions."""
        for name, value in given.items():
            position = at[name]
            self.tensors[position] = value
            kind = type(value)
            if kind is tuple:
                value = tuple([tensor.data_ptr() for tensor in value])
                for address in value:
                    self.bits |= address
            elif value is not None and kind is not int and kind is not float:
                value = value.data_ptr()
                self.bits |= value
            self.addresses[position] = value


def specialized(values: Sequence, amd: bool = False) -> tuple:
    """Return what Triton specialises by: of a pointer, whether 16 divides it; of no number.

    For AMD's GPUs also whether the pointer's memory is below 2 GB, whose offsets have 32 bits.
    """
    key: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is tuple:
            key.append(specialized(value, amd))
        elif kind is not int and kind is not float:
            key.append(value if value is None else value.data_ptr() % 16 == 0)
            if amd and value is not None:
                key.append(value.untyped_storage().nbytes() < 2**31)
    return tuple(key)


@dataclass(eq=False)
class Launch:
    """A kernel on one plan with one set of constants: compiled once, then only launched."""

    plan: Plan
    cell: cells.KernelCell
    constants: Callable[[bool], Constants]  # of keep_loop
    compiled: dict[tuple, Any] = field(default_factory=dict)

    def __call__(self, arguments: Arguments) -> None:
        """Launch it."""
        grid, values, given = self.plan.programs, arguments.tensors, arguments.addresses
        if INTERPRETED:
            kernel = KERNELS[self.plan.direction]
            kernel[(grid,)](*values, self.cell, self.constants(KEEP_LOOP))
            return
        active: Any = driver.active
        device = active.get_current_device()
        # Almost always 16 divides every address.
        aligned = arguments.bits % 16 == 0 and not self.plan.amd
        key = device, type(active), None if aligned else specialized(values, self.plan.amd)
        compiled = self.compiled.get(key)
        if compiled is None:
            with said_where_it_takes_long():
                compiled = self.compiled[key] = fewest_spills(
                    lambda keep_loop: self._compiled(values, keep_loop), attrgetter("n_spills")
                )
        if getattr(active, "takes_tensors", False):  # a driver that is not Triton's own
            given = values
        stream, hooks = active.get_current_stream(device), (None,) * 3
        if getattr(knobs.runtime.launch_enter_hook, "calls", True):  # a profiler's
            hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
            hooks = compiled.launch_metadata((grid, 1, 1), stream, *given, None, None), *hooks
        compiled.run(
            grid, 1, 1, stream, compiled.function, compiled.packed_metadata, *hooks, *given,
            None, None,
        )  # fmt: skip

    def _compiled(self, values: list, keep_loop: bool) -> Any:
        """Return the kernel compiled for values like these, and loaded."""
        if (error := REFUSED.get(self.plan)) is not None:  # Triton raises it only once
            raise OutOfResources(error.required, error.limit, error.name)
        every = *values, self.cell, self.constants(keep_loop)
        kernel = KERNELS[self.plan.direction]
        with knobs.amd.scope():
            knobs.amd.use_buffer_ops &= TAKES_BUFFERS
            found = kernel.warmup(*every, grid=(self.plan.programs,), **options(self.plan))
        try:
            assert found.run is not None  # asked for, it loads the kernel, and knows its spills
        except OutOfResources as error:
            REFUSED[self.plan] = error
            raise
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Launches:
    """All that is known of an operator's launches before its tensors: prepared once."""

    plan: Plan
    launches: tuple[Launch, ...]  # those that a range of steps takes, in order
    usual: list[Any]  # arguments of all calls: numbers, and None for a pointer

    def arguments(self, **given: Any) -> Arguments:
        """Return the kernel's arguments; a pointer that is not given is None.

        Tensors are contiguous, and those of all lanes are the whole stack's: of two launches only
        `w_*_ptrs`, `bias_ptrs`, `dy_ptr` and `first_lane` differ.
        """
        found = Arguments(self.usual.copy(), self.usual.copy())
        found.set(given, positions(self.plan.direction))
        return found

    def run(self, arguments: Arguments, T: int, **given: Any) -> None:
        """Launch the kernel for all of T steps, with arguments that are `given` for this launch."""
        at = positions(self.plan.direction)
        for begin, end in self.plan.launches(self.plan.waves(T)):
            arguments.set({"begin": begin, "end": end, **given}, at)
            for launch in self.launches:
                launch(arguments)


def launches(
    plan: Plan,
    cell: Spec = PLAIN,
    *,
    save: bool = True,
    p: float = 0.0,
    varlen: bool = False,
    resets: bool = False,
    draws: bool = False,
    rounded: bool = False,
    reverse: bool = False,
    width: int = 0,
    by_states: bool = False,
) -> Launches:
    """Return a plan's launches; p: of dropout between its lanes; the rest: as in `constants`."""
    kernels = kernel_cell(cell)
    each = [
        Launch(
            plan,
            kernels,
            partial(
                constants, plan, cell, save, phases, p > 0, varlen, resets, draws, rounded, reverse,
                width, by_states,
            ),
        )
        for phases in plan.phases()
    ]  # fmt: skip
    numbers = {"first_lane": 0, "clip": 0.0, **rates(p, cell)}
    usual = [numbers.get(name) for name in positions(plan.direction)]
    return Launches(plan=plan, launches=tuple(each), usual=usual)


# --- the tensors of an operator's launches ---


class Workspace(NamedTuple):
    """Tensors that the programs of some launches share, zeroed on the stream by one fill."""

    exchange: Tensor  # see tile.py: [*leading, B_PAD, PAD], flat
    between: Tensor | None  # where h is projected: [lanes, B_PAD, PAD], flat; or as inner.py has it
    counters: Tensor  # int32 [launches * COUNTERS]


@lru_cache(1024)
def sizes(plan: Plan, leading: Sequence[int], launches: int, bytes_each: int) -> tuple[int, ...]:
    """Return the elements of a workspace's exchange, and where its counters begin and end."""
    exchange = prod(leading) * plan.padded_batch * plan.chunks * plan.block_k
    between = launches * plan.layers * plan.padded_batch * plan.chunks_hr * plan.block_k
    between *= plan.planes or 1
    per_line = APART.value * 4 // bytes_each
    begin = -(-(exchange + between) // per_line) * per_line
    return exchange, begin, begin + launches * counters(plan) * 4 // bytes_each


def workspace(plan: Plan, like: Tensor, leading: Sequence[int], launches: int) -> Workspace:
    """Return zeroed exchanges of `like`'s dtype, and the counters of `launches` launches."""
    exchange, begin, end = sizes(plan, leading, launches, like.element_size())
    zeros = like.new_zeros(end)
    between = zeros[exchange:begin] if plan.projected or plan.inner else None
    return Workspace(zeros[:exchange], between, zeros[begin:].view(torch.int32))


def slots(plan: Plan, cell: Spec) -> int:
    """Return the slots of a lane's exchange in the forward: of h by turns, and where PHASE h0's."""
    return 2 + has_phase(plan, cell)


def counters(plan: Plan) -> int:
    """Return the int32 of a launch's counters: of each row group, all programs', each block's."""
    groups = plan.row_groups * (plan.layers if plan.kind == "heads" else 1)
    return (groups + plan.row_groups * plan.blocks) * APART.value


def feed(exchange: Tensor, h0: Tensor, plan: Plan, varlen: bool, slots: int = 2) -> None:
    """Put h0 [L, B, P] where the first step of each row reads it.

    It is slot 2 of three, else slot 0, and with varlen both.
    """
    pad = plan.chunks * plan.block_k
    slot = plan.padded_batch * pad
    first, count = (2, 1) if slots == 3 else (0, 1 + varlen)
    strides = slot, slots * slot, pad, 1
    first = exchange.as_strided((count, *h0.shape), strides, first * slot)
    first.copy_(precision.rounded(h0) if plan.rounds else h0)
