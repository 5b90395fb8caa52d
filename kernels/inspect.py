"""What a kernel would be on a GPU that need not be here: `python -m kernels.inspect --help`.

Compiles the steps or layers kernels for an architecture, with the plan and the alignment that a
launch on that GPU would have, and prints what the machine code uses: registers, spills, shared
memory, tensor-core instructions, and a floor for the time of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from .triton import devices, plan

TENSOR_CORE = ("HGMMA", "HMMA", "DMMA", "UTCHMMA")
TYPES = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32", "fp64": "*fp64"}


# --- compile ---


def sources(found: plan.Plan) -> dict[str, tuple]:
    """Kernel name -> (kernel, constants of its own) that a plan launches."""
    from .triton import layers, steps

    forward = found.direction == "forward"
    own = {"SAVE": True} if forward else {"PHASE": found.phases()[0], "SPLIT": found.split}
    if found.kind == "layers":
        own |= {"L": found.layers, "RESIDENT_IH": found.resident_ih, "DROPOUT": False}
        kernel = layers.lstm_layers_fwd_kernel if forward else layers.lstm_layers_bwd_kernel
    else:
        kernel = steps.lstm_steps_fwd_kernel if forward else steps.lstm_steps_bwd_kernel
    return {kernel.fn.__name__: (kernel, own)}


def argument_type(name: str, dtype: str) -> str:
    """A kernel argument's type from its name, the naming rule of kernels/triton."""
    if name in ("p", "scale"):
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    if name == "barrier_ptr":
        return "*i32"
    if name == "seed_ptr":
        return "*i64"
    state = name in ("c0_ptr", "c_ptr", "dc_ptr", "partial_ptr")
    return ("*fp64" if dtype == "fp64" else "*fp32") if state else TYPES[dtype]


def compile_plan(found: plan.Plan, arch: int):
    """The compiled kernel of a plan, with every pointer aligned to 16 bytes, as torch's are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from .triton import launch

    ((kernel, own),) = sources(found).values()
    constants = {**launch.constants(found), **own}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptrs"):  # a tuple, one pointer a layer
            signature[name] = (TYPES[found.dtype],) * found.layers
            aligned = {(index, layer): [["tt.divisibility", 16]] for layer in range(found.layers)}
            attributes |= aligned
        else:
            signature[name] = argument_type(name, found.dtype)
            if name.endswith("_ptr"):
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=launch.compile_options(found))


# --- read the machine code ---


def disassemble(cubin: bytes, *flags: str) -> str:
    """What cuobjdump, which comes with triton, prints of a cubin."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, *flags, file.name], capture_output=True, text=True, check=True)
    return done.stdout


def instructions(sass: str) -> list[tuple[int, str]]:
    """(address, instruction without its predicate) in order."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", sass, re.M)
    return [(int(address, 16), text) for address, text in lines]


def time_loop(code: list[tuple[int, str]]) -> tuple[int, int] | None:
    """First and last address of the longest loop, or None: the longest branch backwards."""
    loops = []
    for address, text in code:
        target = re.match(r"BRA\b.*?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < address:
            loops.append((int(target[1], 16), address))
    return max(loops, key=lambda loop: loop[1] - loop[0], default=None)


def count(code: list[tuple[int, str]]) -> dict[str, int]:
    """How often the instructions occur that tell something about a kernel."""
    names = Counter(text.split()[0] for _, text in code)

    def total(*prefixes: str) -> int:
        return sum(n for name, n in names.items() if name.split(".")[0] in prefixes)

    return {
        "instructions": len(code),
        "spills": total("LDL", "STL"),
        **{name: total(name) for name in TENSOR_CORE if total(name)},
        "fma": total("FFMA", "DFMA"),
        "barrier_cta": total("BAR"),
        "barrier_gpu": total("RED", "REDG", "ATOM", "ATOMG"),
        "acquire": sum(n for name, n in names.items() if name.startswith("CCTL.IVALL")),
    }


def inspect(found: plan.Plan, device: devices.Device) -> dict:
    """Everything this tool prints about one kernel, as plain data."""
    compiled = compile_plan(found, device.arch)
    cubin = compiled.asm["cubin"]
    usage = re.search(r"REG:(\d+) STACK:(\d+)", disassemble(cubin, "-res-usage"))
    code = instructions(disassemble(cubin, "-sass"))
    loop = time_loop(code)
    inside = [(a, text) for a, text in code if loop and loop[0] <= a <= loop[1]]
    return {
        "kernel": next(iter(sources(found))),
        "device": device.name,
        "arch": f"sm_{device.arch}",
        "plan": {**asdict(found), "resident_fraction": found.resident_fraction},
        "registers": int(usage[1]),
        "stack": int(usage[2]),
        "shared_memory": compiled.metadata.shared,
        "shared_memory_limit": device.smem,
        "whole": count(code),
        # A launch of one step has no time loop: then all of it counts.
        "loop": count(inside if found.persistent else code),
        "cost": asdict(plan.cost(found, device)),
        "sass": [f"{a:6x}  {text}" for a, text in (inside if found.persistent else code)],
    }
