"""`python -m bench.cpu`: the native engine against stock PyTorch on this machine's CPU.

The LSTM alone against nn.LSTM (oneDNN) and the step loop; whole training steps against the 2017
post's program in stock PyTorch (bench.learner), both under autocast too; a step's memory. Answers
are checked before anything is timed, contenders take turns within a round, and a ratio is one of
medians, with the quartiles of the ratios within a round behind it. `--keep-memory` takes from the
times what mapping memory costs: see bench.pages. `--isa avx2` keeps all contenders, torch and its
libraries too, to what a CPU without AVX-512 has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import fused_lstm

from .check import require_right
from .contenders import Contender
from .learner import Learner
from .lesson import make_lesson
from .local import Local
from .machine import describe, in_a_line
from .pages import KEEP, Counted
from .timing import Timed, interleave, quartiles
from .work import SIZES, make_problem

CPU = torch.device("cpu")
STOCK, LOOP, OURS = "nn.LSTM", "loop", "native"
RUNGS = [Contender(f"native {fuse}", "native", fuse) for fuse in ("pointwise", "steps", "layers")]
LEARNERS = {
    STOCK: Contender(STOCK, "cudnn", None, stock=True),
    LOOP: Contender(LOOP, "loop", "none", stock=True),
    OURS: Contender(OURS, "native", None),
}
LSTMS = [Contender(STOCK, "cudnn", None), Contender(LOOP, "loop", "none"), *RUNGS]

# (what, against) -> at least this at each size, and what is aimed at.
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


# --- measurements ---


def checked(contenders: Mapping[str, Any], rounded: torch.dtype | None = None) -> dict[str, float]:
    """The largest error of each one's answer; check.WrongAnswer where one is wrong."""
    answers = {name: contender.answer() for name, contender in contenders.items()}
    return {n: require_right(n, answer, answers[STOCK], rounded) for n, answer in answers.items()}


def measure_lstm(size: str, seconds: float) -> list[dict]:
    problem = make_problem(SIZES[size])
    contenders = {c.label: Local(c, problem) for c in LSTMS}
    checked(contenders)
    found = []
    for what, mode in MODES.items():
        cases = {n: c.timed(mode) for n, c in contenders.items()}
        samples, pages = take_turns(cases, seconds)
        found.append(entry(what, size, samples, pages, flops=SIZES[size].flops(mode)))
    return found


def measure_training(
    size: str, seconds: float, text: str | None, autocast: torch.dtype | None = None
) -> dict:
    """Of all learners, or under autocast of stock PyTorch's and ours."""
    lesson = make_lesson(size, CPU, text, autocast)
    names = LEARNERS if autocast is None else (STOCK, OURS)
    contenders = {n: Learner(LEARNERS[n], lesson) for n in names}
    checked(contenders, autocast)
    cases = {n: c.timed("train") for n, c in contenders.items()}
    samples, pages = take_turns(cases, seconds, warmup=2)
    what = "training step" if autocast is None else "training step, bf16"
    return entry(what, size, samples, pages, words=lesson.words)


def take_turns(
    cases: Mapping[str, Timed], seconds: float, warmup: int = 1
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """What timing.interleave returns, and the median of the pages that a call mapped, by name."""
    counted = {name: Counted(case) for name, case in cases.items()}
    samples = interleave(counted, seconds, warmup=warmup)
    return samples, {name: statistics.median(case.pages) for name, case in counted.items()}


def entry(
    what: str, size: str, samples: dict[str, list[float]], pages: dict[str, float], **work: int
) -> dict:
    """A measurement as it goes into the file; `work` is a call's flops or words."""
    return {"what": what, "size": size, "samples": samples, "pages": pages, **work}


def measure_memory(size: str, text: str | None) -> dict[str, float | None]:
    """MiB at the peak of a training step, beyond what was there before, each in its own process."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "bench.cpu", "--size", size, "--threads", threads]
    command += [] if text is None else ["--data", text]
    found = {}
    for name in (STOCK, OURS):
        done = subprocess.run([*command, "--memory-of", name], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"memory of {name}: {done.stderr.strip()[-500:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(name: str, size: str, text: str | None) -> float | None:
    """In a process of its own. Linux only: None elsewhere."""
    training = Learner(LEARNERS[name], make_lesson(size, CPU, text))
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        for _ in range(3):
            training.step()
        return (_status("VmHWM") - before) / 1024
    except (OSError, StopIteration):
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


# --- what is printed ---


def ratio_rows(found: dict) -> list[tuple[str, str, str, float, tuple, float, float]]:
    """(what, size, against, ratio, quartiles, floor, target) of a measurement."""
    samples, rows = found["samples"], []
    ours = samples.get(OURS) or samples[RUNGS[-1].label]
    for (what, against), (floors, target) in GOALS.items():
        if what != found["what"]:
            continue
        theirs = samples[against]
        ratio = quartiles(theirs).median / quartiles(ours).median
        spread = quartiles([t / o for t, o in zip(theirs, ours, strict=True)])
        floor = floors[list(SIZES).index(found["size"])]
        rows.append((what, found["size"], against, ratio, spread, floor, target))
    return rows


def print_ratios(found: dict) -> None:
    for what, size, against, ratio, spread, floor, target in ratio_rows(found):
        verdict = "target" if ratio >= target else "floor" if ratio >= floor else "BELOW"
        quarters = f"{spread.q1:.2f} to {spread.q3:.2f}"
        goal = f"{floor:g} / {target:g}"
        print(f"{what:20}{size:8}{against:9}{ratio:6.2f}  {quarters:14}{goal:12}{verdict}")


def print_times(found: dict) -> None:
    for name, sample in found["samples"].items():
        q1, median, q3 = (1000 * q for q in quartiles(sample))
        rate = f"{found['flops'] / median / 1e6:8.0f} GF/s" if "flops" in found else ""
        if "words" in found:
            rate = f"{1000 * found['words'] / median:8.0f} words/s"
        times = f"{median:9.2f} ms ({q1:.2f} to {q3:.2f})"
        pages = f"{found['pages'][name]:9.0f} pages"
        print(f"{found['what']:20}{found['size']:8}{name:18}{times:36}{rate:17}{pages}")


def common_parser(name: str, about: str, seconds: float) -> argparse.ArgumentParser:
    """The options of this command and of bench.cpu_scaling; `seconds` by default."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    add = parser.add_argument
    add("--seconds", type=float, default=seconds, help="of each measurement, or a few rounds")
    add("--threads", type=int, default=torch.get_num_threads(), help="PyTorch's")
    add("--json", type=Path, default=Path(f"out/{name}.json"), help="where the figures go")
    return parser


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("cpu", __doc__, seconds=12.0)
    add = parser.add_argument
    add("--size", action="append", choices=list(SIZES), help="only this one; may be given again")
    add("--data", help="a text, as lm.train's; without one, 10,000 words drawn at random")
    about = "in a process whose freed memory is kept: glibc's, see bench.pages"
    add("--keep-memory", action="store_true", help=about)
    add("--isa", choices=list(ISAS), help="keep all contenders to this instruction set")
    add("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def wanted_environment(given: argparse.Namespace) -> dict[str, str]:
    """What the environment must have when the process starts that measures what is asked for."""
    return (KEEP if given.keep_memory else {}) | (ISAS[given.isa] if given.isa else {})


def may_run(name: str, given: argparse.Namespace) -> bool:
    """Whether a command can do what was asked; one line on stderr says why not."""
    why = fused_lstm.available_engines(CPU)["native"]
    if why is not None:
        why = f"the native engine cannot run here: {why}"
    if given.threads < 1:
        why = f"--threads must be at least 1, got {given.threads}"
    if why is not None:
        print(f"bench.{name}: {why}", file=sys.stderr)
    return why is None


def save(result: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    print(f"figures: {path}")


def run(given: argparse.Namespace, say: Callable[[str], None] = print) -> dict:
    """Everything that was measured, as it goes into the file."""
    machine = describe(CPU)
    say(in_a_line(machine))
    say(f"native: {machine['engines']['native']}\n")
    found, sizes = [], given.size or list(SIZES)
    for size in sizes:
        found += measure_lstm(size, given.seconds)
        for autocast in (None, torch.bfloat16):
            found.append(measure_training(size, given.seconds, given.data, autocast))
        for measured in found[-4:]:
            print_times(measured)
    say(f"\n{'':20}{'size':8}{'against':9}{'ratio':>6}  {'quartiles':14}{'floor/target':12}")
    for measured in sorted(found, key=lambda m: m["what"]):
        print_ratios(measured)
    size = "medium" if "medium" in sizes else sizes[0]
    memory = measure_memory(size, given.data)
    if None not in memory.values():
        part = memory[OURS] / memory[STOCK]
        says = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items())
        say(f"\npeak of a training step, {size}: {says}: {part:.2f} of stock's")
    return {"machine": machine, "measured": found, "memory_mib": {size: memory}}


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    if not may_run("cpu", given):
        return 2
    wanted = wanted_environment(given)
    if wanted.items() - os.environ.items():
        again = sys.argv[1:] if argv is None else argv
        command = [sys.executable, "-m", "bench.cpu", *again]
        return subprocess.run(command, env=os.environ | wanted).returncode
    torch.set_num_threads(given.threads)
    if given.memory_of is not None:
        print(json.dumps(memory_of(given.memory_of, given.size[0], given.data)))
        return 0
    save(run(given), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
