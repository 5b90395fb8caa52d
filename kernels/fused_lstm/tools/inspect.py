"""The kernels compiled for a GPU that is not here: `python -m fused_lstm.tools.inspect --help`.

The tool compiles the steps or layers kernels for an architecture, with the plan and the alignment
of a launch on that GPU. It prints registers, spills, shared memory, tensor-core instructions, and
a lower bound for the time of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from ..call.spec import CELLS, PLAIN, Spec
from ..triton import choice, devices, plan
from . import amdgcn, sass

# A kernel's pointers to the state dtype.
STATES = {
    "c0_ptr", "c_ptr", "c_next_ptr", "dc_ptr", "dc_next_ptr", "partial_ptr", "h_mask_ptr",
    "h_old_ptr", "dh_old_ptr", "raw_ptr", "gain_ptr", "shares_ptr", "stats_ptr", "dseen_ptr",
    "dweight_ptr", "by_ptr", "numbers_ptr",
}  # fmt: skip
OTHERS = {
    "barrier_ptr": "*i32", "offset_ptr": "*i64", "not_reset_ptr": "*u8", "seed_ptr": "*i64",
}  # fmt: skip
RATE = re.compile(r"(dropout|zone)_|clip$")  # floats
SWITCHES = "peephole", "layer_norm", "coupled", "gru", "rnn_tanh", "rnn_relu"
SYNC_CYCLES = 64  # clock cycles of a sync among a program's warps, about
RATES = ("zoneout", "recurrent_dropout")  # options that draw
# Conditions of rows of batch: they end early, begin anew, are dropped out between layers.
ROWS = ("varlen", "resets", "dropout")
TYPES = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32", "fp64": "*fp64"}


# --- compile ---


def kernel_of(chosen: plan.Plan):
    """Return the kernel that a plan launches."""
    from ..triton import backward, forward

    if chosen.direction == "forward":
        return forward.lstm_forward_kernel
    return backward.lstm_backward_kernel


def argument_type(name: str, dtype: str) -> str:
    """Return a kernel argument's type from its name, by the rule of kernels/fused_lstm/triton."""
    if name in OTHERS:
        return OTHERS[name]
    if name in STATES:
        return "*fp64" if dtype == "fp64" else "*fp32"
    if name.endswith("_ptr") or name.endswith("_ptrs"):
        return TYPES[dtype]
    return "fp32" if RATE.match(name) else "i32"


def compile_plan(chosen: plan.Plan, target: Any, cell: Spec = PLAIN, rows: Sequence[str] = ()):
    """Compile a plan's kernel for a cell in training, with pointers aligned to 16 bytes as torch's.

    Args:
        target: an architecture such as 90, or Triton's GPUTarget.
        rows: of ROWS, what rows of batch may do.
    """
    from ..triton import launch

    does = dict.fromkeys(rows, True)
    does["rounded"] = chosen.rounds and chosen.streams  # a call of many steps
    phases = chosen.phases()[0]
    options = {k: v for k, v in launch.options(chosen).items() if k != "launch_cooperative_grid"}
    kernel = kernel_of(chosen)
    tensors = 1 if chosen.kind == "heads" else chosen.layers
    lanes = dict.fromkeys((n for n in kernel.arg_names if n.endswith("_ptrs")), tensors)
    is_wide = CELLS[cell.cell].is_wide("triton", cell)
    wide = {"gates_ptr"} if is_wide else set()  # saved in the state dtype

    def compiled(keep_loop: bool):
        what = launch.constants(chosen, cell, True, phases, draws=True, keep_loop=keep_loop, **does)
        constants = {"CELL": launch.kernel_cell(cell), "PLAN": what}
        # Pointers that a launch of other cells does not have.
        missing = [] if chosen.inner else ["w_inner_ptrs"]
        missing += [] if chosen.inside else ["by_ptr"]
        missing += [] if launch.kernel_cell(cell).numbers else ["numbers_ptr"]
        constants |= {name: None for name in missing if name in kernel.arg_names}
        return compile_kernel(kernel, chosen.dtype, constants, lanes, target, options, wide)

    def stack(found: Any) -> int:  # an AMD's is not asked for
        return thread(found.asm["cubin"])[1] if "cubin" in found.asm else 0

    return launch.fewest_spills(compiled, stack)


def compile_kernel(
    kernel,
    dtype: str,
    constants: dict,
    lanes: dict[str, int],
    target: Any,
    options=None,
    wide: Collection[str] = (),
):
    """Compile a kernel ahead of time.

    lanes: argument's name -> the number of pointers in its tuple. wide: more pointers to the state
    dtype.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, attributes, aligned = {}, {}, [["tt.divisibility", 16]]
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in lanes:
            signature[name] = (argument_type(name, dtype),) * lanes[name]
            attributes |= {(index, n): aligned for n in range(lanes[name])}
        else:
            signature[name] = argument_type("c_ptr" if name in wide else name, dtype)
            if name.endswith("_ptr"):
                attributes[(index,)] = aligned
    source = ASTSource(kernel, signature, constants, attributes)
    target = target if isinstance(target, GPUTarget) else GPUTarget("cuda", target, 32)
    return triton.compile(source, target=target, options=options)


# --- everything about one kernel ---


def trips(chosen: plan.Plan) -> list[int]:
    """Return the rounds of a step's loops over streamed weights, in the order of the code."""
    by_h, below = chosen.chunks - chosen.resident, chosen.chunks - chosen.resident_ih
    if chosen.direction == "forward":
        rounds = [by_h, below][: chosen.products]
    else:
        rounds = [below] * chosen.summed_gates * (chosen.products - 1) + [
            by_h
        ] * chosen.summed_gates
    # The projection's; or those of products inside a step, backwards the last product's first.
    inner = [n if chosen.direction == "backward" else 1 for n in chosen.inner]
    inner = inner[::-1] if chosen.direction == "backward" else inner
    rounds += [chosen.chunks_hr - chosen.resident_hr] * (sum(inner) or 1)
    return [n for n in rounds if n > 0]


def executed(chosen: plan.Plan, step: sass.Code) -> dict[str, int] | None:
    """Count a step's instructions of a thread, and the bytes of all programs."""
    of_gates, columns = chosen.summed_gates * chosen.rows, chosen.block_k * chosen.block_b
    # A warp multiplies 16 rows by 8 columns at least, if others do the same.
    least = 16 * 8 * chosen.warps // chosen.block_b
    if chosen.direction == "backward":
        tiles = [chosen.own] * (sum(chosen.inner) or 1)
    else:
        tiles = chosen.inner_rows or [chosen.own]
    rows = chosen.chunks_hr * sum(max(tile, least) for tile in tiles)
    rows += chosen.products * chosen.chunks * of_gates
    # Of resident tiles warps share rows alone, and others do the same where there are more warps.
    again = (chosen.resident + chosen.resident_ih) * of_gates
    again *= max(1, 16 * chosen.warps // chosen.rows) - 1
    products = {n * columns // chosen.warps for n in (rows, rows + again)}
    count = sass.executed(step, trips(chosen), products) if chosen.batch_blocks == 1 else None
    return count and count | {"bytes": count["bytes"] * 32 * chosen.warps * chosen.programs}


def thread(cubin: bytes) -> tuple[int, int]:
    """Return a thread's registers and bytes of stack."""
    text = sass.disassemble(cubin, "-res-usage")
    (registers, stack), *_ = re.findall(r"REG:(\d+) STACK:(\d+)", text)
    return int(registers), int(stack)


def as_data(chosen: plan.Plan) -> dict:
    """Return a plan's fields, and two numbers that follow from them."""
    return asdict(chosen) | {"resident_fraction": chosen.resident_fraction, "smem": chosen.smem}


def inspect(
    chosen: plan.Plan, device: devices.Device, cell: Spec = PLAIN, rows: Sequence[str] = ()
) -> dict:
    """Return everything that this tool prints about one kernel, as plain data."""
    compiled = compile_plan(chosen, device.arch, cell, rows)
    cubin = compiled.asm["cubin"]
    registers, stack = thread(cubin)
    code = sass.instructions(sass.disassemble(cubin, "-sass"))
    loop = sass.time_loop(code) if chosen.persistent else None
    step = code if loop is None else sass.inside(code, loop)  # a launch of one step has no loop
    report = {
        "kernel": kernel_of(chosen).fn.__name__,
        "device": device.name,
        "arch": f"sm_{device.arch}",
        "plan": as_data(chosen),
        "registers": registers,
        "stack": stack,
        "shared_memory": compiled.metadata.shared,
        "shared_memory_limit": device.smem,
        "whole": sass.count(code),
        "loop": sass.count(step),
        "executed": executed(chosen, step) if loop else None,
        "order": sass.order(step) if loop else [],
        "cost": asdict(choice.cost(chosen, device)),
        "barrier_us": device.barrier_us,
        "sass": [f"{address:6x}  {text}" for address, text in step],
    }
    return report | {"step_us": step_us(report, device)}


def step_us(report: dict, device: devices.Device) -> float:
    """Return a step's microseconds by arithmetic: its floor, the instructions of all of a program's
    warps at four a clock cycle, and SYNC_CYCLES a sync of the program.

    Where loops over streamed weights could not be told, each counts once: it takes longer.
    """
    executed, loop, chosen = report["executed"] or {}, report["loop"], report["plan"]
    instructions = executed.get("instructions", loop["instructions"])
    syncs = executed.get("syncs", loop["barrier_cta"])
    cycles = instructions * chosen["warps"] / 4 + syncs * SYNC_CYCLES
    if chosen["alone"]:  # a multiprocessor has some, one after another
        cycles *= -(-chosen["programs"] // device.sms)
    return report["cost"]["floor_us"] + cycles / device.clock / 1e3


def inspect_amd(
    chosen: plan.Plan, device: devices.Device, cell: Spec = PLAIN, rows: Sequence[str] = ()
) -> dict:
    """Return `inspect`'s data for an AMD GPU, from assembler text without its time loop."""
    from triton.backends.compiler import GPUTarget

    compiled = compile_plan(chosen, GPUTarget("hip", device.gfx, device.wave), cell, rows)
    text = compiled.asm["amdgcn"]

    def number(key: str) -> int:
        (chosen, *_) = re.findall(rf"\.{key}:? +(\d+)", text)
        return int(chosen)

    return {
        "kernel": kernel_of(chosen).fn.__name__,
        "device": device.name,
        "arch": device.gfx,
        "plan": as_data(chosen),
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "shared_memory": compiled.metadata.shared,
        "shared_memory_limit": device.smem,
        "spills": number("vgpr_spill_count"),
        "order": amdgcn.order(text, device.gfx) if chosen.persistent else [],
        "matrix": len(re.findall(r"\bv_(?:mfma|wmma)_", text)),
        "cost": asdict(choice.cost(chosen, device)),
        "sass": ["a program of AMD's is not disassembled"],
    }


def pointwise(dtype: str, device: devices.Device, batch: int, hidden: int) -> list[dict]:
    """Return `inspect`'s data for the pointwise kernels, each with one block of 512 elements."""
    import triton.language as tl

    from ..triton import launch
    from ..triton import pointwise as module

    size = plan.SIZES[dtype]
    chosen = []
    for kernel in (module.lstm_cell_fwd_kernel, module.lstm_cell_bwd_kernel):
        constants: dict[str, Any] = {
            "BLOCK": 512,
            "DTYPE": tl.float64 if dtype == "fp64" else tl.float32,
        }
        constants["HAS"] = launch.has(PLAIN, False)
        compiled = compile_kernel(kernel, dtype, constants, {}, device.arch)
        cubin = compiled.asm["cubin"]
        registers, stack = thread(cubin)
        code = sass.instructions(sass.disassemble(cubin, "-sass"))
        elements = batch * hidden
        backward = kernel is module.lstm_cell_bwd_kernel
        moved = elements * ((9 if backward else 5) * size + (4 if backward else 2) * max(4, size))
        floor = moved / device.l2_rate / 1e3
        chosen.append({
            "kernel": kernel.fn.__name__, "device": device.name, "arch": f"sm_{device.arch}",
            "plan": None, "registers": registers, "stack": stack,
            "shared_memory": compiled.metadata.shared, "shared_memory_limit": device.smem,
            "whole": sass.count(code), "loop": sass.count(code), "executed": None, "order": [],
            "barrier_us": device.barrier_us,
            "cost": {"flops": 30 * elements, "bytes_l2": moved, "barriers": 0, "floor_us": floor,
                     "bound": "L2; and a launch"},
            "sass": [f"{address:6x}  {text}" for address, text in code],
        })  # fmt: skip
    return chosen


# --- the table of docs/gpu.md ---

SURVEYED = [(hidden, 20, dtype) for hidden in (64, 200, 650, 1500) for dtype in ("bf16", "fp32")]
SURVEYED[6:6] = [(768, 16, "fp16")]  # FlashRNN's


def surveyed(arch: int, shape: tuple[int, int, str], direction: str) -> dict:
    """Return what a layer's launch on an architecture compiles to, as a row of docs/gpu.md."""
    (hidden, batch, dtype), device = shape, devices.by_arch(arch)
    options: dict[str, Any] = {"hidden": hidden, "batch": batch, "dtype": dtype, "device": device}
    chosen = choice.choose(direction, layers=1, **options)
    report = inspect(chosen, device)
    executed = report["executed"] or {}
    return {
        "arch": report["arch"], "hidden": hidden, "batch": batch, "dtype": dtype,
        "direction": direction, "programs": chosen.programs, "alone": chosen.alone,
        "resident": chosen.summed_gates * chosen.resident,
        "tiles": chosen.summed_gates * chosen.chunks, "registers": report["registers"],
        "spills": report["loop"]["spills"],
        "instructions": executed.get("instructions", report["loop"]["instructions"]),
        "syncs": executed.get("syncs", report["loop"]["barrier_cta"]),
        "whole": bool(executed) or chosen.resident == chosen.chunks,  # all rounds are counted
        "us": round(report["step_us"], 2),
    }  # fmt: skip


HEADS = list(product((80, 90), ("bf16", "fp32"), (32, 64, 128, 256, 768)))  # units of a head


def surveyed_head(arch: int, dtype: str, units: int, direction: str) -> dict:
    """Return what an sLSTM's head compiles to at 16 rows of batch, as a row of docs/cells.md."""
    device = devices.by_arch(arch)
    chosen = choice.choose(
        direction, hidden=units, batch=16, layers=1, heads=1, dtype=dtype, device=device
    )
    report = inspect(chosen, device, Spec("slstm"))
    executed = report["executed"] or {}
    return {
        "arch": report["arch"], "dtype": dtype.replace("fp32", "tf32"), "direction": direction,
        "K": units, "programs": chosen.programs, "registers": report["registers"],
        "spills": report["whole"]["spills"],
        "instructions": executed.get("instructions", report["loop"]["instructions"]),
        "us": round(report["step_us"], 2),
    }  # fmt: skip


def survey_heads(path: Path, jobs: int) -> None:
    """Compile an sLSTM's head of every size of docs/cells.md's table."""
    work = [(*shape, direction) for shape in HEADS for direction in ("forward", "backward")]
    with ProcessPoolExecutor(jobs) as pool:
        rows = list(pool.map(surveyed_head, *zip(*work, strict=True)))
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


def survey(path: Path, jobs: int) -> None:
    """Compile every shape of docs/gpu.md's table, into a file by Triton's version."""
    import triton

    rows = json.loads(path.read_text()) if path.exists() else {}
    work = list(product((80, 90, 100, 120), SURVEYED, ("forward", "backward")))
    with ProcessPoolExecutor(jobs) as pool:
        found = list(pool.map(surveyed, *zip(*work, strict=True)))
    rows[".".join(triton.__version__.split(".")[:2])] = found
    lines = (
        f'"{version}": [\n' + ",\n".join(map(json.dumps, of_one)) + "]"
        for version, of_one in rows.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


# --- the command ---


LEGEND = """\
program: what one multiprocessor runs at a time; unit: a column of h with its four gates
resident: weights that a program keeps on the chip for all steps, by tiles of w_hh, w_ih and w_hr
spill: a register that went to memory for want of room; stack: the room for them
arrive, acquire: the two halves of a barrier of all programs; bar.sync: of one program's threads
at least, floor: what a step costs by arithmetic on the card's data, not a measured time
about: the floor, instructions at four a clock cycle of a multiprocessor, and 64 cycles a sync"""


def table_amd(report: dict) -> str:
    """Return one kernel's report on an AMD GPU as text."""
    chosen = report["plan"]
    return "\n".join([
        f"        kernel  {report['kernel']} on {report['device']} ({report['arch']})",
        f"      programs  {chosen['programs']}, {chosen['mode']}, {chosen['warps']} wavefronts",
        f"      resident  {chosen['resident_fraction']:.0%} of the weights",
        f"     registers  {report['registers']} a thread, {report['spills']} spilled,"
        f" {report['stack']} bytes of stack",
        f" shared memory  {report['shared_memory'] / 1024:.1f} of"
        f" {report['shared_memory_limit'] / 1024:.0f} KiB",
        f"      products  {report['matrix']} matrix instructions",
        f"         floor  {report['cost']['floor_us']:.2f} us a step",
    ])  # fmt: skip


def table(report: dict) -> str:
    """Return one kernel's report as text."""
    if "matrix" in report:
        return table_amd(report)
    chosen, loop, whole, cost = (report[k] for k in ("plan", "loop", "whole", "cost"))
    cores = ", ".join(f"{loop[name]} {name}" for name in sass.TENSOR_CORE if name in loop) or "none"
    lines = [("kernel", f"{report['kernel']} on {report['device']} ({report['arch']})")]
    if chosen:
        half = plan.SIZES[chosen["dtype"]] == 2
        precision = chosen["dtype"] if half else chosen["precision"]
        split = f" x {chosen['split']} parts of the gates" if chosen["split"] > 1 else ""
        lines += [
            ("mode", chosen["mode"]),
            ("programs", f"{chosen['programs']}, {chosen['units']} units each{split},"
             f" {chosen['warps']} warps"),
            ("blocks", f"batch {chosen['block_b']} x {chosen['batch_blocks']}, sum"
             f" {chosen['block_k']} x {chosen['chunks']} in {chosen['k_parts']} parts,"
             f" {chosen['ahead']} ahead,"
             f" {chosen['stages']} stages, products in {precision}"),
            ("resident", f"{chosen['resident_fraction']:.0%} of the weights"
             f" ({chosen['resident']} + {chosen['resident_ih']} + {chosen['resident_hr']} tiles)"),
            *[("why" if index == 0 else "", why) for index, why in enumerate(chosen["why"])],
        ]  # fmt: skip
    lines += [
        ("registers", f"{report['registers']} a thread, {report['stack']} bytes of stack"),
        ("spills", f"{loop['spills']} in the time loop, {whole['spills']} in all"),
        ("shared memory", f"{report['shared_memory'] / 1024:.1f} of"
         f" {report['shared_memory_limit'] / 1024:.0f} KiB"),
        ("time loop", f"{loop['instructions']} instructions; tensor cores: {cores}"),
        ("barriers", f"{loop['barrier_gpu']} arrive, {loop['acquire']} acquire (grid),"
         f" {loop['barrier_cta']} bar.sync (program)"),
        *executed_lines(report),
        ("at least", f"{cost['flops'] / 1e6:.1f} MFLOP, {cost['bytes_l2'] / 1e6:.2f} MB through L2,"
         f" {cost['barriers']} grid barriers"),
        ("floor", f"{cost['floor_us']:.2f} us a step ({cost['bound']}; a barrier taken as"
         f" {report['barrier_us']:.0f} us)"),
        *([("about", f"{report['step_us']:.2f} us a step, with its instructions and syncs")]
          if chosen else []),
    ]  # fmt: skip
    return "\n".join(f"{name:>14}  {text}" for name, text in lines)


def executed_lines(report: dict) -> list[tuple[str, str]]:
    """Return lines on a step's instructions, and on the order that the grid barrier needs."""
    lines, chosen = [], report["executed"]
    if chosen:
        lines.append(("a step", f"{chosen['instructions']} instructions a thread,"
         f" {chosen['bytes'] / 1e6:.2f} MB loaded and stored (masked elements too),"
         f" {chosen['arrivals']} arrivals"))  # fmt: skip
    if report["loop"]["acquire"]:
        said = report["order"] or ["fence, arrive, acquire, exchange: as the barrier needs it"]
        lines += [("order" if i == 0 else "", line) for i, line in enumerate(said)]
    return lines


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m fused_lstm.tools.inspect",
        description="Compile this project's kernels for a GPU that need not be here.",
    )
    made.add_argument(
        "--arch", nargs="+", default=["sm_90"], help="sm_80, sm_89, sm_90, sm_100, sm_120"
    )
    made.add_argument(
        "--device",
        nargs="+",
        choices=[*devices.DEVICES, *devices.AMD],
        help="instead of --arch: cards",
    )
    made.add_argument("--hidden", type=int, nargs="+", default=[1500])
    made.add_argument("--batch", type=int, default=20)
    made.add_argument("--layers", type=int, default=2)
    made.add_argument("--proj-size", type=int, default=0, metavar="P", help="h's size, if not H")
    made.add_argument("--dtype", nargs="+", choices=list(TYPES), default=["bf16"])
    made.add_argument("--fuse", choices=["pointwise", "steps", "layers"], default="layers")
    made.add_argument(
        "--cell", nargs="+", default=[], choices=(*RATES, *SWITCHES), metavar="OPTION",
        help="a cell with these options, in training",
    )  # fmt: skip
    made.add_argument("--written", metavar="MODULE:NAME", help="a cell that fused_lstm.cell made")
    made.add_argument(
        "--rows",
        nargs="+",
        default=[],
        choices=ROWS,
        help="rows of batch end early, begin anew, or are dropped out between layers",
    )
    made.add_argument(
        "--whole-sums", action="store_true", help="no product's sum is shared out to warps"
    )
    made.add_argument("--no-tf32", action="store_true", help="full precision for float32")
    made.add_argument("--json", metavar="FILE", help="write all of it, without the machine code")
    made.add_argument(
        "--survey", type=Path, metavar="FILE", help="docs/gpu.md's table, into a file"
    )
    made.add_argument(
        "--survey-heads", type=Path, metavar="FILE", help="docs/cells.md's table, into a file"
    )
    made.add_argument("--jobs", type=int, default=1, help="kernels compiled at once [1]")
    made.add_argument("--sass", action="store_true", help="print the time loop's machine code")
    return made


def chosen(args: argparse.Namespace) -> list[devices.Device]:
    if args.device:
        return [(devices.DEVICES | devices.AMD)[name] for name in args.device]
    if any(not re.fullmatch(r"sm_\d+", arch) for arch in args.arch):
        raise ValueError(f"--arch: got {' '.join(args.arch)}; expected such as sm_90")
    return [devices.by_arch(int(arch[3:])) for arch in args.arch]


def written(name: str) -> Spec:
    """Return a cell that a function tells, MODULE:NAME, after its kernels are written."""
    module, _, cell = name.partition(":")
    try:
        found = getattr(import_module(module), cell)
        found.on_triton()
    except (ImportError, AttributeError, ValueError) as error:
        expected = "MODULE:NAME of a cell that fused_lstm.cell made"
        raise ValueError(f"--written: got {name!r} ({error}); expected {expected}") from None
    return Spec(found.name)


def know(name: str | None) -> None:
    """Make a process know the cell of --written."""
    if name is not None:
        written(name)


def wanted(args: argparse.Namespace) -> Iterator[tuple[Callable[..., Any], tuple]]:
    """Yield each function, with its arguments, that makes a report of the command line."""
    from ..triton import launch

    options: dict[str, Any] = {name: 0.5 if name in RATES else True for name in args.cell}
    cell = written(args.written) if args.written else Spec(**options)
    kernels = launch.kernel_cell(cell)
    for device in chosen(args):
        for hidden in args.hidden:
            for dtype in args.dtype:
                shape: dict[str, Any] = {"hidden": hidden, "batch": args.batch, "dtype": dtype}
                shape |= {"layers": args.layers, "device": device, "tf32": not args.no_tf32}
                shape |= {"projected": args.proj_size, "norm": launch.norms(cell)}
                if args.fuse == "pointwise":
                    yield pointwise, (dtype, device, args.batch, hidden)
                    continue
                for direction in ("forward", "backward"):
                    shape |= {"gates": kernels.by_h, "in_parts": not args.whole_sums}
                    shape |= {"inner": kernels.inner, "inside": kernels.inside(direction)}
                    kind = choice.choose(direction, **shape)
                    if args.fuse == "steps":
                        kind = plan.plan("steps", direction, **shape)
                    yield inspect_amd if device.gfx else inspect, (kind, device, cell, args.rows)


def reports(args: argparse.Namespace) -> Iterator[dict]:
    """Yield the reports of every kernel that the arguments ask for."""
    work = list(wanted(args))
    with ProcessPoolExecutor(args.jobs, initializer=know, initargs=(args.written,)) as pool:
        for job in [pool.submit(function, *rest) for function, rest in work]:
            chosen = job.result()
            yield from chosen if isinstance(chosen, list) else [chosen]


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    chosen = []
    try:
        if min(args.layers, args.batch, args.jobs, *args.hidden) < 1:
            raise ValueError("--hidden, --batch, --layers, --jobs: got less; expected at least 1")
        if args.proj_size < 0:
            raise ValueError(f"--proj-size: got {args.proj_size}; expected at least 0")
        if args.json:  # an error before kernels are compiled
            Path(args.json).touch()
        if args.survey:
            survey(args.survey, args.jobs)
            return 0
        if args.survey_heads:
            survey_heads(args.survey_heads, args.jobs)
            return 0
        for report in reports(args):
            print(table(report), end="\n\n", flush=True)
            if args.sass:
                print("\n".join(report["sass"]), end="\n\n")
            else:
                del report["sass"]
            chosen.append(report)
        print(LEGEND)
        if args.json:
            Path(args.json).write_text(json.dumps(chosen, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"fused_lstm.tools.inspect: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # Before anything imports triton: the interpreter has nothing to compile.
    os.environ["TRITON_INTERPRET"] = "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # silences a warning of Triton 3.9
    sys.exit(main())
