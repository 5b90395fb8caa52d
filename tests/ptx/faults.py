"""Faults put into the kernels' PTX, or around them: what the machine must find, and what it cannot.

Each is a change of a text that Triton compiled, so it needs no second copy of a kernel; a change
that changes nothing is an error. "Found" means a finding, an end that is none (a deadlock, an
address outside), or a result that is not the reference's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from unittest import mock

from fused_lstm.call.spec import Spec
from fused_lstm.triton import launch

from . import cases
from .cases import Case, Outcome
from .run import WEAK, Schedule

Change = Callable[[str], str]
RELEASE = r"(red|atom)\.global\.gpu\.release"  # as Triton 3.9 has it, or 3.6
LATE = replace(WEAK, lazy=2)  # a copy that nobody waits for never comes


def every(pattern: str, put: str | Callable) -> Change:
    return lambda ptx: re.sub(pattern, put, ptx)


def first(pattern: str, put: str) -> Change:
    return lambda ptx: re.sub(pattern, put, ptx, count=1)


def inside(pattern: str, put: str) -> Change:
    """Only of the meeting inside a step; in the backward a block's meeting comes before it."""

    def change(ptx: str) -> str:
        before = 0 if "forward_kernel(" in ptx else 1
        found = list(re.finditer(pattern, ptx))[before]
        return ptx[: found.start()] + found.expand(put) + ptx[found.end() :]

    return change


def _after_acquire(pattern: str) -> Change:
    """Drop the first statement of a kind that follows each acquire."""
    return every(rf"(ld\.acquire(?:.|\n)*?\n)([^\n]*{pattern}[^\n]*\n)", r"\1")


def before_release(since: str) -> Change:
    """Return what drops the program's barriers between the last `since` and the release."""

    def change(ptx: str) -> str:
        at = re.search(RELEASE, ptx).start()
        start = ptx.rindex(since, 0, at)
        return ptx[:start] + re.sub(r"bar\.sync[^;]*;", "", ptx[start:at]) + ptx[at:]

    return change


@dataclass(frozen=True)
class Fault:
    name: str
    change: Change
    finds: str = ""  # in the report
    not_found: str = ""  # or why it cannot be
    arch: tuple[int, ...] = (80, 90)
    dtype: str = "bf16"
    path: str = "own"
    unzeroed: str = ""  # part of a launch's workspace that is left as torch.empty gives it
    kept: str = ""  # or as the call before has left it: a case of two calls
    kinds: tuple[str, ...] = ("steps", "layers", "projected")
    schedule: Schedule = WEAK


def _unchanged(ptx: str) -> str:
    return ptx


H = 33
INSIDE = "projected", "products", "sums"  # kinds that meet inside a step
WAIT = r"[^\n]*ld\.acquire[^\n]*\n((?:.|\n)*?)[^\n]*bra[^\n]*\n"
ARRIVE = r"@%p\d+ (?:red|atom)\.global[^;]*;"
FAULTS = [
    # --- the barrier ---
    Fault("wait removed", every(WAIT, r"\1"), "race"),
    Fault("release relaxed", every(RELEASE, r"\1.global.gpu.relaxed"), "race"),
    Fault("release at cta scope", every(RELEASE, r"\1.global.cta.release"),
          "race"),
    Fault("acquire relaxed", every(r"ld\.acquire\.gpu\.global", "ld.relaxed.gpu.global"), "race"),
    Fault("acquire a plain load", every(r"ld\.acquire\.gpu\.global", "ld.global"), "race"),
    Fault("acquire at cta scope", every(r"ld\.acquire\.gpu\.global", "ld.acquire.cta.global"),
          "race"),
    Fault("arrive removed", every(ARRIVE, ""), "deadlock"),
    Fault("bar.sync before the arrive removed", before_release("st.global"), "race"),
    Fault("bar.sync after the wait removed", _after_acquire(r"bar\.sync"), "race"),
    Fault("counters not zeroed", _unchanged, "uninitialised read", unzeroed="counters"),
    Fault("counters of the call before", _unchanged, "race", kept="counters"),
    # --- the meeting inside a step, alone ---
    Fault("wait inside a step removed", inside(WAIT, r"\1"), "race", kinds=INSIDE),
    Fault("arrive inside a step removed", inside(ARRIVE, ""), "deadlock", kinds=INSIDE),
    Fault("release inside a step relaxed", inside(RELEASE, r"\1.global.gpu.relaxed"),
          "race", kinds=INSIDE),
    Fault("acquire inside a step relaxed",
          inside(r"ld\.acquire(\.gpu\.global)", r"ld.relaxed\1"), "race", kinds=INSIDE),
    Fault("exchange inside a step not zeroed", _unchanged, "uninitialised read", unzeroed="between",
          kinds=INSIDE),
    # --- addresses and values ---
    Fault("exchange not zeroed", _unchanged, "uninitialised read", unzeroed="exchange"),
    Fault("masks H - 1", every(rf"(setp\.lt\.[su]\d+\s+%p\d+, %r\w+, ){H};", rf"\g<1>{H - 1};"),
          "times what is allowed"),
    Fault("masks H + 1", every(rf"(setp\.lt\.[su]\d+\s+%p\d+, %r\w+, ){H};", rf"\g<1>{H + 1};"),
          "out of bounds"),
    Fault("a factor of one fma 0", first(r"(fma\.rn\.f32\s+%\w+, )%\w+", r"\g<1>0f00000000"),
          "times what is allowed", dtype="fp32"),
    Fault("an address of ldmatrix + 16", first(r"(ldmatrix[^;]*\[\s*%r\d+)[^\]]*\]", r"\1 + 16]"),
          "times what is allowed", arch=(80,)),
    # --- asynchronous work ---
    Fault("cp.async.wait_group + 1",
          every(r"cp\.async\.wait_group\s+(\d+)",
                lambda match: f"cp.async.wait_group {int(match[1]) + 1}"),
          "uninitialised read", path="streamed", schedule=LATE),
    Fault("cp.async.commit_group removed", every(r"cp\.async\.commit_group;", ""),
          "uninitialised read", path="streamed", schedule=LATE),
    Fault("wgmma.wait_group + 1",
          every(r"(wgmma\.wait_group\.sync\.aligned) 0", r"\1 1"), "in flight is touched",
          arch=(90,), path="whole sums"),
    Fault("wgmma.fence removed", every(r"wgmma\.fence\.sync\.aligned;", ""),
          "without a wgmma.fence", arch=(90,), path="whole sums"),
    Fault("fence.proxy.async removed", every(r"fence\.proxy\.async\.shared::cta;", ""),
          "not fenced from wgmma", arch=(90,), path="whole sums"),
    Fault("wgmma adds to what was there",
          every(r"(wgmma\.mma_async[^;]*\}, %rd\d+, %rd\d+, )0,", r"\g<1>1,"),
          "times what is allowed", arch=(90,), path="whole sums"),
    # --- what cannot be found, since something else protects the same ---
    Fault(".cg of the exchange's loads dropped", every(r"ld\.global\.cg", "ld.global"),
          not_found="the wait's acquire drops the SM's L1 before any thread loads"),
]  # fmt: skip


def case_of(fault: Fault, kind: str, arch: int) -> Case:
    size = H if fault.path in ("own", "whole sums") else 100
    few = {"B": 3, "T": 2} if size == 100 else {"B": 20}
    options = {**few, "path": fault.path, "calls": 2 if fault.kept else 1}
    if kind == "projected":
        return Case("steps", fault.dtype, arch, size, P=size - 13, **options)
    if kind == "products":
        return Case("steps", fault.dtype, arch, size, cell=Spec(cases.deep.name), **options)
    if kind == "sums":
        return Case("steps", fault.dtype, arch, size, cell=Spec(cases.norms.name), **options)
    return Case(kind, fault.dtype, arch, size, L=2 if kind == "layers" else 1, **options)


def run(
    fault: Fault, kind: str, direction: str, arch: int, seeds: int = 5
) -> tuple[bool, Outcome | None]:
    """Whether a schedule found it, and the last outcome; None: the fault changed nothing."""
    changed = bool(fault.unzeroed or fault.kept)

    def change(ptx: str) -> str:
        nonlocal changed
        kernel = f"{direction}_kernel("
        made = fault.change(ptx) if kernel in ptx else ptx
        changed |= made != ptx
        return made

    outcome = None
    for seed in range(1, seeds + 1):
        with _unzeroed(fault.unzeroed), mock.patch.object(cases, "KEPT", (fault.kept,)):
            outcome = cases.run(
                case_of(fault, kind, arch), (seed,), fault.schedule, change, 20_000_000
            )
        if not changed:
            return False, None
        if not outcome.clean:
            return True, outcome
    return False, outcome


def _unzeroed(part: str):
    """launch.workspace with a part of it as torch.empty gives it."""
    if not part:
        return nullcontext()
    original = launch.workspace

    def made(*arguments):
        found = original(*arguments)
        zeroed = getattr(found, part)
        return found._replace(**{part: zeroed.new_empty(zeroed.shape)})

    return mock.patch.object(launch, "workspace", made)


def run_by_name(name: str, kind: str, direction: str, arch: int, seeds: int = 5):
    """`run`, for another process: a change cannot be sent to it."""
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    return run(fault, kind, direction, arch, seeds)
