"""Every kernel that tests and races launch, compiled beforehand, on all cores and without the GPU.

`python -m bench.gpu.compiling DEVICE RACES` both as JSON: Triton's cache then has them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from typing import Any

import torch

from .. import contenders
from . import dry, racing, testing
from .racing import PRECISIONS, GpuRace
from .watching import CUT_OFF, say, watch

LONGEST = 16  # steps: a kernel does not know T, but how H * T is aligned it does


def compiled_of(races: Iterable[GpuRace]) -> list[dict[str, Any]]:
    """Return the races' fields, with few steps; each of what is compiled once."""
    short = (replace(race, shape=(min(race.shape[0], LONGEST), *race.shape[1:])) for race in races)
    jobs = {}
    for race in short:
        fields = asdict(race)
        kind = [v for k, v in fields.items() if k not in ("name", "published", "modes")]
        jobs[json.dumps(kind)] = fields
    return list(jobs.values())


def compile_in_time(device: Any, races: Iterable[GpuRace], deadline: float) -> dict:
    """Compile what races launch for `device`, in processes of their own: kernels, seconds."""
    return _compiled(
        "compiling", [json.dumps(asdict(device)), json.dumps(compiled_of(races))], deadline
    )


def compile_tests(device: Any, deadline: float, tests: Sequence[str] = testing.TESTS) -> dict:
    """Compile what tests marked gpu launch, by running them without a GPU (dry_tests.py)."""
    words = [json.dumps(asdict(device)), str(os.cpu_count() or 1), *tests]
    return _compiled("dry_tests", words, deadline)


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
    dry.count_compilations()
    vars(contenders)["why_not"] = lambda *_: None  # on a CPU they would not race


def compile_one(fields: dict[str, Any]) -> int:
    """Run our contenders of a race, without a launch; return how many kernels were compiled."""
    race = GpuRace(**fields)
    torch.backends.cudnn.allow_tf32 = PRECISIONS[race.precision][1]
    dry.COMPILED.clear()
    work = racing.work_of_race(race, torch.device("cpu"), ())
    for label, make in work.calls.items():
        if label.startswith("triton"):
            call = make()
            call.modes["inference"]()
            call.modes["step"]()
    return len(dry.COMPILED)


def main(device: str, races: str) -> int:
    """Compile all of them; say how each went."""
    jobs = json.loads(races)
    spawned = get_context("spawn")  # torch's and triton's threads do not survive a fork
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, spawned, prepare, (json.loads(device),)) as pool:
        for fields, job in [(fields, pool.submit(compile_one, fields)) for fields in jobs]:
            name = f"{fields['precision']} {fields['shape']} {fields['form']}"
            try:
                say(name, "compiled", kernels=job.result())
            except Exception as error:
                say(name, "failed", why=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
