"""The races on a GPU: a process a precision, and again without whoever hung or broke it.

`python -m bench.gpu.racing RACES SECONDS LABEL...`: races, as JSON, without these contenders.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fused_lstm

from .. import core, lstm
from ..cases import CASES, Case, Shape
from ..contenders import BASE, NN_LSTM, Contender, everyone
from ..core import Group, Pace, Record, Turn, measure
from ..lstm import GRAPH, Local, Problem
from . import card
from .watching import HUNG, outlive, say, stop_if_broken

PRECISIONS = {  # dtype, and whether products of float32 may round their factors to TF32
    "fp32": ("float32", False),
    "tf32": ("float32", True),
    "bf16": ("bfloat16", False),
    "fp16": ("float16", False),
}
TF32_TOLERANCE = 1e-2  # inputs of products keep 10 bits, for nn.LSTM and for all others
# With and without a CUDA graph: events around an eager call time the host too.
MODES = ("forward", "step", "forward" + GRAPH, "step" + GRAPH)
INFERENCE = ("inference", "inference" + GRAPH)
DEVICE = "cuda"
RACED = BASE, "triton-steps", "triton-layers"
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
    home = [(H, B) for B in (16, 64) for H in (1024, 512)]
    wide = [GpuRace(f"H={H} B={B}", "fp16", (1024, B, H, H, 1)) for H, B in home]
    return [flash, *treebank[:3], *blocks, *step, *treebank[3:], caller, *learning, *wide]


def turns(every: Sequence[GpuRace]) -> list[list[GpuRace]]:
    """Return the races of each process, in the order of their worth: those of one precision.

    The first process has the first race alone, and then comes a process for each precision.
    """
    first, *rest = every
    by_precision: dict[str, list[GpuRace]] = {}
    for race in rest:
        by_precision.setdefault(race.precision, []).append(race)
    return [[first], *by_precision.values()]


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


# --- in the race's process ---


class Named:
    """A runner that says when it begins to work, and ends a process whose GPU it broke."""

    def __init__(self, label: str, device: torch.device, build: Callable[[], Any]) -> None:
        self.label, self.device = label, device
        self.runner = self._do("make", build)

    def __getattr__(self, name: str) -> Any:
        """Return the runner's attribute, of what is not watched."""
        return getattr(self.runner, name)

    def _do(self, what: str, action: Callable[[], Any]) -> Any:
        say(self.label, "starts", what=what)  # before: whoever hangs has been named
        try:
            return action()
        finally:  # without an error too: a kernel's fault shows at some later call
            stop_if_broken(self.label, self.device)

    def answer(self) -> Any:
        """Return the runner's answer."""
        return self._do("answer", self.runner.answer)

    def timed(self, mode: str) -> Turn:
        """Return what takes a turn."""
        turn = self._do(mode, partial(self.runner.timed, mode))
        return lambda calls, seconds: self._do(mode, partial(turn, calls, seconds))

    def facts(self, mode: str, rounds: int) -> dict[str, Any]:
        """Return the runner's facts, for which it works once more."""
        return self._do(mode, partial(self.runner.facts, mode, rounds))


class Blocks(Local):
    """A contender with recurrent weights in blocks; nn.GRU has them dense, zero outside of them."""

    heads: int

    def __init__(self, contender: Contender, problem: Problem, heads: int) -> None:
        super().__init__(contender, problem)
        self.heads = heads
        if contender.label != BASE:
            _, _, I, H, L = self.case.shape
            ways = {"engine": contender.engine, "fuse": contender.fuse, "num_heads": heads}
            self.module = fused_lstm.GRU(I, H, L, **ways).to(problem.x)
            weights = problem.reference.state_dict()
            self.module.load_state_dict({n: self.blocks(n, w) for n, w in weights.items()})
            self.weights = list(self.module.parameters())

    def blocks(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight as the module has it: of dense recurrent ones the blocks [N, G*K, K]."""
        if "weight_hh" not in name or weight.dim() == 3:
            return weight
        N, K = self.heads, weight.shape[1] // self.heads
        each = weight.view(-1, N, K, N, K).diagonal(dim1=1, dim2=3)  # [G, K, K, N]
        return each.permute(3, 0, 1, 2).reshape(N, -1, K)

    def answer(self) -> dict[str, Tensor]:
        """Return the answer, with gradients of blocks alone."""
        return {name: self.blocks(name, value) for name, value in super().answer().items()}


def task_of(of: GpuRace, device: torch.device, without: Sequence[str]) -> core.Task:
    """Return who runs a race, and the problem."""
    dtype, _ = PRECISIONS[of.precision]
    loops = (of.name, of.precision) == LOOPS_IN
    labels = [label for label in RACED if of.shape[4] > 1 or label != "triton-layers"]
    entered = [c for c in everyone() if c.label in labels or (loops and c.engine == "loop")]
    entered = [c for c in entered if c.label not in without]
    case = Case(of.name, Shape(*of.shape), form=of.form, cell=of.cell)
    suite = Namespace(cases=[case], dtypes=[dtype], contenders=lambda: entered)
    (task,) = lstm.tasks(suite, Namespace(device=device, engines="all"))
    if of.heads == 1:
        return task
    w_hh, (K, _) = task.work.reference.weight_hh_l0, divmod(of.shape[3], of.heads)
    head = torch.arange(of.shape[3], device=device) // K
    with torch.no_grad():
        w_hh.view(-1, *w_hh.shape[1:]).mul_((head.repeat(3)[:, None] == head).to(w_hh.dtype))
    problem = InBlocks(**vars(task.work), heads=of.heads)
    able = [c for c in entered if c.label in task.build]
    build = {c.label: partial(Blocks, c, problem, of.heads) for c in able}
    return replace(task, work=problem, build=build)


@dataclass(frozen=True)
class InBlocks(Problem):
    """A problem whose recurrent weights are in blocks."""

    heads: int = 1

    def expected(self) -> dict[str, Tensor]:
        """Return what nn.GRU computes, with gradients of blocks alone."""
        wide = self if self.dtype.itemsize >= 4 else self.in_dtype(torch.float32)
        answer = Blocks(NN_LSTM, wide, self.heads).answer()
        return {name: value.to(self.dtype) for name, value in answer.items()}


def race(of: GpuRace, seconds: float, without: Sequence[str]) -> None:
    """Run a race; say each record as it is measured."""
    device = torch.device(DEVICE)
    dtype, tf32 = PRECISIONS[of.precision]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if tf32:
        core.TOLERANCE[torch.float32] = TF32_TOLERANCE
    task = task_of(of, device, without)
    about = {"suite": "gpu-race", "case": of.name, "mode": of.modes[0], "dtype": dtype}
    for label, why in task.whys.items():
        say(label, "record", line=Record(contender=label, why=why, **about).line())
    build = {label: partial(Named, label, device, make) for label, make in task.build.items()}
    group = Group(replace(task, build=build))
    for mode in of.modes:
        conditions = {"precision": of.precision}
        records = measure("gpu-race", group, [mode], Pace(seconds, least=3), device, conditions)
        state = card.state()  # as the mode has left it: warm, and perhaps slowed down
        for record in records:
            line = replace(record, extra={**record.extra, "card": state}).line()
            say(record.contender, "record", line=line)
    group.close()


# --- in the parent ---


def supervise(
    races: Sequence[GpuRace], seconds: float, deadline: float, hung: dict[str, str], file: Path
) -> list[Record]:
    """Return the records of a process's races; write each into a file as it comes.

    Args:
        hung: label -> why, of those who hung in an earlier process: they are not started again, and
            who hangs in this one joins them.
    """
    records: dict[tuple[str, str, str], Record] = {}  # a race that begins anew has the later ones
    done: list[str] = []

    def command(lost: Sequence[str]) -> list[str]:
        left = [asdict(race) for race in races if race.title not in done]
        words = [sys.executable, "-m", "bench.gpu.racing", json.dumps(left), str(seconds)]
        return [*words, *hung, *lost]

    def take(event: dict) -> None:
        if event["event"] == "record":
            record = Record.of_line(event["line"])
            records[record.case, record.contender, record.mode] = record
            with file.open("a", encoding="utf-8") as written:
                written.write(json.dumps(event["line"]) + "\n")
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
    where = ", ".join(race.title for race in races if race.title not in done)
    for label, why in lost.items():
        if why == HUNG and label != "all":
            hung[label] = f"hung in {where}; not started again"
    for race in races:
        if race.title not in done:
            print(f"{race.title}: not raced to its end")
    dtype = PRECISIONS[races[0].precision][0]
    absent = [
        Record("gpu-race", where, label, MODES[0], why=why, dtype=dtype, device=DEVICE)
        for label, why in (hung | lost).items()
    ]
    return [*records.values(), *absent]


def main(races: str, seconds: str, *without: str) -> None:
    """Run races one after another; say which begins and which has ended."""
    for fields in json.loads(races):
        of = GpuRace(**fields)
        say(of.title, "race")
        race(of, float(seconds), without)
        say(of.title, "raced")


if __name__ == "__main__":
    main(*sys.argv[1:])
