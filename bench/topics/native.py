"""The native engine against stock PyTorch on this machine's CPU.

The LSTM alone against nn.LSTM (oneDNN) and the step loop; whole training steps against the 2017
post's program in stock PyTorch (bench.training); a step's memory. nn.LSTM's and the post's program
are raced in bfloat16 too (a training step under autocast) and, on a CPU with AMX, in float32 with
PyTorch's switches at "tf32". Answers are checked before anything is timed, contenders take turns
within a round, and a ratio is one of medians, with the quartiles of the ratios within a round
behind it. `--keep-memory` takes from the times what mapping memory costs (measure/memory.py).
`--isa avx2` keeps all contenders, torch and its libraries too, to what a CPU without AVX-512 has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

import fused_lstm

from ..alone import SIZES as PRESETS
from ..alone import Local, make_problem
from ..contenders import BASE, LOOP, NAMES, NN_LSTM, Contender
from ..measure.memory import KEEP, peak_mib
from ..measure.switches import onednn_float32
from ..rows import CPU, DEVICE, OURS, check, show, take_turns, why_not
from ..training import Learner, make_lesson

__all__ = ["DEVICE", "SECONDS", "SIZES", "elsewhere", "options", "run", "why_not"]

SIZES, SECONDS = tuple(PRESETS), 12.0
RUNGS = [Contender(f"native-{fuse}", "native", fuse) for fuse in ("pointwise", "steps", "layers")]
LSTMS = [NN_LSTM, Contender(LOOP, "loop", "none"), *RUNGS]
LEARNERS = {
    BASE: Contender(BASE, "cudnn", stock=True),
    LOOP: Contender(LOOP, "loop", "none", stock=True),
    OURS: RUNGS[-1],
}

# (what, against) -> how many times as fast ours is to be at least, at each size, and aims to be;
# the second table where the CPU has AMX.
GOALS = {
    ("forward + backward", BASE): ((1.3, 1.3, 1.3), 1.5),
    ("forward + backward", LOOP): ((3.0, 3.0, 5.0), 5.0),
    ("forward, no_grad", BASE): ((1.05, 1.05, 1.05), 1.2),
    ("training step", BASE): ((1.6, 1.6, 1.6), 2.0),
    ("training step", LOOP): ((2.0, 2.0, 2.0), 3.0),
    ("training step, bf16", BASE): ((2.0, 2.0, 2.0), 3.0),
}
AMX_GOALS = {
    ("forward + backward, bf16", BASE): ((2.0, 2.5, 3.0), 5.0),
    ("forward, no_grad, bf16", BASE): ((1.5, 1.5, 1.5), 2.0),
    ("forward + backward, tf32", BASE): ((1.8, 1.8, 1.8), 2.4),
    ("forward, no_grad, tf32", BASE): ((1.5, 1.5, 1.5), 3.0),
    ("training step, tf32", BASE): ((2.0, 2.0, 2.0), 3.0),
}
MODES = {"forward + backward": "step", "forward, no_grad": "inference"}

# Instruction set -> what keeps everyone to it, in the environment of a process when it starts.
ISAS = {
    "avx2": {
        "FUSED_LSTM_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
}


def has_amx() -> bool:
    return "amx" in fused_lstm.native.OPS.isa_names()


def goals_of(what: str, size: str) -> dict[str, tuple[float, float]]:
    """Against whom -> the floor and the target of a row's ratio."""
    goals, place = GOALS | (AMX_GOALS if has_amx() else {}), list(PRESETS).index(size)
    mine = {against: goal for (name, against), goal in goals.items() if name == what}
    return {against: (floors[place], top) for against, (floors, top) in mine.items()}


def named(what: str, numbers: str, size: str) -> dict[str, Any]:
    """What a row is called, of float32 without saying so, and its goals."""
    what = what if numbers == "float32" else f"{what}, {numbers}"
    return {"what": what, "size": size, "goals": goals_of(what, size)}


def racing(contenders: Sequence[Contender], numbers: str) -> list[Contender]:
    """All of them in float32, elsewhere stock PyTorch's and ours."""
    return [c for c in contenders if numbers == "float32" or c.label in (BASE, OURS)]


def measure_lstm(size: str, seconds: float, numbers: str = "float32") -> list[dict[str, Any]]:
    """`numbers` is "float32", "bf16", of tensors, or "tf32", of the switch."""
    shape, dtype = PRESETS[size], torch.bfloat16 if numbers == "bf16" else torch.float32
    problem = make_problem(shape, dtype=dtype)
    runners = {c.label: Local(c, problem) for c in racing(LSTMS, numbers)}
    check(runners)
    found = []
    for what, mode in MODES.items():
        cases, flops = {n: r.timed(mode) for n, r in runners.items()}, shape.flops(mode)
        found.append(take_turns(cases, seconds, flops=flops, **named(what, numbers, size)))
    return found


def measure_training(
    size: str, seconds: float, text: str | None, numbers: str = "float32"
) -> dict[str, Any]:
    """The same of whole training steps; "bf16" is autocast.

    Answers are compared on words drawn at random: a text's gradients are clipped from the first
    step, and the norm that PyTorch takes of them in float32 on a CPU is off by up to 3e-4.
    """
    autocast = torch.bfloat16 if numbers == "bf16" else None
    learners = racing(list(LEARNERS.values()), numbers)

    def enter(text: str | None) -> dict[str, Learner]:
        lesson = make_lesson(size, CPU, text, autocast)
        return {c.label: Learner(c, lesson) for c in learners}

    check(runners := enter(None), autocast)
    if text is not None:
        runners = enter(text)
    cases = {n: r.timed("train") for n, r in runners.items()}
    about = named("training step", numbers, size)
    return take_turns(cases, seconds, warmup=2, words=runners[OURS].lesson.words, **about)


def measure_memory(size: str, text: str | None) -> dict[str, float | None]:
    """MiB at the peak of a training step, beyond what was there before, each in its own process."""
    command = [sys.executable, "-m", "bench", "native", "--sizes", size]
    command += ["--threads", str(torch.get_num_threads())]
    command += [] if text is None else ["--data", text]
    found = {}
    for name in (BASE, OURS):
        done = subprocess.run([*command, "--memory-of", name], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"memory of {name}: {done.stderr.strip()[-500:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(name: str, size: str, text: str | None) -> float | None:
    """In a process of its own."""
    learner = Learner(LEARNERS[name], make_lesson(size, CPU, text))
    for parameter in learner.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return peak_mib(lambda: [learner.step() for _ in range(3)])


def options(add: Callable) -> None:
    add("--data", help="a text, as lm.train's; without one, 10,000 words drawn at random")
    add("--keep-memory", action="store_true", help="in a process whose freed memory is kept")
    add("--isa", choices=list(ISAS), help="keep all contenders to this instruction set")
    add("--memory-of", help=argparse.SUPPRESS)


def elsewhere(given: argparse.Namespace, argv: Sequence[str]) -> int | None:
    """What must be so when a process starts is another process's; its status."""
    wanted = (KEEP if given.keep_memory else {}) | (ISAS[given.isa] if given.isa else {})
    if wanted.items() - os.environ.items():
        again = [sys.executable, "-m", "bench", *argv]
        return subprocess.run(again, env=os.environ | wanted).returncode
    if given.memory_of is not None:
        print(json.dumps(memory_of(given.memory_of, given.sizes[0], given.data)))
        return 0
    return None


def numbers_of(isa: str | None) -> list[str]:
    """What is raced; oneDNN has no LSTM of bfloat16 where it is kept to AVX2."""
    return ["float32"] if isa else ["float32", "bf16", *(["tf32"] if has_amx() else [])]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    found = []
    for size in given.sizes:
        for numbers in numbers_of(given.isa):
            with onednn_float32("tf32" if numbers == "tf32" else "ieee"):
                found += map(show, measure_lstm(size, given.seconds, numbers))
                found.append(show(measure_training(size, given.seconds, given.data, numbers)))
    size = "medium" if "medium" in given.sizes else given.sizes[0]
    memory = measure_memory(size, given.data)
    if (ours := memory[OURS]) is not None and (stock := memory[BASE]) is not None:
        says = ", ".join(f"{NAMES.get(name, name)} {mib:.0f} MiB" for name, mib in memory.items())
        print(f"\npeak of a training step, {size}: {says}: {ours / stock:.2f} of stock's")
    return {"measured": found, "memory_mib": {size: memory}}
