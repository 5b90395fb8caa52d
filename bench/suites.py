"""What `python -m bench NAME` measures: suites as data, and how each kind is run."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import contenders as who
from . import core
from .cases import CASES, Case, Shape, make_problem
from .contenders import BASE, LOOP, Contender
from .core import Group, Pace, Record, measure
from .counts import count
from .lstm import MODES, Local
from .machine import Peaks
from .peers import PEERS
from .peers.remote import Remote
from .training import full_float32, make_lesson

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OURS = "native-layers"
ROOT = Path(__file__).parents[1]
Options = argparse.Namespace  # cases, engines, device, dtype, seconds, threads: of __main__


@dataclass(frozen=True)
class Suite:
    """A suite: what runs, on what, how, and who.

    Every combination of `cases`, `dtypes`, `threads` and `neighbours` is a group of its own, in
    which all contenders take turns in all modes. Where `run` is a word and not in RUNS, it is a
    module here with `run(name, suite, options)`, which yields records; `show(records)` may be there
    too, what is printed at the end.
    """

    says: str
    cases: Sequence[Case] = ()
    run: Callable[[str, Suite, Options], Iterable[Record]] | str = "alone"  # or a module's name
    modes: Sequence[str] = ("step",)
    contenders: Callable[[], list[Contender]] = who.highest
    dtypes: Sequence[str] = ("float32",)
    threads: Sequence[int] = ()  # besides those of the command line
    neighbours: Sequence[int] = (0,)  # processes that keep a core busy meanwhile
    calls: int = 1  # of a contender in its turn; beyond 1 p50 and p99 are taken, the first left out
    turn: float = 0.0  # seconds that a turn lasts at least: long enough for the system to interrupt
    counted: bool = False  # launches, bytes and memory too
    pace: Pace = core.PACE
    device: str | None = None  # where it can run nowhere else


def named(*names: str) -> list[Case]:
    return [CASES[name] for name in names]


def of_labels(*labels: str) -> Callable[[], list[Contender]]:
    """Return what picks the contenders with these labels."""
    return lambda: [c for c in who.everyone() if c.label in labels]


def lanes(shapes: Iterable[tuple[int, int]]) -> list[Case]:
    """Return both directions, and rows of unequal length in every form, B = 32, one layer."""
    cases = []
    for T, H in shapes:
        plain = Case(f"T={T}, H={H}", Shape(T, 32, H, H, 1))
        cases.append(replace(plain, name=f"bidirectional, {plain}", bidirectional=True))
        for spread, form in (
            *(("equal", "packed"), ("uniform", "packed")),
            *(("uniform", "lengths"), ("uniform", "padded")),
        ):
            cases.append(
                replace(plain, name=f"{spread}, {form}, {plain}", spread=spread, form=form)
            )
    return cases


def sweep(start: Case, **axes: Sequence[int]) -> list[Case]:
    """Return a case with one dimension changed at a time."""
    return [start.resized(axis, value) for axis, values in axes.items() for value in values]


def short() -> list[Case]:
    """Return calls of one token and of 16, at medium's and large's widths."""
    shapes = [Shape(T, 1, H, H, 2) for H in (650, 1500) for T in (1, 16)]
    return [Case(f"T={s.T}, H={s.H}", s) for s in shapes]


PTB = named("small", "medium", "large")
INFER = of_labels(BASE, OURS, "onnxruntime", "openvino")
SENTENCES = [
    Case(f"sentences, {form}, T=82, H={H}", Shape(82, 32, H, H, 1), spread="sentences", form=form)
    for H in (256, 512)
    for form in ("packed", "lengths", "padded")
]
SUITES = {
    "ladder": Suite("the fusions, one at a time, on one product kernel: counted, predicted, timed",
        named("small", "medium"), "ladder", pace=Pace(48, 5, 60)),
    "post": Suite(
        "the post's own table: words per second of training, TensorFlow, JAX, PyTorch, the fusions",
        named("small", "medium"), "train", modes=("train", "rest"), contenders=who.trainers,
        pace=Pace(20, least=7, longest=100, warmup=1),
    ),
    "lstm": Suite("the LSTM alone, every engine and level, four modes", PTB, modes=MODES,
        contenders=who.engines, counted=True),
    "peers": Suite("the LSTM alone, other systems beside ours", named("small", "medium"),
        modes=("inference", "step"), contenders=who.everyone),
    "inference": Suite("a forward that keeps nothing, beside ONNX Runtime and OpenVINO",
        [*PTB, *named("gnmt", "rnn-t", "deepbench-server", "time-series")],
        modes=("inference",), contenders=INFER, dtypes=("float32", "bfloat16"), pace=Pace(1.5)),
    "shapes": Suite("shapes that others measure", [c for c in CASES.values() if c not in PTB],
        modes=("inference", "step"), pace=Pace(1.0)),
    "native": Suite("the C++ engine, the LSTM alone, the loop and nn.LSTM beside it", PTB,
        modes=("inference", "step"),
        contenders=of_labels(BASE, LOOP, "native-pointwise", "native-steps", OURS),
        dtypes=("float32", "bfloat16"), device="cpu"),
    "steps": Suite("whole training steps, ours beside the post's program; memory", PTB, "train",
        modes=("train",), contenders=lambda: [c for c in who.trainers() if c.label in STEPS],
        dtypes=("float32", "bfloat16"), pace=Pace(12, warmup=2), device="cpu"),
    "short": Suite("calls of a few rows, as text is generated", short(), modes=("inference",),
        contenders=INFER, dtypes=("float32", "bfloat16"), calls=9, pace=Pace(3), device="cpu"),
    "streaming": Suite("one step a call, as a stream is served: p50 and p99",
        [*named("streaming"), *(Case(f"stream of {c}", c.shape._replace(T=1, B=1)) for c in PTB)],
        "streaming", modes=("call",), calls=50, pace=Pace(2, least=8, most=400), device="cpu"),
    "busy": Suite("beside other work that keeps a core busy, or both: p50 and p99",
        [Case("T=100, B=1, H=256", Shape(100, 1, 256, 256, 1)), *named("streaming")],
        modes=("inference",), contenders=INFER, neighbours=(0, 1, 2), calls=4, turn=1.0,
        pace=Pace(4, least=4, warmup=0), device="cpu"),
    "lanes": Suite("both directions, and rows of unequal length",
        [*lanes([(100, 256)]), *SENTENCES[:3]], modes=("inference", "step"), pace=Pace(0.6)),
    "lanes-all": Suite("the same at four sizes: five minutes",
        [*lanes([(T, H) for T in (100, 400) for H in (256, 512)]), *SENTENCES],
        modes=("inference", "step"), pace=Pace(0.6)),
    "scaling": Suite("as T, B, H or L grows", sweep(Case("", Shape(20, 20, 200, 200, 2)),
        T=(5, 10, 20, 40, 80), B=(1, 5, 10, 40, 80), H=(64, 128, 256, 512, 1024, 2048), L=(1, 4)),
        pace=Pace(1.0, least=3)),
    "threads": Suite("as threads are added", PTB, threads=(1, 2, 4, 8), pace=Pace(1.0, least=3),
        device="cpu"),
    "cells": Suite("cells that cuDNN does not have, beside the plain one, their loops and Keras",
        named("small", "medium"), "cells", pace=Pace(20)),
    "slstm": Suite("the sLSTM beside xLSTM's own PyTorch cell, eager and compiled, in heads",
        [Case(f"T={T}, B={B}, H={H}", Shape(T, B, H, H, 1))
         for T in (256, 2048) for B in (1, 16) for H in (512, 768)],
        "slstm", modes=("inference", "step"), threads=(1, 2), pace=Pace(1.0, least=3, longest=8)),
    "samples": Suite("gradients of each sample, beside Opacus's DPLSTM", named("small"), "samples",
        modes=("backward",), pace=Pace(10), device="cpu"),
    "parts": Suite("where a training step's time goes", PTB, "parts", device="cpu"),
    "products": Suite("each matrix product of the C++ engine by itself", PTB, "products",
        pace=Pace(0.5, least=3), device="cpu"),
    "accuracy": Suite("how near the C++ engine's results are to float64's, beside PyTorch's",
        named("medium"), "accuracy", device="cpu"),
    "models": Suite("models that people run, converted", run="models"),
    "gpu": Suite("on a machine with a GPU: compile, test and race all kernels", PTB, "gpu.suite",
        pace=Pace(1.5), device="cuda"),
}  # fmt: skip
STEPS = ("stock-cudnn", "stock-loop-none", OURS)
# `make bench`: within 8 minutes on two cores, where no peer is installed.
DEFAULT = ("lstm", "post", "lanes", "scaling", "short", "streaming", "busy")


def available(name: str) -> bool:
    """Return whether a suite's module is there."""
    run = SUITES[name].run
    return not isinstance(run, str) or run in RUNS or bool(importlib.util.find_spec(f"bench.{run}"))


def start(name: str, options: Options) -> Iterator[Record]:
    """Run a suite, a record after another."""
    suite = SUITES[name]
    suite = replace(
        suite,
        cases=options.cases or suite.cases,
        dtypes=(options.dtype,) if options.dtype else suite.dtypes,
        pace=replace(suite.pace, seconds=options.seconds or suite.pace.seconds),
        turn=min(suite.turn, options.seconds or suite.turn),
    )
    run = suite.run
    if isinstance(run, str):
        run = RUNS.get(run) or importlib.import_module(f"bench.{run}").run
    yield from run(name, suite, options)


def entered(
    suite: Suite, options: Options, case: str, dtype: str = "float32"
) -> tuple[list[Contender], dict[str, str]]:
    """Return who runs and, label -> why, who cannot; nn.LSTM runs too, asked for or not."""
    known = suite.contenders()
    if options.engines and options.engines != "all":
        known = who.choose(options.engines.split(","), known)
    elif not options.engines:
        known = [c for c in known if who.in_default_run(c, case)]
    bases = [c for c in suite.contenders() if c.label in (BASE, f"stock-{BASE}")]
    known = bases + [c for c in known if c not in bases]
    whys = {c.label: why_not(c, options.device, dtype) for c in known}
    able = [c for c in known if not whys[c.label]]
    return able, {label: why for label, why in whys.items() if why}


def why_not(contender: Contender, device: torch.device, dtype: str) -> str | None:
    """Return why a contender is not timed there in a dtype; None if it can be."""
    if contender.peer and dtype not in PEERS[contender.engine].dtypes:
        return f"does not run in {dtype} here"
    return who.why_not(contender, device)


def absent(
    name: str, case: str, mode: str, whys: dict[str, str], device: torch.device
) -> list[Record]:
    """Return a record for each who cannot run, with the reason."""
    common = core.surroundings(device) | {"suite": name, "case": case, "mode": mode}
    return [Record(contender=label, why=why, **common) for label, why in whys.items()]


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many cores busy with processes of no use."""
    burn = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(burn) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# --- an LSTM alone ---


def alone(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Run cases of an LSTM alone."""
    threads = sorted({n for n in suite.threads if n < options.threads} | {options.threads})
    peaks = Peaks(options.device) if suite.counted else None
    for case in suite.cases:
        for dtype in suite.dtypes:
            problem = make_problem(case, options.device, DTYPES[dtype])
            able, whys = entered(suite, options, case.name, dtype)
            yield from absent(name, case.name, suite.modes[0], whys, options.device)
            for n in threads:
                torch.set_num_threads(n)
                yield from _alone(name, suite, problem, able, peaks)
    torch.set_num_threads(options.threads)


def _alone(name: str, suite: Suite, problem: Any, able: list[Contender], peaks: Peaks | None):
    """Run a problem on the threads that are set, with no neighbours first and then with some."""
    build = {c.label: partial(Remote if c.peer else Local, c, problem) for c in able}
    group = Group(problem, build)
    if suite.calls > 1:
        for label, runner in group.runners.items():
            group.runners[label] = core.InBursts(runner, suite.calls, suite.turn)
    if peaks is not None:
        peaks.measure()
    for count_of in suite.neighbours:

        def extra(label: str, mode: str, seconds: list[float], beside: int = count_of) -> dict:
            facts = facts_of(problem, mode) | (
                {"neighbours": beside} if suite.neighbours[1:] else {}
            )
            runner: Any = group.runners[label]
            if suite.calls > 1:
                facts |= runner.percentiles(mode, len(seconds))
            if peaks is not None and isinstance(runner, Local):
                work, setup = runner.work(mode)
                facts |= count(work, problem.device, setup)
                facts |= {"peak_gflops": peaks.gflops, "peak_gigabytes": peaks.gigabytes}
            return facts

        conditions = f"{count_of} busy neighbours" if count_of else ""
        place = problem.device, problem.dtype, conditions
        with neighbours(count_of):
            records = measure(
                name, problem.case.name, group, suite.modes, suite.pace, *place, extra
            )
        yield from records
    group.close()


def facts_of(problem: Any, mode: str) -> dict[str, Any]:
    """Return what a record says of a problem."""
    case = problem.case
    return {
        "shape": case.shape._asdict(), "form": case.form, "bidirectional": case.bidirectional,
        "tokens": problem.tokens, "flops": problem.flops(mode),
    }  # fmt: skip


# --- training steps ---


def train(name: str, suite: Suite, options: Options) -> Iterator[Record]:
    """Run whole training steps; everybody is checked before anybody is timed."""
    from .training import Learner

    with full_float32():
        groups = {}
        for case in suite.cases:
            able, whys = entered(suite, options, case.name)
            yield from absent(name, case.name, "train", whys, options.device)
            for dtype in suite.dtypes:
                autocast = None if dtype == "float32" else DTYPES[dtype]
                lesson = make_lesson(case.name, options.device, autocast)
                few = [c for c in able if autocast is None or not (c.peer or c.engine == "loop")]
                build = {c.label: partial(Remote if c.peer else Learner, c, lesson) for c in few}
                print(f"{case}, {dtype}: {', '.join(build)}", file=sys.stderr, flush=True)
                groups[case.name, dtype] = Group(lesson, build, tolerate=autocast)
        for (case_name, dtype), group in groups.items():
            yield from measure(
                name, case_name, group, suite.modes, suite.pace, options.device, DTYPES[dtype],
                extra=partial(learned, group, case_name, name == "steps"),
            )  # fmt: skip
            group.close()


def learned(
    group: Group, case: str, memory: bool, label: str, mode: str, seconds: list[float]
) -> dict[str, Any]:
    """Return what a record says of a learner: words, losses and, inside a step, its LSTM's time."""
    lesson: Any = group.work
    runner = group.runners[label]
    facts = {"shape": lesson.shape._asdict(), "tokens": lesson.shape.tokens}
    facts["losses"] = group.losses[label]
    if mode == "train" and hasattr(runner, "lstm_seconds"):
        facts["lstm_seconds"] = core.rounded(runner.lstm_seconds[-len(seconds) :])
    if memory and case == "medium" and lesson.autocast is None:
        words = "bench.training", label, case, str(torch.get_num_threads())
        command = [sys.executable, "-m", *words]
        said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        facts["memory"] = int(said.stdout) if said.stdout.strip().isdigit() else None
    return facts


RUNS = {"alone": alone, "train": train}
