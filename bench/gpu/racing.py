"""The races on a GPU, each in a process of its own, and again without whoever hung or broke it.

`python -m bench.gpu.racing RACE SECONDS LABEL...`: a race, as JSON, without these contenders.
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

from .. import core, lstm
from ..cases import CASES, Case, Shape
from ..contenders import everyone
from ..core import Group, Pace, Record, Turn, measure
from ..lstm import GRAPH
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
DEVICE = "cuda"
EXCLUDED = ("compile",)  # minutes of compilation


@dataclass(frozen=True)
class GpuRace:
    """One race. `published`: what others measured at this shape."""

    name: str
    precision: str
    shape: Sequence[int]
    published: str = ""


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
    home = [(H, B) for B in (16, 64) for H in (1024, 512)]
    wide = [GpuRace(f"H={H} B={B}", "fp16", (1024, B, H, H, 1)) for H, B in home]
    return [flash, *treebank, *wide]


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


def race(of: GpuRace, seconds: float, without: Sequence[str]) -> None:
    """Run a race; say each record as it is measured."""
    device = torch.device(DEVICE)
    dtype, tf32 = PRECISIONS[of.precision]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if tf32:
        core.TOLERANCE[torch.float32] = TF32_TOLERANCE
    entered = [c for c in everyone() if c.engine not in EXCLUDED and c.label not in without]
    case = Case(of.name, Shape(*of.shape))
    suite = Namespace(cases=[case], dtypes=[dtype], contenders=lambda: entered)
    (task,) = lstm.tasks(suite, Namespace(device=device, engines="all"))
    about = {"suite": "gpu", "case": of.name, "mode": MODES[0], "dtype": dtype}
    for label, why in task.whys.items():
        say(label, "record", line=Record(contender=label, why=why, **about).line())
    build = {label: partial(Named, label, device, make) for label, make in task.build.items()}
    group = Group(replace(task, build=build))
    for mode in MODES:
        conditions = {"precision": of.precision}
        for record in measure("gpu", group, [mode], Pace(seconds, least=3), device, conditions):
            say(record.contender, "record", line=record.line())
    group.close()


# --- in the parent ---


def supervise(
    of: GpuRace, seconds: float, deadline: float, hung: dict[str, str], file: Path
) -> list[Record]:
    """Return a race's records; write each into a file as it comes.

    Args:
        hung: label -> why, of those who hung in an earlier race: they are not started again, and
            who hangs in this one joins them.
    """
    records: dict[tuple[str, str], Record] = {}

    def command(lost: Sequence[str]) -> list[str]:
        words = [sys.executable, "-m", "bench.gpu.racing", json.dumps(asdict(of)), str(seconds)]
        return [*words, *hung, *lost]

    def take(event: dict) -> None:
        if event["event"] == "record":
            record = Record.of_line(event["line"])
            records[record.contender, record.mode] = record
            with file.open("a", encoding="utf-8") as written:
                written.write(json.dumps(event["line"]) + "\n")
            print(f"  {record.mode:14} {record.contender:16}"
                  f" {record.why or f'{1e3 * record.median:.4g} ms'}", flush=True)  # fmt: skip

    lost = outlive(command, take, deadline)
    why_not = hung | lost
    for label, why in lost.items():
        if why == HUNG and label != "all":
            hung[label] = f"hung in {of.name}, {of.precision}; not started again"
    dtype = PRECISIONS[of.precision][0]
    absent = [
        Record("gpu", of.name, label, MODES[0], why=why, dtype=dtype, device=DEVICE)
        for label, why in why_not.items()
    ]
    return [*records.values(), *absent]


if __name__ == "__main__":
    race(GpuRace(**json.loads(sys.argv[1])), float(sys.argv[2]), sys.argv[3:])
