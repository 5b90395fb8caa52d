"""`python -m bench.pairs CHANGE BEFORE AFTER`: calls of two checkouts in turns.

    python -m bench.pairs ahead ../before . --json out/intel.jsonl

Each checkout has a process of its own, with its compiled library. A round asks both for CPU times
of some calls, in an order drawn anew, and looks whether AMX is disturbed by a busy hyperthread
meanwhile: the rate of a product in its registers tells. BEFORE may be the same checkout with
another setting behind a bar, ".|precision=none". The machine may have other work: CPU time is what
the thread itself took. On two threads (`--threads 2`), and for the slowest calls (`tail`), it is
wall time, for a quiet machine. In `tail` nn.LSTM and ONNX Runtime have turns too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import core, machine

# mode, shape [T, B, I, H, L]; and where not usual dtype, precision, weights, isa, the layer's class
# or a cell of bench/zoo.py, and its options; for the slowest calls threads, the seconds of pause
# before each, and how many busy processes are beside them; a library of OTHERS, if not this one.
Call = dict[str, Any]
DISTURBED = 0.75  # of the best rate of AMX: with a busy hyperthread it has a third to a fifth


def calls(modes: tuple[str, ...], rows: tuple[int, ...], T: int, **more: str) -> list[Call]:
    """Return calls of two layers at the three presets' sizes."""
    return [
        {"mode": mode, "shape": [T, B, H, H, 2]} | more
        for H in (200, 650, 1500)
        for B in rows
        for mode in modes
    ]


SHAPES = ((35, 20, 650), (100, 4, 256), (1, 1, 256))  # T, B, H
HEADS = ((100, 4, 256), (35, 20, 768), (4, 2, 64), (1, 1, 256))


def layer_calls(
    layer: str, shapes: tuple[tuple[int, int, int], ...] = SHAPES, **options: Any
) -> list[Call]:
    """Return calls of one layer of a class, or of a cell of bench/zoo.py."""
    return [
        {"mode": mode, "shape": [T, B, H, H, 1], "dtype": dtype, "layer": layer, "options": options}
        for T, B, H in shapes
        for dtype in ("float32", "bfloat16")
        for mode in BOTH
    ]


BOTH = ("forward", "forward and backward")


def drawn_calls(count: int) -> list[Call]:
    """Return calls of layers, sizes, dtypes and modes that are drawn, always the same."""
    draw, found = random.Random(48), []
    for n in range(count):
        H, heads = draw.choice((16, 32, 64, 100, 128, 200, 256, 384, 512, 650, 768)), 1
        layer = draw.choice(("LSTM", "LSTM", "GRU", "RNN", "SLSTM", "LSTM", "GRU"))
        if layer == "SLSTM" or n % 4 == 3:
            heads = draw.choice([N for N in (2, 4) if H % N == 0])
        L, I = draw.choice((1, 1, 2)), draw.choice((H, 8, 40, 128))
        T, B = draw.choice((1, 4, 20, 35, 100)), draw.choice((1, 2, 4, 8, 20, 32, 64))
        while T * B * H * H * L > 2**29:  # of some hundred milliseconds
            T, B = max(1, T // 2), max(1, B // 2)
        found.append(
            {"mode": draw.choice(BOTH), "shape": [T, B, I, H, L], "layer": layer,
             "dtype": draw.choice(("float32", "float32", "bfloat16")),
             "options": {"num_heads": heads} if heads > 1 else {}}
        )  # fmt: skip
    return found


def tail_calls() -> list[Call]:
    """Return single steps, as the suite `tail` has them."""
    return [
        {"mode": mode, "shape": [1, B, H, H, 2], "threads": threads, "pause": pause, "busy": busy}
        | ({"weights": "float32"} if mode == "prepared" else {})
        for H in (64, 256, 650)
        for B in (1, 4)
        for threads in (1, 2)
        for pause in (0.0, 0.01)
        for busy in (0, 1, 2, 3)
        for mode in ("inference", "prepared")
    ]


CHANGES = {
    "ahead": calls(BOTH, (1, 4, 20, 64), 20, isa="avx512"),
    "bf16": calls(BOTH, (1, 4, 20, 64), 20, dtype="bfloat16"),
    "tf32": calls(BOTH, (4, 20, 64), 20, precision="tf32"),
    "prepared": [
        call
        for weights in ("bfloat16", "int8")
        for call in calls(("prepared",), (1, 4, 20, 64), 1, weights=weights)
    ],
    "cells": [
        *layer_calls("LSTM"),
        *layer_calls("GRU"),
        *layer_calls("RNN"),
        *layer_calls("LSTM", coupled=True),
        *layer_calls("LSTM", layer_norm=True),
        *layer_calls("GRU", layer_norm=True),
        *layer_calls("GRU", zoneout=0.1),
        *layer_calls("LSTM", num_heads=2),
        *layer_calls("SLSTM", num_heads=2),
        *layer_calls("lltm"),
        *layer_calls("sru"),
    ],
    "heads": [
        call
        for heads in (2, 4, 8)
        for layer in ("LSTM", "GRU", "RNN", "SLSTM")
        for call in layer_calls(layer, HEADS, num_heads=heads)
    ],
    "drawn": drawn_calls(128),
    "tail": tail_calls(),
}


# --- a checkout's process ---

OTHERS = "nn.LSTM", "ONNX Runtime"


def made_of_others(call: Call) -> Callable[[], object]:
    """Return what makes a call of another library once: inference in float32."""
    from . import lstm
    from .cases import Shape

    problem = lstm.make_problem(Shape(*call["shape"]))
    if call["library"] == "nn.LSTM":
        return torch.no_grad()(lambda: problem.reference(problem.x))
    from .peers import onnx_runtime, remote

    return onnx_runtime.build(remote.to_arrays(problem), call["threads"]).inference


def made(call: Call) -> Callable[[], object]:
    """Return what makes a call once."""
    import fused_lstm
    from fused_lstm import native

    torch.manual_seed(0)
    torch.set_num_threads(call["threads"])
    if "library" in call:
        return made_of_others(call)
    native.OPS.use_isa(call.get("isa", ""))
    switches: Any = torch.backends.mkldnn
    switches.rnn.fp32_precision = call.get("precision", "none")
    T, B, I, H, L = call["shape"]
    dtype = getattr(torch, call.get("dtype", "float32"))
    name, options = call.get("layer", "LSTM"), {"engine": "native", "dtype": dtype}
    options |= call.get("options", {})
    if hasattr(fused_lstm, name):
        layer = getattr(fused_lstm, name)(I, H, L, **options)
    else:
        from . import zoo  # an older checkout cannot have all of its cells

        layer = fused_lstm.Recurrent(zoo.ALL[name], I, H, L, **options)
    x = torch.randn(T, B, I, dtype=dtype)
    if call["mode"] == "prepared":
        prepared = fused_lstm.prepare(layer, getattr(torch, call["weights"]))
        return lambda: prepared(x)
    if call["mode"] == "inference":
        return torch.no_grad()(lambda: layer(x))
    if call["mode"] == "forward":
        return lambda: layer(x)  # which keeps what a backward pass needs

    def both() -> None:
        layer.zero_grad()
        y = layer(x.requires_grad_())[0]
        y.backward(torch.ones_like(y))

    return both


def is_wall_time(call: Call) -> bool:
    """Return whether a call is measured by the clock on the wall, not by the thread's time."""
    return call["threads"] > 1 or "pause" in call


def serve() -> None:
    """Read calls and how often, a line of JSON each, and print the seconds of each time."""
    last: tuple[Call, Callable[[], object]] | None = None
    for line in sys.stdin:
        call, times = json.loads(line)
        if last is None or last[0] != call:
            last = call, made(call)
            for _ in range(3):
                last[1]()
        if is_wall_time(call):
            time.sleep(core.REST)  # threads of the other checkout's turn spin for a while
        last[1]()
        clock = time.perf_counter if is_wall_time(call) else time.process_time
        pause, seconds = call.get("pause"), []
        for _ in range(times):
            if pause:
                time.sleep(pause)
            begin = clock()
            last[1]()
            seconds.append(clock() - begin)
        print(json.dumps(seconds), flush=True)


class Checkout:
    """The process of a checkout, and what it changes of each call."""

    def __init__(self, text: str) -> None:
        self.text = text
        folder, _, changed = text.partition("|")
        root = Path(folder).resolve()
        if not (root / "kernels" / "fused_lstm").is_dir():
            raise SystemExit(f"{text}: got no kernels/fused_lstm there; expected a checkout")
        self.changed = dict(word.split("=") for word in changed.split(",") if word)
        paths = [root / "kernels", Path(__file__).parents[1]]  # this file, that library
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.pairs", "--serve"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seconds(self, call: Call, times: int) -> list[float]:
        """Return the seconds of a call, so many times."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps([call | self.changed, times]), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"{self.text}: its process has ended; its error is above")
        return json.loads(line)


# --- in turns ---


class Unit:
    """AMX, and the best rate of a product that it had so far."""

    best = 0.0

    def undisturbed(self) -> bool:
        """Return whether it runs at its own speed now; True where there is none."""
        from fused_lstm import native

        from . import kernels

        if "amx" not in native.OPS.isa_names():
            return True
        native.OPS.use_isa("amx")
        rate = kernels.ops().best_product(torch.bfloat16)
        self.best = max(self.best, rate)
        return rate > DISTURBED * self.best


# The seconds of the calls of each side in a round, by its name.
Round = dict[str, list[float]]


def turns(
    sides: dict[str, Checkout], call: Call, seconds: float, unit: Unit
) -> tuple[list[Round], int]:
    """Return the rounds of a call, and how many were left out, as AMX was disturbed in them."""
    longest = max(side.seconds(call, 1)[0] for side in sides.values())
    times = 50 if call.get("pause") else max(1, min(200, int(0.03 / longest)))
    watched = "pause" not in call  # single steps of float32 do not use AMX
    rounds, disturbed, end = [], 0, time.time() + seconds
    while time.time() < end or len(rounds) + disturbed < 7:
        taken: Round = {}
        quiet = [not watched or unit.undisturbed()]
        for name in random.sample(list(sides), len(sides)):
            taken[name] = sides[name].seconds(call, times)
            quiet.append(not watched or unit.undisturbed())
        if all(quiet):
            rounds.append(taken)
        else:
            disturbed += 1
    return rounds, disturbed


def race(
    change: str, before: str, after: str, seconds: float, threads: int
) -> Iterator[dict[str, Any]]:
    """Yield a record for each call of a change: medians, their ratio and its interval.

    Of the slowest calls it has the distribution too, before and after and of other libraries.
    """
    torch.set_num_threads(1)
    sides, unit = {"before": Checkout(before), "after": Checkout(after)}, Unit()
    if change == "tail":
        sides |= {name: Checkout(f"{after.partition('|')[0]}|library={name}") for name in OTHERS}
    for call in [{"threads": threads} | one for one in CHANGES[change]]:
        clock = machine.ForeignTime()
        with machine.neighbours(call.get("busy", 0)):
            rounds, disturbed = turns(sides, call, seconds, unit)
            foreign = round(clock.share(), 4)
        if len(rounds) < 5:
            print(f"{call}: AMX was disturbed in all but {len(rounds)} rounds", file=sys.stderr)
            continue
        medians = {name: [statistics.median(taken[name]) for taken in rounds] for name in sides}
        ratio = core.ratio(medians["before"], medians["after"])
        record = {
            "change": change, **call, "before": statistics.median(medians["before"]),
            "after": statistics.median(medians["after"]), "ratio": ratio.value, "low": ratio.low,
            "high": ratio.high, "rounds": len(rounds), "disturbed": disturbed,
            "foreign": foreign, "clock": "wall time" if is_wall_time(call) else "CPU time",
            **core.surroundings(core.CPU),
        }  # fmt: skip
        if "pause" in call:
            record["tails"] = {
                name: core.tail([s for taken in rounds for s in taken[name]]) for name in sides
            }
        yield record
    for side in sides.values():
        assert side.process.stdin is not None
        side.process.stdin.close()
        side.process.wait()


def said(record: dict[str, Any]) -> str:
    """Return a record as a line."""
    words = [record.get("layer"), record.get("options"), record.get("dtype"), record["mode"]]
    words += [record["shape"], f"{record['threads']} threads"]
    if "tails" in record:
        words.append(f"pause {record['pause']} s, {record['busy']} busy")
    ms = (f"{1e3 * record[side]:.3f}" for side in ("before", "after"))
    line = f"{' '.join(str(word) for word in words if word)}: {' -> '.join(ms)} ms,"
    line += f" {record['ratio']:.2f} ({record['low']:.2f} to {record['high']:.2f}),"
    line += f" {record['rounds']} rounds, {record['disturbed']} disturbed"
    if "tails" in record:
        worst = (f"{name} {1e3 * tail['worst']:.3f}" for name, tail in record["tails"].items())
        line += f", worst in ms: {', '.join(worst)}"
    return line


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("bench.pairs", description=__doc__.partition("\n")[0])
    parser.add_argument("change", nargs="?", choices=CHANGES)
    parser.add_argument("before", nargs="?")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each call [%(default)s]")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--json", type=Path, default=Path("out/pairs.jsonl"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    if options.after is None:
        parser.error("expected a change and two checkouts")
    core.check_committed(options.json, machine.commit())
    print(machine.name(core.CPU))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    given = options.change, options.before, options.after, options.seconds, options.threads
    for record in race(*given):
        print(said(record), flush=True)
        with options.json.open("a", encoding="utf-8") as file:
            print(json.dumps(record), file=file)


if __name__ == "__main__":
    main()
