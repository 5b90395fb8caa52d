"""The barrier under Triton's GSan, which looks for races in global memory: Triton 3.9 has it.

GSan follows Triton's own operations. The barrier waits by inline assembly, which GSan cannot see:
to it whatever the barrier orders is a race. So kernels are compiled here with the wait that AMD's
GPUs have, on tl.atomic_add. With the assembly GSan must find a race: that shows that it looks.

`python -m triton.tools.gsan bench/gpu/gsan.py FORM`, FORM atomics or assembly: one of these runs.
"""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch

from bench.gpu.watching import ROOT  # this file is a script too, which has no package

TOOL = "triton.tools.gsan"
LIMIT = 60.0  # seconds for one run
RACE = "race detected"  # in each of GSan's reports of one
FORMS = "assembly", "atomics"
T, B, H = 4, 16, 200


def missing() -> str | None:
    """Return why GSan cannot be used, or None."""
    try:
        found = importlib.util.find_spec(TOOL)
    except ModuleNotFoundError:  # no triton.tools either
        found = None
    if found is None:
        return "this Triton has no GSan"
    if torch.version.hip is not None:
        return "GSan needs an NVIDIA GPU"
    return None


def check(deadline: float) -> str:
    """Return one line on the barrier under GSan: that no race was found, which, or why not run."""
    why = missing()
    for form in () if why else FORMS:
        seconds = min(LIMIT, deadline - time.monotonic())
        if seconds < 10:
            return "not run: no time left"
        try:
            done = _run(form, seconds)
        except subprocess.TimeoutExpired:
            return f"not run to its end: {form} was cut off after {seconds:.0f} s"
        lines = (done.stdout + done.stderr).strip().splitlines() or [""]
        race = next((line for line in lines if RACE in line), None)
        if form == "assembly" and race is None:
            return f"not run: GSan found no race where the barrier is hidden from it: {lines[-1]}"
        if form == "atomics" and race is not None:
            return f"a race: {race}"
        if form == "atomics" and done.returncode:
            return f"not run to its end: {lines[-1]}"
    return f"not run: {why}" if why else "no race"


def _run(form: str, seconds: float) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", TOOL, __file__, form]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT)


# --- in the script ---


@contextmanager
def on_atomics() -> Iterator[None]:
    """Have kernels compiled whose barrier waits as on AMD's GPUs."""
    import triton.language as tl

    from fused_lstm.triton import launch

    original = launch.constants

    def constants(*arguments, **options) -> launch.Constants:
        found = copy.copy(original(*arguments, **options))
        object.__setattr__(found, "NVIDIA", tl.constexpr(False))
        return found

    with mock.patch.object(launch, "constants", constants):
        yield


def main(form: str, device: str = "cuda") -> None:
    """Run steps and layers, forward and backward, with the barrier in this form."""
    from fused_lstm.triton import op

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, device=device).div(H**0.5).to(torch.bfloat16)

    with on_atomics() if form == "atomics" else nullcontext():
        for kind, L in (("steps", 1), ("layers", 2)):
            sizes = ((4 * H, H), (4 * H, H), (4 * H,), (4 * H,)) * L
            states = random(L, B, H), random(L, B, H).float()
            given = random(T, B, H), *states, [random(*size) for size in sizes], 0.0, None, kind
            y, h_n, c_n, h, c, gates = op.lstm(*given, True)
            op.lstm_backward(y, h_n, c_n, *given, y, h, c, gates, True)
    if device == "cuda":
        torch.cuda.synchronize()  # a race is an error of the device, which shows here


if __name__ == "__main__":
    main(sys.argv[1])
