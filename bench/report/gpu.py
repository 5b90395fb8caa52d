"""The tables of docs/gpu.md: the compiled Triton kernels, and their runs on an emulated GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fused_lstm.tools import sass

from .markup import Table
from .results import read


def kernels(*arches: str) -> Iterator[dict[str, Any]]:
    """What `python -m fused_lstm.tools.inspect` wrote of half precision: `steps`, then `layers`
    where the plan chooses them."""
    for kind in ("steps", "layers"):
        for row in read(f"inspect-{kind}.json"):
            plan = row["plan"]
            if row["arch"] in arches and plan["dtype"] == "bf16" and plan["kind"] == kind:
                yield row


def compiled() -> Table:
    """Registers, memory and instructions of each kernel."""
    rows = []
    for row in kernels("sm_80", "sm_90"):
        plan, loop = row["plan"], row["loop"]
        cores = ", ".join(f"{loop[name]} {name}" for name in sass.TENSOR_CORE if name in loop)
        shared = f"{row['shared_memory'] / 1024:.0f} of {row['shared_memory_limit'] / 1024:.0f}"
        cells = [plan["hidden"], plan["kind"], plan["direction"], plan["programs"]]
        cells += [f"{plan['resident_fraction']:.0%}", row["registers"], shared]
        cells += [f"{loop['spills']} / {row['whole']['spills']}", loop["instructions"], cores]
        rows.append([row["arch"], *map(str, cells), f"{row['cost']['floor_us']:.2f}"])
    header = ("card", "H", "kernel", "direction", "programs", "resident", "registers")
    header += ("shared, KiB", "spills: loop / all", "instructions in the loop", "tensor cores")
    return Table((*header, "floor, us a step"), rows)


def emulated() -> Table:
    """What ran on the PTX machine, by kernel, mode and dtype; both architectures together."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in read("ptx.json")["cases"]:
        groups.setdefault((row["kernels"], row["mode"], row["dtype"]), []).append(row)
    rows = []
    for key, own in groups.items():
        shapes, schedules, dirty = (
            sum(r[n] for r in own) for n in ("shapes", "schedules", "dirty")
        )
        found = f"in {dirty} shapes" if dirty else "none"
        error = max(row["error"] for row in own)
        rows.append([*key, f"{shapes:,}", f"{schedules:,}", f"{error:.0e}", found])
    header = ("kernels", "mode", "dtype", "shapes, sm_80 and sm_90", "schedules")
    return Table((*header, "largest error, of what is allowed", "findings"), rows)


def faults() -> Table:
    """What the machine made of each fault."""
    rows = [
        [row["fault"], f"{row['found']} of {row['trials']}", row["says"]]
        for row in read("ptx-faults.json")["faults"]
    ]
    header = ("fault", "found in", "what the report has, or why it cannot be found")
    return Table(header, rows)


def host() -> Table:
    """What an eager call costs beside its kernels."""
    rows = []
    for name, own in read("host.json").items():
        calls, views = sum(own["calls"].values()), own["calls"]["views"]
        rows.append([name.replace(" ", ", "), str(calls), str(calls - views), f"{own['us']:.0f}"])
    return Table(("operator", "ATen's calls", "of these no views", "us"), rows)


TABLES: dict[str, Callable[[], Table]] = {
    "compiled": compiled,
    "emulated": emulated,
    "faults": faults,
    "host": host,
}
