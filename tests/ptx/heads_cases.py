"""The kernels of heads on the machine, and what they would use of a GPU."""

from __future__ import annotations

from unittest import mock

import torch
from torch import Tensor

from fused_lstm import recurrence
from fused_lstm.tools import inspect_heads
from fused_lstm.triton import devices, heads
from fused_lstm.triton.heads_plan import HeadsPlan, in_parts
from fused_lstm.triton.plan import SIZES

from . import faults
from .cases import DTYPES
from .device import Device, Failed
from .run import WEAK

N, B, T = 2, 3, 3
LENGTHS = 3, 3, 2  # row 2 is stored by another warp than that of the release
LIVE = sum(LENGTHS)
FINDS = {  # faults of the barrier, and what finds each
    "wait removed": "race",
    "release relaxed": "race",
    "acquire relaxed": "race",
    "acquire at cta scope": "race",
    "arrive removed": "deadlock",
    "bar.sync before the arrive removed": "race",
    "bar.sync after the wait removed": "race",
    "wait for the step before": "race",
    "wait at another head's counter": "out of bounds",
}


FAULTS = {fault.name: fault.change for fault in faults.FAULTS if fault.name in FINDS} | {
    "bar.sync before the arrive removed": faults.before_release("\n$L__BB"),  # its loop over blocks
    "wait for the step before": faults.every(
        r"(sub\.s32 seen, seen, [^;]*;)", r"\1 add.s32 seen, seen, 3;"
    ),
    "wait at another head's counter": faults.every(
        r"(ld\.acquire\.gpu\.global\.s32 seen, \[%rd\d+)\]", r"\1+-128]"
    ),
}


def plan_of(how: str, direction: str, K: int, gates: int, dtype: str, arch: int) -> HeadsPlan:
    """Return the launch: a head has one program, or its blocks are shared out."""
    size, smem = SIZES[dtype.replace("tf32", "fp32")], devices.by_arch(arch).smem
    return {
        "alone": lambda: HeadsPlan(1, 32),
        "resident": lambda: in_parts(direction, K, gates, size, 100, smem),
        "streamed": lambda: in_parts(direction, K, gates, size, 2, smem),
        "by blocks": lambda: HeadsPlan(-(-K // 32), 32),
        "a launch a step": lambda: HeadsPlan(-(-K // 32), 32, persistent=False),
    }[how]()


def problem(cell: str, dtype: torch.dtype, K: int) -> tuple[list[Tensor], dict]:
    """Return x_part, h0, c0 and weight_hh, and what the operators are told of rows."""
    torch.manual_seed(0)
    gates = {"gru": 3, "gru_dreamer": 3, "rnn_tanh": 1}.get(cell, 4)
    S, lengths = 3 if "slstm" in cell else 1, torch.tensor(LENGTHS)
    c0 = torch.randn(B, S * N * K)
    if S == 3:
        c0[:, N * K : 2 * N * K] = c0[:, N * K : 2 * N * K].abs() + 0.5
    made = [torch.randn(LIVE + 1, gates * N * K), torch.randn(B, N * K), c0,
            torch.randn(N, gates * K, K) / K**0.5]  # fmt: skip
    made = [t.to(dtype) for t in made]
    if cell.startswith("gru"):
        made[2] = made[1]
    sizes = (lengths > torch.arange(T)[:, None]).sum(1)
    return made, {"batch_sizes": sizes, "keep": torch.rand(LIVE + 1) > 0.3, "reverse": True}


def run(
    cell: str, name: str, arch: int, how: str = "alone", K: int = 35, fault: str = "", seed: int = 1
) -> tuple[dict[str, float], list[str]]:
    """Return each result's error as a part of its largest value, and what the machine found.

    fault: of FAULTS, put into both kernels, or none.
    """
    dtype = DTYPES[name]
    inputs, rows = problem(cell, dtype, K)
    changed = []

    def change(ptx: str) -> str:
        made = FAULTS[fault](ptx) if fault else ptx
        changed.append(made != ptx)
        return made

    told = recurrence.Cell(cell, rows["reverse"], 0.5 if cell == "slstm" else 0.0)
    wide = [t.double().requires_grad_() for t in inputs]
    y, h_n, c_n, _ = recurrence.plain(told, rows["batch_sizes"], rows["keep"], *wide, None)
    outputs = [y[:LIVE], h_n, *([c_n] if c_n.numel() else [])]  # the last row is nobody's
    by = [torch.linspace(-1, 1, o.numel()).cos().view(o.shape).to(dtype) for o in outputs]
    grads = torch.autograd.grad(
        outputs, wide, [g.double() for g in by], allow_unused=True, materialize_grads=True
    )
    dy = torch.cat([by[0], torch.zeros_like(by[0][:1])])

    def planned(direction: str, *_) -> HeadsPlan:
        return plan_of(how, direction, K, inputs[3].shape[1] // K, name, arch)

    device = Device(arch, seed, WEAK, change)
    device.max_instructions = 200_000_000
    with (
        device,
        mock.patch.object(heads, "tf32", return_value=name == "tf32"),
        mock.patch.object(heads, "plan_of", planned),
    ):
        made = heads.recurrence(*inputs, None, cell, True, **rows)
        found = heads.recurrence_backward(
            dy, by[1], by[2] if len(by) > 2 else None, *inputs[1:], None, made[0], *made[3:], cell,
            **rows, clip=told.clip,
        )  # fmt: skip
    if fault and not any(changed):
        raise ValueError(f"fault: got {fault!r}; expected one that changes something")
    pairs = {"y": (made[0][:LIVE], y[:LIVE]), "h_n": (made[1], h_n), "c_n": (made[2], c_n)}
    pairs |= dict(
        zip(("dx", "dh0", "dc0", "dweight"), zip(found, grads, strict=False), strict=True)
    )
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


def spills(cell: str, name: str, arch: int, how: str, K: int) -> dict[str, int]:
    """Return the spills of both kernels, compiled for an architecture, by direction."""
    found = {}
    for direction in ("forward", "backward"):
        plan = plan_of(how, direction, K, 4, name, arch)
        made = inspect_heads.compiled(cell, direction, name, arch, plan)
        assert made["shared"] <= devices.by_arch(arch).smem
        found[direction] = made["spills"]
    return found
