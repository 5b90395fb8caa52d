"""The exchange of h by its phase, on the machine: the barrier's bits, and no finding.

A case's forward runs twice, with the barrier in one schedule, and by phases in each. Their products
are the same, so every result has the same bits, if no multiplication is fused with an addition: of
two that are added the compiler fuses either. h0 is large and has a NaN.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor
from triton import knobs

from fused_lstm.call.spec import GRU, Spec
from fused_lstm.tools import inspect, sass
from fused_lstm.triton import devices, launch, op
from fused_lstm.triton.plan import Plan, plan

from . import cases, faults
from .cases import Case, Outcome
from .device import Device, Failed
from .faults import every
from .run import STRICT, WEAK, Schedule

MANY = (6,) * 5 + (4,) * 7 + (1,) * 8  # lengths of 20 rows: backwards in time they begin late
ROWS = {"T": 6, "lengths": MANY, "resets": True}
PEEPHOLE = Spec(peephole=True, zoneout=(0.0, 0.3))
OF_TF32 = GRU, Spec("rnn_relu"), Spec("gru", zoneout=0.3)  # cells whose h may be above 1
SCHEDULES = STRICT, WEAK, replace(WEAK, burst=40)


def some_cases() -> list[Case]:
    """Return the cases that `make test` runs: each property once."""
    found = [
        Case("steps", "bf16", 90, 33, 20, T=6),  # the last program has one unit
        Case("both", "bf16", 90, 33, 20, **ROWS),
        Case("steps", "bf16", 80, 130, 20, path="groups of rows", reverse=True, **ROWS),
        Case("steps", "tf32", 90, 70, 3, T=5, cell=GRU, resets=True),
    ]
    return [replace(case, phase=True) for case in found]


def every_case() -> list[Case]:
    """Return all cases, which `make ptx` runs."""
    found = some_cases()
    for arch in (80, 90):
        for dtype in ("bf16", "fp16", "tf32"):
            found.append(Case("steps", dtype, arch, 33, 20, T=6))
            found.append(Case("steps", dtype, arch, 130, 3, T=5, L=2))
            found.append(Case("steps", dtype, arch, 65, 20, T=9, calls=2))
            found.append(Case("steps", dtype, arch, 70, 20, path="whole sums", **ROWS))
            found.append(Case("both", dtype, arch, 70, 3, T=5, resets=True))
            for path in ("own", "blocks of batch", "groups of rows"):
                found.append(Case("both", dtype, arch, 33, 20, path=path, **ROWS))
                for reverse in (False, True):
                    more = ROWS | {"path": path, "reverse": reverse}
                    found.append(Case("steps", dtype, arch, 33, 20, **more))
            found.append(Case("steps", dtype, arch, 33, 20, cell=PEEPHOLE, **ROWS))
        found += [Case("both", "tf32", arch, 33, 20, cell=cell, **ROWS) for cell in OF_TF32]
    # A word of a chunk for each thread.
    found.append(Case("steps", "bf16", 90, 16, 3, T=5, path="whole sums"))
    return list(dict.fromkeys(replace(case, phase=True) for case in found))


def inputs_of(case: Case) -> tuple[list[Tensor], dict]:
    """Return x, h0, c0 and weights, and what the operators are told of lanes.

    h0 has elements above 1, infinity and a NaN; x has a NaN at the second step of a row.
    """
    torch.manual_seed(0)
    inputs, lanes = cases._inputs(case), case.lanes()
    x, h0, c0, *_ = inputs
    h0 *= 3
    h0[0, 0, 1], h0[0, 1, 2] = torch.nan, torch.inf
    x.view(-1, x.shape[-1])[case.B + 2, 3] = torch.nan
    if not case.cell.has_c:
        c0.copy_(h0)
    return inputs, lanes


def forward(case: Case, inputs: list[Tensor], lanes: dict, save: bool) -> dict[str, Tensor]:
    """Return what the forward operator gives; of several calls on one workspace the last."""
    (x, h0, c0, *weights), more = inputs, lanes | case.cell.schema
    call, options = (c0, weights, case.p, cases._seed(case), case.kind, save), launch.options
    unfused = mock.patch.object(
        launch, "options", lambda plan: options(plan) | {"enable_fp_fusion": False}
    )
    with cases._launching(case), cases._one_workspace(), unfused:
        for _ in range(case.calls - 1):
            op.lstm(-x, -h0, *call, **more)
        found = op.lstm(x, h0, *call, **more)
    return dict(zip(("y", "h_n", "c_n", "h", "c", "gates"), found, strict=True))


def run(
    case: Case,
    seeds: Iterable[int] = (1,),
    schedule: Schedule | None = None,
    change: Callable[[str], str] = lambda ptx: ptx,
    unzeroed: str = "",
    max_instructions: int = 200_000_000,
) -> Outcome:
    """Run a case's forward under each seed; schedule: of all, or of each seed the next one.

    Every second seed saves nothing for a backward: then c is in one place for all steps. unzeroed:
    a part of the workspace that is left as torch.empty gives it.
    """
    inputs, lanes = inputs_of(case)
    outcome, phased = Outcome(case), []

    def changed(ptx: str) -> str:
        phased.append("st.relaxed.gpu" in ptx)
        return change(ptx)

    expected: dict[bool, dict[str, Tensor]] = {}
    for seed in seeds:
        save = seed % 2 == 1
        if save not in expected:
            with Device(case.arch, 1, replace(STRICT, races=0)):
                expected[save] = forward(replace(case, phase=False), inputs, lanes, save)
        how = schedule or SCHEDULES[seed % len(SCHEDULES)]
        device = Device(case.arch, seed, how, changed)
        device.max_instructions = max_instructions
        outcome.schedules += 1
        try:
            with faults._unzeroed(unzeroed), device:
                found = forward(case, inputs, lanes, save)
            for name, value in expected[save].items():
                same = (found[name] == value) | (found[name].isnan() & value.isnan())
                if not same.all():
                    outcome.wrong.append(f"{name}: other bits than the barrier's")
        except Failed:
            pass  # its report is the device's last
        outcome.findings.update({f"{f.kind}, {f.source}" for f in device.findings})
        outcome.stats.update({name: device.total(name) for name in cases.STATS})
        if device.findings and not outcome.report:
            outcome.report = f"seed {seed}:\n{device.reports[-1]}"
    if not all(phased):
        raise ValueError(f"case: got {case}; expected one whose plan may have a phase")
    return outcome


# --- faults ---

# Bits of a word of bfloat16: a NaN's, with the phase's too, and what lifts elements above 1.
NAN, BOTH, ABOVE_1 = 0x40000000, 0x40004000, 0x007F007F
SLOT = 4096  # elements, of FAULTY
FAULTY = Case("steps", "bf16", 90, 33, 20, T=9, phase=True)


def selected(bits: int, put: int) -> faults.Change:
    """Return what puts other bits where a kernel selects `bits` or 0."""
    return every(rf"(selp\.b32 \s*%r\d+, (?:0, )?){bits},", rf"\g<1>{put},")


# Faults: the change of each, and what finds it.
FAULTS: dict[str, tuple[faults.Change, str]] = {
    "a phase that does not change": (
        every(r"shl\.b32 (\s*%r\d+), %r\d+, 13;", r"mov.b32 \1, 8192;"),  # of all steps step 1's
        "other bits",
    ),
    "one slot": (
        every(rf"(and|xor)(\.b64 \s*%rd\d+, %rd\d+, )({SLOT}|{2 * SLOT});", r"\1\g<2>0;"),
        "more than",  # instructions: it hangs
    ),
    "no wait": (selected(BOTH, NAN), "other bits"),
    "weak stores": (every(r"st\.relaxed\.gpu\.global", "st.global"), "race"),
    "weak loads": (every(r"ld\.volatile\.global", "ld.global"), "race"),
    "a NaN as it is": (
        every(rf"(and\.b32 \s*%r\d+, %r\d+, ){~BOTH};", r"\1-1;"), "more than"
    ),
    "a NaN that stays below 1": (selected(ABOVE_1, 0), "other bits"),
    "a NaN that its word does not show": (selected(NAN, 0), "other bits"),
    "exchange not zeroed": (every(r"$^", ""), "uninitialised read"),
}  # fmt: skip


def fault(name: str, arch: int, seeds: Iterable[int] = (1, 2, 3)) -> tuple[bool, list[Outcome]]:
    """Return whether a fault changed the kernel or its memory, and what each seed found of it."""
    unzeroed = "exchange" if name == "exchange not zeroed" else ""
    changed = bool(unzeroed)

    def put(ptx: str) -> str:
        nonlocal changed
        made = FAULTS[name][0](ptx)
        changed |= made != ptx
        return made

    case = replace(FAULTY, arch=arch)
    outcomes = [run(case, (seed,), WEAK, put, unzeroed, 5_000_000) for seed in seeds]
    return changed, outcomes


# --- compiled ahead of time ---

# Parts of the exchange at the barrier, which no step may have where h has a phase.
FENCES = "CCTL", "LDGSTS", *sass.ARRIVES
OF_BARRIER = re.compile(
    r"\b(?:ld\.acquire|ld\.global\.cg|cp\.async|fence\.(?:acq_rel|sc)|membar|red\.|atom\.)[\w.:]*"
)


def compiled(dtype: str, arch: int, H: int, B: int = 20) -> tuple[Plan, dict]:
    """Return a forward plan with h exchanged by its phase, and facts of its kernel.

    They are how often the PTX has each strong access, what it has of the barrier, and what the
    step's machine code has of it.
    """
    knobs.runtime.add_stages_inspection_hook = None  # which a Device of this process has left
    device = devices.by_arch(arch)
    shape = {"hidden": H, "batch": B, "dtype": dtype.replace("tf32", "fp32")}
    found = replace(plan("steps", "forward", layers=1, device=device, **shape), phase=True)
    ptx = inspect.compile_plan(found, arch).asm["ptx"]
    report = inspect.inspect(found, device)
    names = [text.split()[1].split(".") for text in report["sass"]]
    fences = [name for name in names if name[0] in FENCES or {"MEMBAR", "GPU"} <= set(name)]
    return found, {
        "strong": Counter(re.findall(r"\b(?:ld\.volatile|st\.relaxed\.gpu)\.global[\w.:]*", ptx)),
        "of the barrier": OF_BARRIER.findall(ptx),
        "fences": fences,
        **{name: report[name] for name in ("registers", "stack", "shared_memory", "order")},
    }
