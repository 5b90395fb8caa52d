"""`python -m bench.cpu_short`: calls of a few rows on this CPU, one token or a short text.

What a trained LSTM does most: B=1, two layers, no gradients, T=1 and T=16, in float32 and bfloat16.
The native engine beside nn.LSTM and, where they are installed, ONNX Runtime and OpenVINO. Answers
are checked before anything is timed. Contenders take turns by bursts of calls, of which the first,
which finds another one's weights in the cache, does not count: a text is generated call by call.

GB/s: of the weights that a call cannot do without, those of the input once and the recurrent ones
at every step. The machine's own are those of a sum over as many bytes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import torch

from . import peers
from .check import require_right
from .contenders import Contender
from .cpu import CPU, LSTMS, OURS, RUNGS, STOCK, common_parser, may_run, save
from .local import Local
from .machine import describe, in_a_line
from .peers.remote import Remote
from .timing import Timed, interleave, quartiles, timed
from .work import SIZES, Shape, make_problem

LAYERS, STEPS = 2, (1, 16)
WIDTHS = {name: SIZES[name].H for name in ("medium", "large")}
DTYPES = (torch.float32, torch.bfloat16)
ENGINES = {STOCK: LSTMS[0], OURS: RUNGS[-1]}
PEERS = ("onnxruntime", "openvino")
CALLS = 8  # of a burst
# dtype -> how many times as fast as nn.LSTM it should be at least, and what is aimed at.
GOALS = {torch.float32: (2.0, 2.0), torch.bfloat16: (2.0, 5.0)}


class Row(NamedTuple):
    """A shape in a dtype, and who took how long: seconds of the median call of each burst."""

    shape: Shape
    dtype: torch.dtype
    samples: dict[str, list[float]]

    def bytes(self) -> int:
        """Of weights, as the module's text says."""
        size = 4 * self.shape.H * torch.empty(0, dtype=self.dtype).element_size()
        inputs = self.shape.I + (self.shape.L - 1) * self.shape.H
        return size * (inputs + self.shape.T * self.shape.L * self.shape.H)

    def as_json(self) -> dict:
        name = str(self.dtype).removeprefix("torch.")
        return {"shape": self.shape._asdict(), "dtype": name, "samples": self.samples}


def burst(call: Timed) -> Timed:
    """The median of some calls in a row, less the first."""
    return lambda: statistics.median([call() for _ in range(1 + CALLS)][1:])


def racing(dtype: torch.dtype) -> list[Contender]:
    """The peers that can run here in a dtype."""
    name = str(dtype).removeprefix("torch.")
    able = (p for p in PEERS if peers.missing(p, CPU) is None and name in peers.PEERS[p].dtypes)
    return [Contender(peer, peer, None, peer=True) for peer in able]


def measure(shape: Shape, dtype: torch.dtype, seconds: float) -> Row:
    """Everyone's time for a shape.

    Raises:
        WrongAnswer: an answer is not nn.LSTM's.
    """
    problem = make_problem(shape, dtype=dtype)
    runners = {name: Local(contender, problem) for name, contender in ENGINES.items()}
    with ExitStack() as stack:
        for peer in racing(dtype):
            runners[peer.label] = stack.enter_context(closing(Remote(peer, problem)))
        expected = {key: t for key, t in runners[STOCK].answer().items() if "grad" not in key}
        for name, runner in runners.items():
            require_right(name, runner.answer(), expected)
        cases = {name: burst(runner.timed("inference")) for name, runner in runners.items()}
        return Row(shape, dtype, interleave(cases, seconds))


def read_rate(size: int) -> float:
    """Bytes a second of a sum over `size` bytes, again and again."""
    numbers = torch.ones(size // 4)
    return size / statistics.median([timed(numbers.sum, CPU)() for _ in range(20)][1:])


# --- what is printed ---


def lines(row: Row) -> list[str]:
    """A line for each contender."""
    medians = {name: quartiles(sample).median for name, sample in row.samples.items()}
    label, dtype = f"T={row.shape.T:<4}H={row.shape.H}", str(row.dtype).removeprefix("torch.")
    found = []
    for name, sample in row.samples.items():
        q1, median, q3 = (1000 * q for q in quartiles(sample))
        ratio = medians[name] / medians[OURS]
        said = f"{label:13}{dtype:10}{name:12}{f'{median:.3f} ({q1:.3f} to {q3:.3f})':28}"
        said += f"{row.bytes() / medians[name] / 1e9:6.0f}{ratio:8.2f}"
        if name == STOCK:
            floor, target = GOALS[row.dtype]
            said += "  target" if ratio >= target else "  floor" if ratio >= floor else "  BELOW"
        found.append(said)
    return found


def run(given: argparse.Namespace) -> dict:
    """Everything that was measured, as it goes into the file."""
    machine, found = describe(CPU), []
    print(f"{in_a_line(machine)}\nnative: {machine['engines']['native']}\n")
    print(f"B=1 L={LAYERS}{'':16}{'':12}{'ms (quartiles)':28}{'GB/s':>6}{'/ ours':>8}")
    for size in given.size or WIDTHS:
        H = WIDTHS[size]
        for T in STEPS:
            for dtype in DTYPES:
                row = measure(Shape(T, 1, H, H, LAYERS), dtype, given.seconds)
                print("\n".join(lines(row)), flush=True)
                found.append(row)
    rates = {row.bytes(): read_rate(row.bytes()) for row in found if row.shape.T == 1}
    for size, rate in rates.items():
        print(f"a sum over {size / 1e6:.0f} MB: {rate / 1e9:.0f} GB/s")
    return {"machine": machine, "measured": [row.as_json() for row in found], "reads": rates}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = common_parser("cpu_short", __doc__, seconds=5.0)
    about = "only this width; may be given again"
    parser.add_argument("--size", action="append", choices=list(WIDTHS), help=about)
    given = parser.parse_args(argv)
    if not may_run("cpu_short", given):
        return 2
    torch.set_num_threads(given.threads)
    save(run(given), given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
