"""The native engine against stock PyTorch on this machine's CPU.

The LSTM alone against nn.LSTM (oneDNN) and the step loop; whole training steps against the 2017
post's program in stock PyTorch (bench.training), both under autocast too; a step's memory. Answers
are checked before anything is timed, contenders take turns within a round, and a ratio is one of
medians, with the quartiles of the ratios within a round behind it. `--keep-memory` takes from the
times what mapping memory costs (measure/memory.py). `--isa avx2` keeps all contenders, torch and
its libraries too, to what a CPU without AVX-512 has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import fused_lstm

from ..alone import SIZES as PRESETS
from ..alone import Local, make_problem
from ..contenders import Contender
from ..measure.check import require_right
from ..measure.memory import KEEP, Counted, peak_mib
from ..measure.timing import Timed, interleave, quartiles
from ..training import Learner, make_lesson

SIZES, SECONDS, DEVICE = tuple(PRESETS), 12.0, "cpu"
CPU = torch.device("cpu")
STOCK, LOOP, OURS = "cudnn", "loop-none", "native-layers"
RUNGS = [Contender(f"native-{fuse}", "native", fuse) for fuse in ("pointwise", "steps", "layers")]
LSTMS = [Contender(STOCK, "cudnn"), Contender(LOOP, "loop", "none"), *RUNGS]
LEARNERS = {
    STOCK: Contender(STOCK, "cudnn", stock=True),
    LOOP: Contender(LOOP, "loop", "none", stock=True),
    OURS: Contender(OURS, "native", "layers"),
}
CALLED = {STOCK: "nn.LSTM", LOOP: "loop"}  # what a reader calls them

# (what, against) -> how many times as fast ours is to be at least, at each size, and aims to be.
GOALS = {
    ("forward + backward", STOCK): ((1.3, 1.3, 1.3), 1.5),
    ("forward + backward", LOOP): ((3.0, 3.0, 5.0), 5.0),
    ("forward, no_grad", STOCK): ((1.05, 1.05, 1.05), 1.2),
    ("training step", STOCK): ((1.6, 1.6, 1.6), 2.0),
    ("training step", LOOP): ((2.0, 2.0, 2.0), 3.0),
    ("training step, bf16", STOCK): ((2.0, 2.0, 2.0), 3.0),
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

# --- measurements: what scaling and short measure with, too ---


def why_not(device: torch.device) -> str | None:
    """Why the native engine cannot be timed on a device."""
    if device.type != "cpu":
        return f"--device {device}: the native engine runs on cpu"
    why = fused_lstm.available_engines(CPU)["native"]
    return why and f"the native engine cannot run here: {why}"


def check(runners: Mapping[str, Any], rounded: torch.dtype | None = None) -> None:
    """WrongAnswer where one's is not nn.LSTM's; of who only infers no gradients are asked for."""
    answers = {name: runner.answer() for name, runner in runners.items()}
    for name, runner in runners.items():
        infers, right = set(runner.modes) == {"inference"}, answers[STOCK]
        wanted = {key: t for key, t in right.items() if not (infers and key.endswith(".grad"))}
        require_right(name, answers[name], wanted, rounded)


def take_turns(
    what: str, cases: Mapping[str, Timed], seconds: float, warmup: int = 1, **about: Any
) -> dict[str, Any]:
    """A row: each one's rounds in seconds, and the pages that its median call mapped.

    `about` says what a call is: "size" or "shape", and "flops", "words" or "bytes" of a call.
    """
    counted = {name: Counted(case) for name, case in cases.items()}
    samples = interleave(counted, seconds, warmup=warmup)
    pages = {name: statistics.median(case.pages) for name, case in counted.items()}
    return {"what": what, **about, "samples": samples, "pages": pages}


def goals_of(row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Against whom -> the floor and the target of a row's ratio."""
    if "goals" in row:
        return row["goals"]
    places = {size: n for n, size in enumerate(PRESETS)}
    mine = {against: goal for (what, against), goal in GOALS.items() if what == row["what"]}
    return {against: (floors[places[row["size"]]], top) for against, (floors, top) in mine.items()}


def lines(row: Mapping[str, Any]) -> list[str]:
    """A line for each contender: its time, its rate, and how many times as fast ours is."""
    samples, goals = row["samples"], goals_of(row)
    ours = samples.get(OURS)
    found = []
    for name, sample in samples.items():
        q1, median, q3 = quartiles(sample)
        said = f"{row['what']:20}{row.get('size') or row['shape']:15}{CALLED.get(name, name):17}"
        said += f"{f'{1e3 * median:.3f} ms ({1e3 * q1:.3f} to {1e3 * q3:.3f})':34}"
        for key, unit, scale in (
            ("flops", "GF/s", 1e9), ("words", "words/s", 1), ("bytes", "GB/s", 1e9)
        ):  # fmt: skip
            said += f"{row[key] / median / scale:8.0f} {unit}" if key in row else ""
        said += f"{row['pages'][name]:9.0f} pages"
        if ours and name != OURS:
            ratio = median / quartiles(ours).median
            low, _, high = quartiles([t / o for t, o in zip(sample, ours, strict=True)])
            said += f"   ours x {ratio:.2f} ({low:.2f} to {high:.2f})"
            if name in goals:
                floor, target = goals[name]
                verdict = "target" if ratio >= target else "floor" if ratio >= floor else "BELOW"
                said += f", of {floor:g} / {target:g}: {verdict}"
        found.append(said)
    return found


def show(row: dict[str, Any], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Print a row; the row."""
    say("\n".join(lines(row)))
    return row


# --- this topic ---


def measure_lstm(size: str, seconds: float) -> list[dict[str, Any]]:
    problem, shape = make_problem(PRESETS[size]), PRESETS[size]
    runners = {c.label: Local(c, problem) for c in LSTMS}
    check(runners)
    found = []
    for what, mode in MODES.items():
        cases, flops = {n: r.timed(mode) for n, r in runners.items()}, shape.flops(mode)
        found.append(take_turns(what, cases, seconds, size=size, flops=flops))
    return found


def measure_training(
    size: str, seconds: float, text: str | None, autocast: torch.dtype | None = None
) -> dict[str, Any]:
    """Of all learners, or under autocast of stock PyTorch's and ours."""
    lesson = make_lesson(size, CPU, text, autocast)
    names = LEARNERS if autocast is None else (STOCK, OURS)
    runners = {n: Learner(LEARNERS[n], lesson) for n in names}
    check(runners, autocast)
    what = "training step" if autocast is None else "training step, bf16"
    cases = {n: r.timed("train") for n, r in runners.items()}
    return take_turns(what, cases, seconds, 2, size=size, words=lesson.words)


def measure_memory(size: str, text: str | None) -> dict[str, float | None]:
    """MiB at the peak of a training step, beyond what was there before, each in its own process."""
    command = [sys.executable, "-m", "bench", "native", "--sizes", size]
    command += ["--threads", str(torch.get_num_threads())]
    command += [] if text is None else ["--data", text]
    found = {}
    for name in (STOCK, OURS):
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


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, as it goes into the file."""
    found = []
    for size in given.sizes:
        found += map(show, measure_lstm(size, given.seconds))
        for autocast in (None, torch.bfloat16):
            found.append(show(measure_training(size, given.seconds, given.data, autocast)))
    size = "medium" if "medium" in given.sizes else given.sizes[0]
    memory = measure_memory(size, given.data)
    if (ours := memory[OURS]) is not None and (stock := memory[STOCK]) is not None:
        says = ", ".join(f"{CALLED.get(name, name)} {mib:.0f} MiB" for name, mib in memory.items())
        print(f"\npeak of a training step, {size}: {says}: {ours / stock:.2f} of stock's")
    return {"measured": found, "memory_mib": {size: memory}}
