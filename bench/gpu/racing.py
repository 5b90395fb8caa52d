"""The races on a GPU, in a process, which begins again without whoever hung or broke it.

`python -m bench.gpu.racing RACES SECONDS LABEL...`: races, as JSON, without these contenders.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from .. import core, layers, machine
from ..cases import CASES, DTYPES, Case, Shape
from ..contenders import BASE, everyone
from ..core import GRAPH, Call, Group, Pace, Record, Work, measure, surroundings
from .watching import outlive, say, stop_if_broken

PRECISIONS = {  # dtype, and whether products of float32 may round their factors to TF32
    "fp32": ("float32", False),
    "tf32": ("float32", True),
    "bf16": ("bfloat16", False),
    "fp16": ("float16", False),
}
FLOAT32_TOLERANCE = core.TOLERANCE[torch.float32]
TF32_TOLERANCE = 1e-2  # inputs of products keep 10 bits, for nn.LSTM and for all others
# With and without a CUDA graph: events around an eager call time the host too.
MODES = ("forward", "step", "forward" + GRAPH, "step" + GRAPH)
INFERENCE = ("inference", "inference" + GRAPH)
DEVICE = "cuda"
RACED = BASE, "triton-steps", "triton-layers"
PEERS_IN = "flashrnn", "torchrl"  # in races that others have published, where installed
LOOPS_IN = "small", "bf16"  # name and precision of the one race that the step loops are in


@dataclass(frozen=True)
class GpuRace:
    """One race. `published`: what others measured at this shape."""

    name: str
    precision: str
    shape: Sequence[int]
    published: str = ""
    cell: str = "lstm"
    heads: int = 1  # blocks of the recurrent weights
    form: str = "dense"  # of cases.FORMS
    modes: Sequence[str] = MODES

    @property
    def title(self) -> str:
        """Return its name and its precision."""
        return f"{self.name}, {self.precision}"


def races() -> list[GpuRace]:
    """Return what is raced, in the order of its worth: what there is no time for is at the end.

    FlashRNN's shape, Penn Treebank's, more where cuDNN's persistent kernel runs.
    """
    flash = GpuRace(
        "FlashRNN's", "fp16", tuple(CASES["flashrnn"].shape),
        "cuDNN 2.01 ms forward, 5.19 ms step on an H100 (FlashRNN's paper)",
    )  # fmt: skip
    treebank = [
        GpuRace(size, precision, tuple(CASES[size].shape))
        for precision in ("bf16", "tf32", "fp16", "fp32")
        for size in ("medium", "large", "small")
    ]
    blocks = [
        GpuRace(
            f"DreamerV3's block GRU, T={T}", "bf16", (T, 16, 512, 512, 1),
            f"TorchRL {ms} ms, forward / both, on a GB200", cell="gru", heads=8,
        )
        for T, ms in ((64, "4.22 / 7.44"), (512, "28.3 / 62.6"))
    ]  # fmt: skip
    caller = GpuRace("a basecaller", "fp16", (1666, 128, 1024, 1024, 1))
    step = [
        GpuRace("one step", precision, (1, 1, 512, 512, 2), modes=INFERENCE)
        for precision in ("bf16", "tf32")
    ]
    learning = [
        GpuRace(f"resets, B={B}", "bf16", (T, B, H, H, 1), form="resets")
        for T, B, H in ((128, 128, 64), (64, 1024, 256), (16, 8192, 512))
    ]
    rollout = GpuRace("TorchRL's rollout", "fp32", (128, 128, 256, 256, 1),
        "TorchRL's own benchmark: B=128, T=128, H=256, 3% resets", form="resets")  # fmt: skip
    home = [(H, B) for B in (16, 64) for H in (1024, 512)]
    wide = [GpuRace(f"H={H} B={B}", "fp16", (1024, B, H, H, 1)) for H, B in home]
    first = [flash, *treebank[:3], *blocks, *step, rollout]
    return [*first, *treebank[3:], caller, *learning, *wide]


def cudnn_algorithms(shape: Shape, precision: str) -> str:
    """Return which of cuDNN's algorithms nn.LSTM asks for, as RNN.cpp of ATen does.

    PERSIST_STATIC_SMALL_H: any depth, H up to 192 forward and 128 backward. PERSIST_STATIC:
    float16, one layer, H up to 1024, H and I divisible by 128, B by 8 and up to 128 (not on sm_86).
    """
    _, B, I, H, L = shape
    multiples = H % 128 == 0 and I % 128 == 0 and B % 8 == 0
    large = precision == "fp16" and L == 1 and multiples and H <= 1024 and B <= 128
    other = "PERSIST_STATIC" if large else "STANDARD"
    forward, backward = ("PERSIST_STATIC_SMALL_H" if top >= H else other for top in (192, 128))
    return forward if forward == backward else f"{forward} forward, {backward} backward"


def about(device: torch.device) -> dict[str, Any]:
    """Return what every file says of a run: card, driver, libraries, commit, date."""
    return {**surroundings(device), "card": machine.card(device)}


# --- in the race's process ---


def watched(label: str, device: torch.device, make: Callable[[], Call]) -> Call:
    """Return a call that says when it begins to work, and ends a process whose GPU it broke."""

    def do(what: str, action: Callable[..., Any], *arguments: Any) -> Any:
        say(label, "starts", what=what)  # before: whoever hangs has been named
        try:
            return action(*arguments)
        finally:  # without an error too: a kernel's fault shows at some later call
            stop_if_broken(label, device)

    def turn(mode: str, *how: float) -> list[float]:
        if mode not in turns:  # a graph is captured then
            turns[mode] = do(mode, call.turn, mode)
        return do(mode, turns[mode], *how)

    call, turns = do("make", make), {}
    memory, answer = call.memory, call.answer
    modes = {mode: partial(turn, mode) for mode in call.modes}
    found = replace(call, modes=modes, answer=partial(do, "answer", answer), turns=True)
    found.__dict__["memory"] = lambda mode: do(mode, memory, mode)
    return found


def work_of_race(of: GpuRace, device: torch.device, without: Sequence[str]) -> Work:
    """Return who runs a race, and what is right."""
    loops = (of.name, of.precision) == LOOPS_IN
    labels = [label for label in RACED if of.shape[4] > 1 or label != "triton-layers"]
    known = [c for c in everyone() if c.label in labels or (loops and c.engine == "loop")]
    if of.published and not of.heads > 1:
        known += [c for c in everyone() if c.label in PEERS_IN]
    known = [c for c in known if c.label not in without]
    case = Case(of.name, Shape(*of.shape), form=of.form, cell=of.cell, heads=of.heads)
    o = Namespace(device=device, dtype=DTYPES[PRECISIONS[of.precision][0]], engines="all",
        quick=False, contenders=lambda: known)  # fmt: skip
    return layers.setup(case, o)


def race(of: GpuRace, seconds: float, without: Sequence[str]) -> None:
    """Run a race; say each record as it is measured."""
    device = torch.device(DEVICE)
    dtype, tf32 = PRECISIONS[of.precision]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    core.TOLERANCE[torch.float32] = TF32_TOLERANCE if tf32 else FLOAT32_TOLERANCE
    work = work_of_race(of, device, without)
    suite = {"suite": "gpu-race", "case": of.name, "dtype": dtype}
    for label, why in work.absent.items():
        line = {**about(device), **suite, "contender": label, "mode": of.modes[0], "why": why}
        say(label, "record", line=Record.of_line(line | {"precision": of.precision}).line())

    def made(label: str, make: Callable[[], Call]) -> Call:
        call = make()
        call.cold = of.shape[0] > 1  # between single steps L2 stays as it is
        return call

    calls = {
        label: partial(watched, label, device, partial(made, label, make))
        for label, make in work.calls.items()
    }
    group = Group(replace(work, calls=calls))
    for mode in of.modes:
        pace = Pace(seconds, least=3)
        for record in measure(group, [mode], pace, device, precision=of.precision, **suite):
            say(record.contender, "record", line=record.line())
    group.close()


# --- in the parent ---


def supervise(
    races: Sequence[GpuRace], seconds: float, deadline: float, keep: Callable[[dict], None],
    about: dict[str, Any],
) -> list[Record]:  # fmt: skip
    """Return the records of races, in a process; call `keep` with the line of each as it comes.

    A process begins anew, at the race where it was, without whoever hung or broke the GPU; about:
    fields of who was lost so.
    """
    records: dict[tuple, Record] = {}  # of a race begun anew: the later ones
    done: list[str] = []

    def command(lost: Sequence[str]) -> list[str]:
        left = [asdict(race) for race in races if race.title not in done]
        words = [sys.executable, "-m", "bench.gpu.racing", json.dumps(left), str(seconds)]
        return [*words, *lost]

    def take(event: dict) -> None:
        if event["event"] == "record":
            record = Record.of_line(event["line"])
            precision = record.extra.get("precision")
            records[record.case, precision, record.contender, record.mode] = record
            keep(event["line"])
            print(f"  {record.mode:15} {record.contender:16}"
                  f" {record.why or f'{1e3 * record.median:.4g} ms'}", flush=True)  # fmt: skip
        elif event["event"] == "race":
            (race,) = [race for race in races if race.title == event["who"]]
            shape = Shape(*race.shape)
            names = "" if race.cell == "gru" else cudnn_algorithms(shape, race.precision)
            print(f"\n{race.title}: {shape}; cuDNN's algorithm: {names or 'a GRU of its own'}")
            print(f"published: {race.published}" if race.published else "", flush=True)
        elif event["event"] == "raced":
            done.append(event["who"])

    lost = outlive(command, take, deadline)
    left = [race.title for race in races if race.title not in done]
    for title in left:
        print(f"{title}: not raced to its end")
    where = ", ".join(left) or races[-1].title
    about |= {"suite": "gpu-race", "case": where, "mode": MODES[0]}
    absent = [about | {"contender": label, "why": why} for label, why in lost.items()]
    return [*records.values(), *map(Record.of_line, absent)]


def main(races: str, seconds: str, *without: str) -> None:
    """Run races one after another; say which begins and which has ended."""
    for fields in json.loads(races):
        of = GpuRace(**fields)
        say(of.title, "race")
        race(of, float(seconds), without)
        say(of.title, "raced")


if __name__ == "__main__":
    main(*sys.argv[1:])
