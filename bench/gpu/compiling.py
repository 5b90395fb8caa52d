"""Every kernel that tests and races launch, compiled beforehand, on all cores and without the GPU.

`python -m bench.gpu.compiling DEVICE SHAPES` both as JSON: Triton's cache then has them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from . import dry
from .racing import PRECISIONS, GpuRace
from .watching import CUT_OFF, say, watch

LONGEST = 16  # steps: a kernel does not know T, but how H * T is aligned it does


Job = tuple[str, tuple[int, ...], str, int]  # precision, [T, B, I, H, L], form, heads


def unique(races: Iterable[GpuRace]) -> list[Job]:
    """Return what races launch, once; also a layer alone, as `steps` launches it."""
    wanted: dict[Job, None] = {}
    for race in races:
        (T, B, I, H, L), T = race.shape, min(race.shape[0], LONGEST)
        wanted[race.precision, (T, B, I, H, L), race.form, race.heads] = None
        for width in {I, H} if L > 1 else set():
            wanted[race.precision, (T, B, width, H, 1), race.form, race.heads] = None
    return list(wanted)


def compile_in_time(device: Any, races: Iterable[GpuRace], deadline: float) -> dict:
    """Compile what races launch for `device`, in processes of their own: kernels, seconds."""
    return _compiled("compiling", [json.dumps(asdict(device)), json.dumps(unique(races))], deadline)


def compile_tests(device: Any, deadline: float) -> dict:
    """Compile what the tests marked gpu launch, by running them without a GPU (dry_tests.py)."""
    return _compiled("dry_tests", [json.dumps(asdict(device)), str(os.cpu_count() or 1)], deadline)


def _compiled(module: str, arguments: list[str], deadline: float) -> dict:
    began, kernels, failed, jobs = time.monotonic(), [0], {}, [0]

    def take(event: dict) -> None:
        if event["event"] == "compiled":
            jobs.append(1)
            kernels.append(event["kernels"])
        elif event["event"] == "failed":
            failed[event["who"]] = event["why"]

    command = [sys.executable, "-m", f"bench.gpu.{module}", *arguments]
    # No GPU: a context for each of these processes would be of no use.
    hidden = {"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    end = watch(command, take, deadline, silence=deadline - began, **hidden)
    cut_off = end.why == CUT_OFF
    failed |= {} if end.who is None or cut_off else {"all": end.why}
    seconds = time.monotonic() - began
    return {"jobs": sum(jobs), "kernels": sum(kernels), "failed": failed, "cut off": cut_off,
            "seconds": seconds}  # fmt: skip


# --- in a worker ---


def prepare(device: dict) -> None:
    """Have this process compile for a device."""
    from fused_lstm.triton.devices import Device

    torch.set_num_threads(1)
    dry.take_over(Device(**device))


def compile_one(precision: str, shape: tuple[int, ...], form: str, heads: int) -> int:
    """Launch a forward and a backward, and a forward that keeps nothing; kernels that it took."""
    from fused_lstm.triton import op

    dtype, tf32 = PRECISIONS[precision]
    torch.backends.cudnn.allow_tf32 = tf32
    dry.LAUNCHES.clear()
    x, h0, weights = dry.zeros(shape, getattr(torch, dtype))
    with torch.no_grad():
        if heads > 1:
            compile_blocks(x, h0[0], heads)
            return len(dry.LAUNCHES)
        call = x, h0, h0, weights, 0.0, None, "layers"
        resets = torch.ones(1, *x.shape[:2], dtype=torch.bool) if form == "resets" else None
        op.lstm(*call, False, not_reset=resets)
        y, _, _, h, c, gates = op.lstm(*call, True, not_reset=resets)
        op.lstm_backward(y, h0, h0, *call, y, h, c, gates, True, not_reset=resets)
    return len(dry.LAUNCHES)


def compile_blocks(x: Tensor, h0: Tensor, heads: int) -> None:
    """Launch what a GRU's heads do."""
    from fused_lstm.triton.heads import recurrence, recurrence_backward

    (T, B), H = x.shape[:2], h0.shape[-1]
    K = H // heads
    x_part, w_hh = x.new_zeros(T, B, 3 * H), x.new_zeros(heads, 3 * K, K)
    given = h0, h0, w_hh, x.new_zeros(H)
    recurrence(x_part, *given, "gru", False)
    y, h_n, _, c, gates = recurrence(x_part, *given, "gru", True)
    recurrence_backward(y, h_n, None, *given, y, c, gates, "gru")


def main(device: str, shapes: str) -> int:
    """Compile all of them; say how each went."""
    jobs = json.loads(shapes)
    spawned = get_context("spawn")  # torch's and triton's threads do not survive a fork
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, spawned, prepare, (json.loads(device),)) as pool:
        for (precision, shape, form, _), job in [(j, pool.submit(compile_one, *j)) for j in jobs]:
            name = f"{precision} {' '.join(map(str, shape))} {form}"
            try:
                say(name, "compiled", kernels=job.result())
            except Exception as error:
                say(name, "failed", why=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
