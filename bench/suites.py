"""Suites, the data of `python -m bench NAME`, and the one loop that measures them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import (
    adopted,
    cells,
    custom,
    inference,
    kernelbench,
    ladder,
    lstm,
    machine,
    models,
    samples,
    slstm,
    streaming,
    training,
    transducer,
)
from . import contenders as who
from .cases import CASES, Case, Shape, grid
from .contenders import BASE, LOOP, OURS, Contender, of_labels
from .core import PACE, Group, Pace, Record, Task, measure, surroundings
from .peers.worker import PAUSED

# What every suite measures, besides the module that prepares it (`code`).
ENGINE = ("kernels/fused_lstm", ":!kernels/fused_lstm/triton", ":!kernels/fused_lstm/tools",
    ":!kernels/fused_lstm/adopt", ":!kernels/fused_lstm/integrations")  # fmt: skip
Options = argparse.Namespace  # cases, engines, device, dtype, seconds, threads: of __main__


@dataclass(frozen=True)
class Suite:
    """A suite: what runs, on what, how, and who.

    `tasks` makes groups of cases and dtypes, in which all contenders take turns in all modes; each
    is measured for all `threads` and `neighbours`.
    """

    says: str
    cases: Sequence[Case] = ()
    tasks: Callable[[Suite, Options], Iterable[Task]] = lstm.tasks
    modes: Sequence[str] = ("step",)
    contenders: Callable[[], list[Contender]] = who.highest
    dtypes: Sequence[str] = ("float32",)
    threads: Sequence[int] = ()  # besides those of the command line
    neighbours: Sequence[int] = (0,)  # processes that keep a core busy meanwhile
    pace: Pace = PACE
    device: str | None = None  # where it can run nowhere else


def named(*names: str) -> list[Case]:
    return [CASES[name] for name in names]


def lanes(shapes: Iterable[tuple[int, int]]) -> list[Case]:
    """Return both directions, and rows of unequal length in every form, B = 32, one layer."""
    cases = []
    for T, H in shapes:
        plain = Case(f"T={T}, H={H}", Shape(T, 32, H, H, 1))
        cases.append(replace(plain, name=f"bidirectional, {plain}", bidirectional=True))
        cases.append(replace(plain, name=f"equal, packed, {plain}", form="packed"))
        for form in ("packed", "lengths", "padded"):
            uneven = replace(plain, spread="uniform", form=form)
            cases.append(replace(uneven, name=f"uniform, {form}, {plain}"))
    return cases


def sweep(start: Case, **axes: Sequence[int]) -> list[Case]:
    """Return a case with one dimension changed at a time."""
    return [start.resized(axis, value) for axis, values in axes.items() for value in values]


def short() -> list[Case]:
    """Return calls of one step, of one row and of four, two layers."""
    shapes = [Shape(1, B, H, H, 2) for H in (64, 256, 650, 1500) for B in (1, 4)]
    return [Case(f"T={s.T}, {'' if s.B == 1 else f'B={s.B}, '}H={s.H}", s) for s in shapes]


def last_step() -> list[Case]:
    """Return calls with a loss on all steps and on the last, of an LSTM and a GRU."""
    shapes = [Shape(200, 32, 64, 64, 1), Shape(300, 20, 32, 256, 2)]
    return [
        Case(f"{cell.upper()}, T={s.T}, B={s.B}, H={s.H}, L={s.L}, {loss}", s, cell=cell, loss=loss)
        for s in shapes
        for cell in ("lstm", "gru")
        for loss in ("all", "last")
    ]


PTB = named("small", "medium", "large")
INFER = of_labels(BASE, OURS, "onnxruntime", "openvino")
SENTENCES = [
    Case(f"sentences, {form}, T=82, H={H}", Shape(82, 32, H, H, 1), spread="sentences", form=form)
    for H in (256, 512)
    for form in ("packed", "lengths", "padded")
]
# The post's program with nn.LSTM and with our layer; the same two with our loss and update.
STEPS = ("stock-cudnn", f"stock-{OURS}", "cudnn", OURS)
SUITES = {
    "ladder": Suite("the fusions, one at a time, on the same products: counted, predicted, timed",
        named("tiny", "small", "medium"), ladder.tasks, pace=Pace(20, least=10, longest=300)),
    "post": Suite(
        "the post's own table: words per second of training, TensorFlow, JAX, PyTorch, the fusions",
        named("small", "medium"), training.tasks, ("train", "rest"), who.trainers,
        pace=Pace(20, least=7, longest=100)),
    "parts": Suite("what `steps` gains over `hoisted`: the recurrent products, packed once or not",
        PTB, ladder.parts, ("products",), pace=Pace(2, least=10), device="cpu"),
    "lstm": Suite("only the LSTM, every engine and level, four modes", PTB[:2], modes=lstm.MODES,
        contenders=who.engines),
    "peers": Suite("only the LSTM, other systems compared with ours", named("small", "medium"),
        modes=("inference", "step"), contenders=who.everyone),
    "inference": Suite("inference, compared with ONNX Runtime and OpenVINO",
        [*PTB, *named("gnmt", "rnn-t", "deepbench-server", "time-series")], inference.tasks,
        modes=("inference",), dtypes=("float32", "bfloat16"), pace=Pace(1.5), device="cpu"),
    "grid": Suite("the same for 120 calls drawn at random, LSTMs and GRUs: half an hour",
        grid(120, seed=36), inference.tasks, modes=("inference",), dtypes=("float32", "bfloat16"),
        pace=Pace(1.0, least=3, calls=5, turn=0.1), device="cpu"),
    "shapes": Suite("shapes that others measure", [c for c in CASES.values() if c not in PTB],
        modes=("inference", "step"), pace=Pace(1.0)),
    "faster": Suite("README's table: the LSTM alone, ours and nn.LSTM", [*PTB,
            *lanes([(100, 256)])[:1], *(c for c in lanes([(100, 256)]) if c.form == "lengths")],
        modes=("inference", "step"), contenders=of_labels(BASE, OURS),
        dtypes=("float32", "bfloat16"), pace=Pace(2.0, least=10, longest=60), device="cpu"),
    "native": Suite("only the LSTM: the C++ engine, the loop and nn.LSTM", PTB,
        modes=("inference", "step"),
        contenders=of_labels(BASE, LOOP, "native-pointwise", "native-steps", OURS),
        dtypes=("float32", "bfloat16"), device="cpu"),
    "steps": Suite("whole training steps, ours and the post's program", PTB, training.tasks,
        ("train",), lambda: [c for c in who.trainers() if c.label in STEPS],
        dtypes=("float32", "bfloat16"), pace=Pace(6, least=10, longest=120), device="cpu"),
    "short": Suite("calls of one step, as text is generated: p50 and p99", short(),
        inference.tasks, modes=("inference",), dtypes=("float32", "bfloat16"),
        pace=Pace(1, least=10, calls=101, longest=60), device="cpu"),
    "int8": Suite("int8 weights: ours, PyTorch's and ONNX Runtime's", short()[2::2],
        inference.int8_tasks, modes=("inference",), pace=Pace(1, least=10, calls=101, longest=120),
        device="cpu"),
    "streaming": Suite("one step per call, as a stream is served: p50 and p99",
        [*named("streaming"), *(Case(f"stream of {c}", c.shape._replace(B=1)) for c in PTB)],
        streaming.tasks, ("call",), pace=Pace(2, least=8, most=400, calls=50), device="cpu"),
    "streaming-prepared": Suite("the same through weights packed once, in each dtype: p50 to worst",
        [Case(f"B={B}, H={H}", Shape(1, B, H, H, 2)) for H in (64, 256, 650) for B in (1, 4)],
        streaming.prepared_tasks, ("call",), threads=(1,),
        pace=Pace(4, least=8, most=400, calls=100), device="cpu"),
    "busy": Suite("while other processes keep one core or both busy: p50 and p99",
        [Case("T=100, B=1, H=256", Shape(100, 1, 256, 256, 1)), *named("streaming")],
        modes=("inference",), contenders=INFER, neighbours=(0, 1, 2),
        pace=Pace(4, least=4, warmup=0, calls=4, turn=1.0), device="cpu"),
    "tail": Suite("one step per call, with and without pauses and busy processes: p50 to worst",
        [Case(f"T=1, B={B}, H={H}", Shape(1, B, H, H, 2)) for H in (64, 256, 650) for B in (1, 4)],
        inference.tasks, ("inference", PAUSED), threads=(1,), neighbours=(0, 1, 2),
        pace=Pace(0, least=10, calls=101, longest=120), device="cpu"),
    "lanes": Suite("both directions, and rows of unequal length",
        [*lanes([(100, 256)]), *SENTENCES[:3]], modes=("inference", "step"), pace=Pace(0.6)),
    "lanes-all": Suite("the same at four sizes: five minutes",
        [*lanes([(T, H) for T in (100, 400) for H in (256, 512)]), *SENTENCES],
        modes=("inference", "step"), pace=Pace(0.6)),
    "last": Suite("the backward of a loss on the last step, which vanishes, and on all steps",
        last_step(), modes=("backward",), contenders=of_labels(BASE, OURS),
        dtypes=("float32", "bfloat16"), threads=(1,), pace=Pace(1.0, least=10, longest=60),
        device="cpu"),
    "scaling": Suite("as T, B, H or L grows", sweep(Case("", Shape(20, 20, 200, 200, 2)),
        T=(5, 10, 20, 40, 80), B=(1, 5, 10, 40, 80), H=(64, 128, 256, 512, 1024, 2048), L=(1, 4)),
        pace=Pace(1.0, least=10)),
    "threads": Suite("as threads are added", PTB, threads=(1, 2, 4, 8), pace=Pace(1.0, least=10),
        device="cpu"),
    "cells": Suite("cells that cuDNN lacks, compared with the plain one, their loops and Keras",
        named("small", "medium"), cells.tasks, tuple(cells.CELLS), pace=Pace(20)),
    "custom": Suite("cells written as functions, a Python loop over them, and torch.compile of it",
        [Case("T=100, B=4, H=256", Shape(100, 4, 256, 256, 1)),
         Case("T=35, B=20, H=650", Shape(35, 20, 650, 650, 1))],
        custom.tasks, ("inference", "step"), pace=Pace(1.0, least=10), device="cpu"),
    "adopted": Suite("Keras's layers and FlashRNN's function, on their own code and on our kernels",
        adopted.named(*adopted.SHAPES), adopted.tasks,
        ("inference", "step"), threads=(1,), pace=Pace(1.5, least=4), device="cpu"),
    "kernelbench": Suite("KernelBench's recurrent tasks, from a clone of it: forward, and both",
        tasks=kernelbench.tasks, modes=("inference", "step"), threads=(1,),
        pace=Pace(5, least=4)),
    "transducer": Suite("the greedy loop's share of a transcription by Parakeet, random weights",
        tasks=transducer.tasks, modes=("inference",), threads=(1,), pace=Pace(10, least=3),
        device="cpu"),
    "slstm": Suite("the sLSTM and xLSTM's own PyTorch cell, eager and compiled, in heads",
        [Case(f"T={T}, B={B}, H={H}", Shape(T, B, H, H, 1))
         for T in (256, 2048) for B in (1, 16) for H in (512, 768)],
        slstm.tasks, ("inference", "step"), threads=(1, 2), pace=Pace(1.0, least=3, longest=8),
        device="cpu"),
    "samples": Suite("gradients of each sample, compared with Opacus's DPLSTM", named("small"),
        samples.tasks, ("backward",), pace=Pace(10), device="cpu"),
    "models": Suite("models of other packages, with torch's own recurrent layers and with ours",
        tasks=models.tasks, modes=models.MODES, threads=(1,), pace=Pace(2.5, least=4),
        device="cpu"),
    "gpu": Suite("on a machine with a GPU: compile and test all kernels", device="cuda"),
    "gpu-race": Suite("on a machine with a GPU: race all kernels", pace=Pace(1.5), device="cuda"),
}  # fmt: skip
# `make bench`; a quarter of an hour on two cores, longer with peers.
DEFAULT = ("ladder", "lstm", "post", "lanes", "scaling", "short", "streaming", "busy")


def code(name: str) -> list[str]:
    """Return the paths of the code that a suite measures, as git takes them."""
    if name not in SUITES:
        return [*ENGINE]
    return [*ENGINE, SUITES[name].tasks.__module__.replace(".", "/") + ".py"]


def start(name: str, options: Options) -> Iterator[Record]:
    """Run a suite as options ask, a record after another."""
    suite = SUITES[name]
    seconds = options.seconds or suite.pace.seconds
    pace = replace(suite.pace, seconds=seconds, turn=min(suite.pace.turn, seconds))
    dtypes = (options.dtype,) if options.dtype else suite.dtypes
    suite = replace(suite, cases=options.cases or suite.cases, dtypes=dtypes, pace=pace)
    if name.startswith("gpu"):
        from .gpu.suite import run  # which compiles, tests, and races in processes of their own

        yield from run(name, pace, options)
        return
    threads = sorted({n for n in suite.threads if n < options.threads} | {options.threads})
    for task in suite.tasks(suite, options):
        yield from race(name, suite, task, threads, options.device)
    torch.set_num_threads(options.threads)


def race(
    name: str, suite: Suite, task: Task, threads: Sequence[int], device: torch.device
) -> Iterator[Record]:
    """Check a task's answers and time it; a record for each, and for each who cannot run, why."""
    about: dict[str, Any] = {"suite": name, "case": task.case, "mode": suite.modes[0]}
    about |= {"dtype": task.dtype, "threads": threads[0]} | surroundings(device)
    for label, why in task.whys.items():
        yield Record(contender=label, why=why, **about)
    print(f"{name}: {task.case}, {task.dtype}: {', '.join(task.build)}", file=sys.stderr)
    for n in threads:
        torch.set_num_threads(n)
        group = Group(task)  # anew: a peer has its threads from its start
        for beside in suite.neighbours:
            conditions = {"neighbours": beside} if suite.neighbours[1:] else {}
            with machine.neighbours(beside):
                records = measure(name, group, suite.modes, suite.pace, device, conditions)
            yield from records
        group.close()
