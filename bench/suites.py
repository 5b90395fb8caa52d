"""Suites, the data of `python -m bench NAME`, and the one loop that measures them.

A suite is what a person asks; its parts are data: the cases, and a function that returns the calls
of a case (`Work`: label -> what makes a call, and the right answer). bench/README.md shows one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import (
    adopted,
    cells,
    fusions,
    kernelbench,
    layers,
    loops,
    machine,
    models,
    packaged,
    samples,
    serve,
    training,
    transducer,
)
from . import contenders as who
from .cases import CASES, DTYPES, Case, Shape, choose, grid
from .contenders import BASE, OURS, Contender, of_labels
from .core import PACE, Call, Group, Pace, Record, Work, measure, surroundings
from .peers import PEERS
from .peers.remote import Remote

# What every suite measures, besides the module that prepares it (`code`).
ENGINE = ("kernels/fused_lstm", ":!kernels/fused_lstm/triton", ":!kernels/fused_lstm/tools",
    ":!kernels/fused_lstm/adopt", ":!kernels/fused_lstm/integrations")  # fmt: skip
Options = argparse.Namespace  # of __main__: cases, engines, device, dtype, threads, neighbours ...
QUICK = Pace(0.3, least=3, most=5, longest=2.0, calls=11)


@dataclass(frozen=True)
class Part:
    """A part of a suite: on what, in which modes, who, and at what pace.

    All contenders of a case and dtype take turns in all modes.
    """

    setup: Callable[[Any, Options], Work]
    cases: Sequence[Any] | Callable[[Options], Sequence[Any]] = ()
    modes: Sequence[str] = ("inference", "step")
    contenders: Callable[[], list[Contender]] = who.highest
    dtypes: Sequence[str] = ("float32",)
    pace: Pace = PACE


@dataclass(frozen=True)
class Suite:
    """A suite: what it answers, its minutes on two cores, and its parts by name."""

    says: str
    minutes: float
    parts: dict[str, Part]
    device: str | None = None  # where it can run nowhere else


def named(*names: str) -> list[Case]:
    """Return cases by their names."""
    return [CASES[name] for name in names]


def lanes(T: int, H: int) -> list[Case]:
    """Return both directions, and rows of unequal length in every form, B = 32, one layer."""
    plain = Case(f"T={T}, H={H}", Shape(T, 32, H, H, 1))
    found = [
        replace(plain, name=f"bidirectional, {plain}", bidirectional=True),
        replace(plain, name=f"equal, packed, {plain}", form="packed"),
    ]
    for spread, length in (("uniform", T), ("sentences", 82)):
        for form in ("packed", "lengths", "padded"):
            shape = plain.shape._replace(T=length)
            name = f"{spread}, {form}, T={length}, H={H}"
            found.append(replace(plain, name=name, shape=shape, spread=spread, form=form))
    return found


def last_step() -> list[Case]:
    """Return calls with a loss on all steps and on the last, of an LSTM and a GRU."""
    shapes = [Shape(200, 32, 64, 64, 1), Shape(300, 20, 32, 256, 2)]
    return [
        Case(f"{call}, {loss}", s, cell=cell, loss=loss, call=call)
        for s in shapes
        for cell in ("lstm", "gru")
        for call in [f"{cell.upper()}, T={s.T}, B={s.B}, H={s.H}, L={s.L}"]
        for loss in ("all", "last")
    ]


def heads() -> list[Case]:
    """Return layers with recurrent weights in N blocks, which nn.LSTM has dense."""
    return [
        Case(f"{cell}, N={N}, T={T}, B={B}, H={H}", Shape(T, B, H, H, 1), cell=cell, heads=N)
        for T, B, H in ((100, 4, 256), (35, 20, 768))
        for cell in ("lstm", "gru")
        for N in (2, 8)
    ]


def growing() -> list[Case]:
    """Return a case with one dimension changed at a time."""
    start = Case("", Shape(20, 20, 200, 200, 2))
    axes = {"T": (5, 10, 20, 40, 80), "B": (1, 5, 10, 40, 80),
        "H": (64, 128, 256, 512, 1024, 2048), "L": (1, 4)}  # fmt: skip
    return [start.resized(axis, value) for axis, values in axes.items() for value in values]


def one_step(sizes: Iterable[int], name: str = "T=1, ") -> list[Case]:
    """Return calls of one step, of one row and of four, two layers."""
    return [
        Case(f"{name}{f'B={B}, ' * (B > 1 or not name)}H={H}", Shape(1, B, H, H, 2))
        for H in sizes
        for B in (1, 4)
    ]


PTB = named("small", "medium", "large")
UNEVEN = [c for c in lanes(100, 256) if c.bidirectional or c.name.startswith("uniform, lengths")]
BOTH = ("float32", "bfloat16")
# The post's program with nn.LSTM and with our layer; our layer with our loss and update.
STEPS = ("stock-cudnn", f"stock-{OURS}", OURS)
FUNCTIONS = [Shape(100, 4, 256, 256, 1), Shape(35, 20, 650, 650, 1)]
# Both packages have 4 heads. At T=2048 TiRex, which rounds gradients at each step, needs 8 of them
# to be within a tenth of the right one.
SLSTM = [(N, Shape(T, B, 512, 512, 1))
    for N, T, B in ((1, 256, 1), (4, 256, 1), (4, 256, 16), (8, 2048, 1))]  # fmt: skip
CALLS = Pace(1, least=10, calls=101, longest=120)  # 1,000 calls, so that there is a p99
SUITES = {
    "fusions": Suite(
        "the fusions, one at a time, on the same products: counted, predicted, timed", 5,
        {
            "levels": Part(fusions.setup, named("tiny", "small", "medium"), ("step",),
                pace=Pace(20, longest=300)),
            "products": Part(fusions.products, PTB, ("products",), pace=Pace(2)),
        },
    ),
    "post": Suite(
        "the post's own table: words per second of training, TensorFlow, JAX, PyTorch, the fusions",
        3,
        {"train": Part(training.setup, named("small", "medium"), ("train", "rest"), who.trainers,
            pace=Pace(20, longest=200))},
    ),
    "layers": Suite(
        "layers alone, nn.LSTM and ours; other systems and levels by --engines", 20,
        {
            "best": Part(layers.setup, [*PTB, *UNEVEN], ("inference", "step"),
                of_labels(BASE, OURS), BOTH, Pace(2.0, longest=60)),
            "first": Part(layers.setup, [*PTB, *named("gru", "tagger", "ppo")],
                ("inference", "step"), of_labels(BASE, OURS), BOTH, Pace(1.5, longest=60)),
            "levels": Part(layers.setup, PTB[:2],
                ("inference", "forward", "backward", "step"), who.everyone),
            "shapes": Part(layers.setup, [c for c in CASES.values() if c not in PTB],
                pace=Pace(1.0)),
            "growing": Part(layers.setup, growing(), ("inference", "step"), of_labels(BASE, OURS),
                pace=Pace(1.0)),
            "last": Part(layers.setup, last_step(), ("backward",), of_labels(BASE, OURS), BOTH,
                Pace(1.0, longest=60)),
            "heads": Part(layers.setup, heads(), ("inference", "step"), of_labels(BASE, OURS),
                pace=Pace(0.6)),
            "wrong": Part(layers.setup, [Case(f"H={H}", Shape(4, 8, 32, H, 1))  # where one may be
                for H in (512, 1000, 1024, 1056, 1280, 1500, 2048)], ("step",),
                of_labels(BASE, OURS), ("bfloat16",), Pace(0.3)),
        },
    ),
    "rows": Suite(
        "both directions, rows of unequal length, states that begin anew", 8,
        {"forms": Part(layers.setup, [*lanes(100, 256), *lanes(400, 512), *named("rl")],
            pace=Pace(0.6))},
    ),
    "serve": Suite(
        "inference on a CPU: calls, single steps and streams, p50 and p99; other runtimes", 45,
        {
            "calls": Part(serve.setup, [*PTB, *named("gnmt", "rnn-t", "deepbench-server",
                "time-series"), Case("T=100, B=1, H=256", Shape(100, 1, 256, 256, 1))],
                ("inference",), dtypes=BOTH, pace=Pace(1.5)),
            "steps": Part(serve.setup, one_step((64, 256, 650, 1500)), ("inference",), dtypes=BOTH,
                pace=CALLS),
            "streams": Part(serve.plain_streams, [*named("streaming"),
                *(Case(f"stream of {c}", c.shape._replace(B=1)) for c in PTB)], ("call",),
                pace=CALLS),
            "drawn": Part(serve.setup, grid(120, seed=36), ("inference",), dtypes=BOTH,
                pace=Pace(0.5, least=3, calls=5, turn=0.05)),
        },
        "cpu",
    ),
    "quantized": Suite(
        "int8 weights, and streams through weights packed in each dtype; other runtimes", 4,
        {
            "layers": Part(serve.quantized, one_step((256, 650, 1500)), ("inference",), pace=CALLS),
            "streams": Part(serve.packed_streams, one_step((64, 256, 650), ""), ("call",),
                pace=CALLS),
        },
        "cpu",
    ),
    "cells": Suite(
        "cells that nn.LSTM lacks: options, functions, the sLSTM, people's loops; Keras, torch", 20,
        {
            "options": Part(cells.options, named("small", "medium"), tuple(cells.OPTIONS),
                pace=Pace(20, longest=60)),
            "functions": Part(cells.functions, cells.function_cases(FUNCTIONS), pace=Pace(1.0)),
            "loops": Part(loops.setup, loops.cases([Shape(100, 4, 256, 256, 1),
                Shape(35, 20, 256, 256, 1)]), pace=Pace(1.0, longest=20)),
            "slstm": Part(cells.slstm, cells.slstm_cases(SLSTM),
                pace=Pace(1.0, least=3, longest=8)),
        },
    ),
    "samples": Suite(
        "gradients of each sample, compared with Opacus's DPLSTM", 3,
        {"gradients": Part(samples.setup, named("small", "medium"), ("backward",),
            pace=Pace(10, longest=120))},
        "cpu",
    ),
    "packages": Suite(
        "other packages' models and functions, on their own code and on our kernels", 25,
        {
            "models": Part(models.setup, models.cases, models.MODES, pace=Pace(2.5, longest=60)),
            "adopted": Part(adopted.setup, adopted.CASES, pace=Pace(1.5)),
            "loops": Part(loops.setup, loops.cases([Shape(100, 4, 256, 256, 1)], packaged.CELLS),
                pace=Pace(1.0, longest=20)),
            "transducer": Part(transducer.setup, transducer.cases, ("inference",),
                pace=Pace(10, longest=60)),
        },
        "cpu",
    ),
    "kernelbench": Suite(
        "KernelBench's recurrent tasks, from a clone of it: forward, and both", 7,
        {
            "forward": Part(kernelbench.setup, kernelbench.cases, ("inference",), pace=Pace(5)),
            "both": Part(kernelbench.setup, kernelbench.cases, ("step",), pace=Pace(5)),
        },
    ),
    "lm": Suite(
        "whole training steps of the language model, ours and the post's program", 4,
        {"steps": Part(training.setup, PTB, ("train",),
            lambda: [c for c in who.trainers() if c.label in STEPS], BOTH,
            Pace(6, longest=120))},
    ),
    "gpu-first": Suite("on a machine with a GPU: two minutes, in one file", 2, {}, "cuda"),
    "gpu": Suite("on a machine with a GPU: compile and test all kernels", 11, {}, "cuda"),
    "gpu-race": Suite("on a machine with a GPU: race all kernels", 11, {}, "cuda"),
}  # fmt: skip
# `make bench`; twenty minutes on two cores, longer with peers.
DEFAULT = ("fusions/levels", "post", "layers/best", "rows", "serve/streams")


def parts(name: str) -> dict[str, Part]:
    """Return the parts that "suite" or "suite/part" names, by their whole names."""
    suite, _, part = name.partition("/")
    known = SUITES[suite].parts
    if part and part not in known:
        raise ValueError(
            f"suite: got {name!r}; expected of {', '.join(f'{suite}/{p}' for p in known)}"
        )
    return {f"{suite}/{p}": of for p, of in known.items() if part in ("", p)}


def code(name: str) -> list[str]:
    """Return the paths of the code that a suite's part measures, as git takes them."""
    suite, _, part = name.partition("/")
    if part not in getattr(SUITES.get(suite), "parts", {}):
        return [*ENGINE]
    return [*ENGINE, SUITES[suite].parts[part].setup.__module__.replace(".", "/") + ".py"]


def start(name: str, options: Options) -> Iterator[Record]:
    """Run a suite or a part of one as options ask, a record after another."""
    if name.startswith("gpu"):
        from .gpu.suite import run  # which compiles, tests, and races in processes of their own

        yield from run(name, options)
        return
    for label, part in parts(name).items():
        pace = (
            replace(QUICK, calls=min(part.pace.calls, QUICK.calls)) if options.quick else part.pace
        )
        if options.seconds:
            pace = replace(pace, seconds=options.seconds, turn=min(pace.turn, options.seconds))
        cases = part.cases(options) if callable(part.cases) else part.cases
        if options.cases:
            cases = choose(options.cases, cases)
        few = 1 if "/" in name or len(parts(name)) > 1 else 2
        for case in cases[:few] if options.quick else cases:
            for dtype in (options.dtype,) if options.dtype else part.dtypes:
                yield from race(label, part, case, dtype, pace, options)


def of_checkouts(label: str, part: Part, case: Any, dtype: str, work: Work, o: Options) -> Work:
    """Return a case's calls by the library of --before and by this one, each in its process."""
    asked = {"part": label, "case": str(case), "of": dtype, "device": str(o.device),
        "engines": o.engines or ""}  # fmt: skip

    def remote(name: str, make: Callable[[], Call], library: Path) -> Call:
        own = make()  # for its modes, and what it must give
        modes = [mode for mode in part.modes if mode in own.modes]
        own.close()
        process = Remote("checkout", asked | {"label": name}, o.device, dtype, library)
        return process.call(modes, gives=own.gives)

    calls = {}
    for name, make in work.calls.items():
        if name not in PEERS:
            calls[f"{name}, before"] = partial(remote, name, make, o.before)
            calls[name] = partial(remote, name, make, Path(__file__).parents[1])
    return replace(work, calls=calls)


def race(
    label: str, part: Part, case: Any, dtype: str, pace: Pace, options: Options
) -> Iterator[Record]:
    """Check the answers of a case and time it; a record for each, and for each who cannot, why."""
    o = Options(**vars(options) | {"dtype": DTYPES[dtype], "modes": part.modes})
    o.contenders = part.contenders
    for threads in options.threads:
        torch.set_num_threads(threads)
        work = part.setup(case, o)  # anew: a peer has its threads from its start
        if options.before is not None:
            work = of_checkouts(label, part, case, dtype, work, options)
        about = {"suite": label, "case": work.name or str(case), "dtype": dtype}
        for contender, why in work.absent.items() if threads == options.threads[0] else ():
            around = surroundings(options.device) | {"mode": part.modes[0], "threads": threads}
            yield Record(contender=contender, why=why, **about, **around)
        if not work.calls:
            continue
        print(f"{label}: {about['case']}, {dtype}: {', '.join(work.calls)}", file=sys.stderr)
        group = Group(work)
        for beside in options.neighbours:
            with machine.neighbours(beside):
                for pause in options.pauses:
                    busy = {"neighbours": beside} if options.neighbours != [0] else {}
                    yield from measure(
                        group, part.modes, pace, options.device, pause, **about, **busy
                    )
        group.close()
