"""The kernels of heads on the machine, and what they would use of a GPU."""

from __future__ import annotations

from unittest import mock

import torch
from torch import Tensor

from fused_lstm import recurrence
from fused_lstm.tools import inspect, sass
from fused_lstm.triton import heads

from .cases import DTYPES
from .device import Device
from .run import WEAK

N, K, B, T = 2, 35, 3, 3  # K: two blocks of units


def problem(cell: str, dtype: torch.dtype) -> tuple[list[Tensor], dict]:
    """Return x_part, h0, c0 and weight_hh, and what the operators are told of rows."""
    torch.manual_seed(0)
    gates = {"gru": 3, "gru_dreamer": 3, "rnn_tanh": 1}.get(cell, 4)
    S, lengths = 3 if "slstm" in cell else 1, torch.tensor([3, 2, 1])
    c0 = torch.randn(B, S * N * K)
    if S == 3:
        c0[:, N * K : 2 * N * K] = c0[:, N * K : 2 * N * K].abs() + 0.5
    made = [torch.randn(7, gates * N * K), torch.randn(B, N * K), c0,
            torch.randn(N, gates * K, K) / K**0.5]  # fmt: skip
    made = [t.to(dtype) for t in made]
    if cell.startswith("gru"):
        made[2] = made[1]
    sizes = (lengths > torch.arange(T)[:, None]).sum(1)
    return made, {"batch_sizes": sizes, "keep": torch.rand(7) > 0.3, "reverse": True}


def run(cell: str, name: str, arch: int, seed: int = 1) -> tuple[dict[str, float], list[str]]:
    """Return each result's error as a part of its largest value, and what the machine found."""
    dtype = DTYPES[name]
    inputs, rows = problem(cell, dtype)
    told = recurrence.Cell(cell, rows["reverse"], 0.5 if cell == "slstm" else 0.0)
    wide = [t.double().requires_grad_() for t in inputs]
    y, h_n, c_n, _ = recurrence.plain(told, rows["batch_sizes"], rows["keep"], *wide, None)
    outputs = [y[:6], h_n, *([c_n] if c_n.numel() else [])]  # the seventh row is nobody's
    by = [torch.linspace(-1, 1, o.numel()).cos().view(o.shape).to(dtype) for o in outputs]
    grads = torch.autograd.grad(
        outputs, wide, [g.double() for g in by], allow_unused=True, materialize_grads=True
    )
    dy = torch.cat([by[0], torch.zeros_like(by[0][:1])])
    device = Device(arch, seed, WEAK)
    with device, mock.patch.object(heads, "tf32", return_value=name == "tf32"):
        made = heads.recurrence(*inputs, None, cell, True, **rows)
        found = heads.recurrence_backward(
            dy, by[1], by[2] if len(by) > 2 else None, *inputs[1:], None, made[0], *made[3:], cell,
            **rows, clip=told.clip,
        )  # fmt: skip
    pairs = {"y": (made[0][:6], y[:6]), "h_n": (made[1], h_n), "c_n": (made[2], c_n)}
    pairs |= dict(
        zip(("dx", "dh0", "dc0", "dweight"), zip(found, grads, strict=False), strict=True)
    )
    errors = {
        name: ((ours.double() - right).abs().max() / right.abs().max().clamp(min=1e-9)).item()
        for name, (ours, right) in pairs.items() if right.numel()
    }  # fmt: skip
    return errors, [f"{finding.kind}, {finding.source}" for finding in device.findings]


def stack_bytes(cell: str, name: str, arch: int) -> dict[str, int]:
    """Return the spills of both kernels, compiled for an architecture: kernel -> instructions."""
    constants = heads.constants(recurrence.Cell(cell), 128, DTYPES[name], True)
    options = {"num_warps": constants.pop("num_warps")}
    forward = constants | {"EXPONENTIAL": False, "SAVE": True, "BIAS": False}
    backward = constants | {"APART": cell == "gru", "CLIP": True}
    found = {}
    for kernel, own in (
        (heads.heads_forward_kernel, forward), (heads.heads_backward_kernel, backward)
    ):  # fmt: skip
        compiled = inspect.compile_kernel(kernel, name, own, {}, arch, options)
        code = sass.instructions(sass.disassemble(compiled.asm["cubin"]))
        found[kernel.fn.__name__] = sass.count(code)["spills"]
    return found
