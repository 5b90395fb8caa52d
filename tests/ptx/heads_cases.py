"""Heads on the machine: lanes of the kernels of layers, each with its own barrier."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor
from triton import knobs

from fused_lstm.operator import recurrence
from fused_lstm.tools import inspect
from fused_lstm.triton import choice, devices, heads, launch, op, precision
from fused_lstm.triton.plan import Plan
from plans import make_plan

from . import cases, faults
from .cases import DTYPES, PATHS
from .device import Device, Failed
from .run import WEAK

N, T = 2, 3
# By B: rows of unequal length, of equal length, and so many that two groups of programs have them.
LENGTHS = {3: (3, 3, 2), 4: (3,) * 4, 17: (3,) * 15 + (2, 1)}
FINDS = {  # faults of the barrier, and what finds each
    "wait removed": "race",
    "release relaxed": "race",
    "acquire relaxed": "race",
    "acquire at cta scope": "race",
    "arrive removed": "deadlock",
    "wait at another head's counter": "out of bounds",
}
FAULTS = {fault.name: fault.change for fault in faults.FAULTS if fault.name in FINDS} | {
    "wait at another head's counter": faults.every(
        r"(ld\.acquire\.gpu\.global\.s32 seen, \[%rd\d+)\]", r"\1+-65536]"
    ),
}


def plan_of(how: str, direction: str, K: int, B: int, gates: int, dtype: str, arch: int) -> Plan:
    """Return the launch: a path of ptx.cases, or a launch a step."""
    device = devices.by_arch(arch)
    if how == "a launch a step":
        how, device = "own", replace(device, sms=0)
    path = PATHS[how]
    return make_plan(
        "heads", direction, K, B, N, DTYPES[dtype], path, device=device, tf32=dtype == "tf32",
        gates=gates,
    )  # fmt: skip


def problem(cell: str, dtype: torch.dtype, K: int, B: int) -> tuple[list[Tensor], dict]:
    """Return x_part, h0, c0 and weight_hh, and what the operators are told of rows."""
    torch.manual_seed(0)
    gates = {"gru": 3, "gru_dreamer": 3, "rnn_tanh": 1}.get(cell, 4)
    if cell in cases.CUSTOM:
        cases.CUSTOM[cell].on_triton()
        gates = launch.kernel_cell(recurrence.LaneCell(cell).spec).by_h
    S, lengths = 3 if "slstm" in cell else 1, torch.tensor(LENGTHS[B])
    c0, live = torch.randn(B, S * N * K), sum(LENGTHS[B])
    if S == 3:
        c0[:, N * K : 2 * N * K] = c0[:, N * K : 2 * N * K].abs() + 0.5
    made = [torch.randn(live + 1, gates * N * K), torch.randn(B, N * K), c0,
            torch.randn(N, gates * K, K) / K**0.5]  # fmt: skip
    made = [t.to(dtype) for t in made]
    if cell.startswith(("gru", "rnn")):
        made[2] = made[1]
    if B == 4:  # [T, B, .], not packed
        made[0] = made[0][:live].view(T, B, -1)
        return made, {"batch_sizes": None, "not_reset": torch.rand(T, B) > 0.3, "reverse": True}
    sizes = (lengths > torch.arange(T)[:, None]).sum(1)
    return made, {"batch_sizes": sizes, "not_reset": torch.rand(live + 1) > 0.3, "reverse": True}


def run(
    cell: str, name: str, arch: int, how: str = "own", K: int = 35, B: int = 3, fault: str = "",
    seed: int = 1,
) -> tuple[dict[str, float], list[str]]:  # fmt: skip
    """Return each result's error as a part of its largest value, and what the machine found.

    fault: of FAULTS, put into both kernels, or none.
    """
    dtype, live = DTYPES[name], sum(LENGTHS[B])
    inputs, rows = problem(cell, dtype, K, B)
    changed = []

    def change(ptx: str) -> str:
        made = FAULTS[fault](ptx) if fault else ptx
        changed.append(made != ptx)
        return made

    told = recurrence.LaneCell(cell, rows["reverse"], 0.5 if cell == "slstm" else 0.0)
    wide = [t.double().requires_grad_() for t in inputs]
    y, h_n, c_n, _ = recurrence.plain(told, rows["batch_sizes"], rows["not_reset"], *wide, None)
    packed = rows["batch_sizes"] is not None
    y = y[:live] if packed else y  # the last row is nobody's
    outputs = [y, h_n, *([c_n] if c_n.numel() else [])]
    by = [torch.linspace(-1, 1, o.numel()).cos().view(o.shape).to(dtype) for o in outputs]
    grads = torch.autograd.grad(
        outputs, wide, [g.double() for g in by], allow_unused=True, materialize_grads=True
    )
    dy = torch.cat([by[0], torch.zeros_like(by[0][:1])]) if packed else by[0]

    def planned(_, direction: str, *__, gates: int, **___) -> Plan:
        return plan_of(how, direction, K, B, gates, name, arch)

    device = Device(arch, seed, WEAK, change)
    device.max_instructions = 200_000_000
    with (
        device,
        mock.patch.object(precision, "tf32", return_value=name == "tf32"),
        mock.patch.object(op, "plan_of", planned),
    ):
        made = heads.recurrence(*inputs, None, cell, True, **rows)
        found = heads.recurrence_backward(
            dy, by[1], by[2] if len(by) > 2 else None, *inputs[1:], None, made[0], *made[3:], cell,
            **rows, clip=told.clip,
        )  # fmt: skip
    if fault and not any(changed):
        raise ValueError(f"fault: got {fault!r}; expected one that changes something")
    pairs = {
        "y": (made[0][:live] if packed else made[0], y),
        "h_n": (made[1], h_n),
        "c_n": (made[2], c_n),
    }
    pairs |= dict(
        zip(("dx", "dh0", "dc0", "dweight"), zip(found, grads, strict=False), strict=True)
    )
    if cell.startswith(("gru", "rnn")):  # whose c0 is h0: the gradient is the sum of both
        pairs["dh0"] = pairs["dh0"][0] + pairs.pop("dc0")[0], grads[1] + grads[2]
    errors = {
        name: ((ours.double() - right).abs().max() / right.abs().max().clamp(min=1e-9)).item()
        for name, (ours, right) in pairs.items() if right.numel()
    }  # fmt: skip
    return errors, [f"{finding.kind}, {finding.source}" for finding in device.findings]


def outcome(*case) -> str:
    """Return what the machine found in a case with a fault: nothing, findings or a bad end."""
    try:
        errors, findings = run(*case)
    except Failed as end:
        return str(end)
    return "\n".join(findings) or f"nothing found: {errors}"


def spills(cell: str, name: str, arch: int, K: int) -> dict[str, int]:
    """Return the spills of both kernels, compiled for an architecture, by direction."""
    knobs.runtime.add_stages_inspection_hook = None  # which a Device of this process has left
    found, device = {}, devices.by_arch(arch)
    spec = recurrence.LaneCell(cell).spec
    gates = launch.kernel_cell(spec).by_h
    for direction in ("forward", "backward"):
        plan = choice.choose(
            direction, hidden=K, batch=16, layers=1, heads=N, gates=gates, device=device,
            dtype=name.replace("tf32", "fp32"),
        )  # fmt: skip
        report = inspect.inspect(plan, device, spec)
        assert report["shared_memory"] <= device.smem
        found[direction] = report["whole"]["spills"]
    return found
