"""Engine `native`: the three fusions in C++ for the CPU, built by setup.py (see build.py).

The vectors and the matrix products are this project's own (simd.h, tile.h), compiled for several
instruction sets of which the best that the CPU has is chosen when the library is loaded;
the environment's FUSED_LSTM_ISA names another one. Denormal numbers are zero in its operators,
unless the environment's FUSED_LSTM_DENORMALS is `keep`.
"""

from __future__ import annotations

import math
import os
from functools import cache, partial
from pathlib import Path

import torch

from ..errors import meant
from ..operator import autograd, library, ops
from ..operator.library import LIBRARY, NOT_BUILT  # noqa: F401

OPS = ops.NATIVE
DENORMALS = "FUSED_LSTM_DENORMALS"  # read by denormals.h too


@cache
def load() -> str | None:
    """Choose the instruction set and bound the teams of the loaded library; why not, or None."""
    why = library.load()
    if why is not None:
        return why
    denormals = os.environ.get(DENORMALS, "flush")
    if denormals not in ("flush", "keep"):
        return f"{DENORMALS}: got {denormals!r}; expected flush or keep"
    try:
        OPS.isa()  # FUSED_LSTM_ISA may ask for what this CPU does not have
        OPS.limit_team(most_threads())
    except RuntimeError as error:
        return f"its C++ library does not load here: {meant(error)}"
    return None


def granted_cores(groups: str, root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores' time a quota grants this process, infinity where there is none.

    Args:
        groups: the text of /proc/self/cgroup.
        root: where control groups are mounted, of either version.
    """
    granted = math.inf
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        top = root if number == "0" else root / "cpu"
        group = top / path.lstrip("/")
        # A group has no more than those around it. In a container it may be mounted as their root.
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                granted = min(granted, _quota(folder))
    return granted


def _quota(folder: Path) -> float:
    """Return the cores' time that one control group is granted."""
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        return math.inf if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


@cache
def most_threads() -> int:
    """Return how many threads can run without a pause: beyond its quota a process stands still."""
    groups = Path("/proc/self/cgroup")
    granted = granted_cores(groups.read_text()) if groups.exists() else math.inf
    return max(1, math.floor(min(granted, 2**31)))


def missing(device: torch.device) -> str | None:
    if device.type == "meta":
        return "its kernels need values, and tensors on meta have none"
    if device.type != "cpu":
        return f"its kernels are for the CPU, not {device.type}: use triton there"
    return load()


def describe(device: torch.device) -> str:
    offer = ", ".join(OPS.isa_names())
    count = min(torch.get_num_threads(), most_threads())
    threads = f"{count} thread{'s' * (count > 1)}"
    return f"C++ kernels for {OPS.isa()} (this CPU has {offer}), {threads}"


def release_memory() -> int:
    """Give the memory that this engine keeps for its next calls back to the system: bytes.

    It keeps what its results and scratch lay in, as torch.cuda's allocator does (there it is
    torch.cuda.empty_cache() that gives back): together with what is in use at most half as much
    again as calls have needed at once, at most 512 MiB, and nothing that no call has used for five
    seconds, though without a call nothing is given back. 0 where the engine has not run.

    A profile of torch.profiler does not have this memory; `OPS.keep_memory(False)` makes every
    call take its memory of torch, which a profile has.
    """
    return OPS.release_memory() if hasattr(OPS, "release_memory") else 0


run = partial(autograd.run, OPS)
load()  # now, since the first call may be traced, and these would be in the graph
