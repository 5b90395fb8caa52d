"""Time a model of your own with torch's recurrent layers, and with this library's kernels.

    python -m fused_lstm.compare my_module:build
    python -m fused_lstm.compare path/to/my_module.py:build --threads 1 --seconds 20

`build` takes nothing and returns a model and its inputs: a tensor, a tuple of positional arguments,
or a dict of keyword arguments. The model stays as it is: fused_lstm.install() switches the kernels
under torch's layers on and off, and the two take turns. First outputs and gradients are compared.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.benchmark import Timer

from .adopt.explain import explain
from .adopt.install import install
from .errors import first_line

# By dtype: how far two right answers may be apart, as a part of the value's norm.
ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
RESAMPLES = 1000  # of a bootstrap
LEAST, FEWEST = 5, 10  # rounds; of a 95% interval, below which the range of the rounds is said


class Refused(Exception):
    """A reason, in one line, why a model cannot be compared."""


class Difference(NamedTuple):
    """The largest difference between two runs: a part of the value's norm, and where it is."""

    part: float
    name: str
    allowed: float


class Times(NamedTuple):
    """Seconds of torch's layers and of ours, in turns, and how many times as fast ours are."""

    torch: float
    ours: float
    ratio: float
    low: float  # of a 95% interval, or of a few rounds' range
    high: float
    rounds: int


class Model:
    """A model and its inputs, as `build` returned them."""

    def __init__(self, model: Any, inputs: Any) -> None:
        if not isinstance(model, nn.Module):
            got = type(model).__name__
            raise Refused(f"build: got {got} as the model; expected a torch.nn.Module")
        self.model = model
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping):
            self.kwargs = dict(inputs)
        elif isinstance(inputs, tuple | list):
            self.args = tuple(inputs)
        else:
            self.args = (inputs,)

    def outputs(self) -> list[Tensor]:
        """Run the model and return the tensors of its output that are differentiable numbers."""
        try:
            found = pytree.tree_leaves(self.model(*self.args, **self.kwargs))
        except Exception as error:
            raise Refused(f"model: its forward failed: {_why(error)}") from error
        tensors = [t for t in found if isinstance(t, Tensor) and t.is_floating_point()]
        if not tensors:
            raise Refused("build: got a model whose output has no tensor of numbers; expected one")
        return tensors

    def inference(self) -> None:
        """Run the model in evaluation, keeping nothing for a backward."""
        with torch.no_grad():
            self.outputs()

    def step(self) -> None:
        """Run forward and backward, of the sum of all outputs."""
        self.model.zero_grad(set_to_none=True)
        loss = torch.stack([t.float().sum() for t in self.outputs() if t.requires_grad]).sum()
        try:
            loss.backward()
        except Exception as error:
            raise Refused(f"model: its backward failed: {_why(error)}") from error

    def answer(self) -> dict[str, Tensor]:
        """Return outputs and gradients in evaluation, where nothing is dropped, by name."""
        self.model.eval()
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        outputs = self.outputs()
        named = {f"output {n}": t.detach().clone() for n, t in enumerate(outputs)}
        differentiable = [t for t in outputs if t.requires_grad]
        if differentiable:
            generator = torch.Generator().manual_seed(0)
            weights = [torch.randn(t.shape, generator=generator).to(t) for t in differentiable]
            try:
                torch.autograd.backward(differentiable, weights)
            except Exception as error:
                raise Refused(f"model: its backward failed: {_why(error)}") from error
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                named[name] = parameter.grad.clone()
        self.model.zero_grad(set_to_none=True)
        return named


def load(target: str) -> Model:
    """Return the model that a function builds; target: `module:function` or `file.py:function`."""
    return Model(*built(target, "the model and its inputs"))


def built(target: str, expected: str) -> tuple[Any, ...]:
    """Return what a function builds.

    Args:
        target: `module:function` or `file.py:function`.
        expected: the parts of the tuple that it has to return, as "the model and its inputs".

    Raises:
        Refused: there is no such function, it failed, or it returned something else.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise Refused(f"target: got {target!r}; expected module:function, such as my_model:build")
    try:
        if place.endswith(".py"):
            module = _of_file(Path(place))
        else:
            sys.path.insert(0, "")  # as `python -c` has it: the current folder
            module = importlib.import_module(place)
    except ImportError as error:
        raise Refused(f"target: got {target!r}, which cannot be imported: {error}") from None
    except Refused:
        raise
    except Exception as error:  # whatever a module does while it is imported
        raise Refused(f"target: got {target!r}, whose import failed: {_why(error)}") from error
    build = getattr(module, name, None)
    if not callable(build):
        raise Refused(f"target: got {target!r}; expected a function {name!r} in {place}")
    try:
        made = build()
    except Exception as error:
        raise Refused(f"build: it failed: {_why(error)}") from error
    count = 2 + expected.count(", ")
    if not isinstance(made, tuple) or len(made) != count:
        got = type(made).__name__
        raise Refused(f"build: got {got}; expected {count} values: {expected}")
    return made


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _of_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise Refused(f"target: got {str(path)!r}; expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # for what pickles or inspects its classes
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def differences(model: Model) -> tuple[Difference, Difference | None]:
    """Return the largest difference of outputs, and of gradients, between torch's and ours."""
    theirs = model.answer()
    with install():
        ours = model.answer()
    found: dict[bool, list[Difference]] = {True: [], False: []}
    for name, expected in theirs.items():
        norm = expected.double().norm().clamp(min=1e-30)
        part = ((ours[name].double() - expected.double()).norm() / norm).item()
        allowed = ALLOWED.get(expected.dtype, 1e-3)
        found[name.startswith("output ")].append(Difference(part, name, allowed))
    worst = [max(of, key=lambda d: d.part / d.allowed, default=None) for of in found.values()]
    assert worst[0] is not None
    return worst[0], worst[1]


def times(run: Callable[[], None], seconds: float) -> Times:
    """Time a run with torch's layers and with ours, which take turns in a random order."""
    # It waits for a GPU, and collects no garbage meanwhile.
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())

    def timed() -> float:
        return timer.timeit(1).mean

    def installed() -> float:
        with install():
            return timed()

    ways = [timed, installed]
    for way in ways:
        way()  # what is compiled, packed or allocated at first
    taken: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[0]) < LEAST:
        for n in random.sample([0, 1], 2):
            taken[n].append(ways[n]())
    torchs, ours = (statistics.median(of) for of in taken)
    rounds, draw = list(zip(*taken, strict=True)), random.Random(0)
    ratios = sorted(a / b for a, b in rounds)
    if len(rounds) >= FEWEST:
        some = (zip(*draw.choices(rounds, k=len(rounds)), strict=True) for _ in range(RESAMPLES))
        medians = (map(statistics.median, of) for of in some)
        ratios = sorted(a / b for a, b in medians)[int(0.025 * RESAMPLES) : -int(0.025 * RESAMPLES)]
    return Times(torchs, ours, torchs / ours, ratios[0], ratios[-1], len(rounds))


def report(model: Model, seconds: float) -> tuple[str, bool]:
    """Return the comparison as text, and whether all answers agree.

    Args:
        seconds: how long to time inference, and as long training steps.

    Raises:
        Refused: the model has no recurrent layer that would run our kernels.
    """
    with install():
        layers = explain(model.model)
    if not layers:
        got = type(model.model).__name__
        raise Refused(
            f"model: got {got}, which has no recurrent layers; expected one with an nn.LSTM, nn.GRU"
            " or nn.RNN, or one of their cells"
        )
    if all(what.startswith("torch's own") for what in layers.values()):
        raise Refused(
            "model: got one all of whose recurrent layers stay torch's own; expected one that runs"
            f" ours: {next(iter(layers.values()))}"
        )
    width = max(map(len, layers))
    lines = [f"{name or '(the model)':{width}}  {what}" for name, what in layers.items()]
    outputs, gradients = differences(model)
    lines += ["", _said("outputs", outputs)]
    lines += [_said("gradients", gradients)] if gradients else []
    agree = all(d.part <= d.allowed for d in (outputs, gradients) if d is not None)
    threads = torch.get_num_threads()
    lines += ["", f"{'ms, ' + str(threads) + ' threads':16}{'torch':>10}{'fused_lstm':>13}  speed"]
    was_training = model.model.training
    runs: list[tuple[str, bool, Callable[[], None]]] = [("inference", False, model.inference)]
    if gradients:
        runs.append(("training step", True, model.step))
    for name, training, run in runs:
        model.model.train(training)
        try:
            of = times(run, seconds)
        except Refused as error:  # such as a BatchNorm that trains on a single row
            lines.append(f"{name:16}not timed: {error}")
            continue
        each = f"{name:16}{1e3 * of.torch:10.3f}{1e3 * of.ours:13.3f}"
        what = "95%" if of.rounds >= FEWEST else "range"
        ends = f"{of.low:.2f} to {of.high:.2f}, {what} of {of.rounds} rounds"
        lines.append(f"{each}  {of.ratio:.2f}x ({ends})")
    model.model.train(was_training)
    return "\n".join(lines), agree


def _said(what: str, difference: Difference) -> str:
    part, name, allowed = difference
    verdict = "equal to rounding" if part <= allowed else "DIFFERENT"
    return f"{what}: {verdict}; at most {part:.1e} of the norm, at {name} ({allowed:g} allowed)"


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what was wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}\n")


def parser_of(command: str, description: str) -> Parser:
    """Return a parser of a command's target, seconds and threads."""
    parser = Parser(
        prog=f"python -m fused_lstm.{command}", description=description.partition("\n")[0]
    )
    parser.add_argument("target", help="module:function or file.py:function")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing, each [%(default)s]")
    parser.add_argument("--threads", type=int, help="torch's threads [as torch has them]")
    return parser


def set_threads(parser: Parser, options: argparse.Namespace) -> None:
    """Set torch's threads as options ask; end with status 2 where an option cannot be."""
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads: got {options.threads}; expected 1 or more")
        if options.threads > (cores := os.cpu_count() or 1):
            print(
                f"--threads: {options.threads} on {cores} cores: slow, and no comparison",
                file=sys.stderr,
            )
        torch.set_num_threads(options.threads)
    if not options.seconds > 0:
        parser.error(f"--seconds: got {options.seconds:g}; expected more than 0")


def main(arguments: list[str] | None = None) -> int:
    """Compare the model that the command line names; return 1 where that fails."""
    parser = parser_of("compare", __doc__ or "")
    options = parser.parse_args(arguments)
    set_threads(parser, options)
    try:
        text, agree = report(load(options.target), options.seconds)
    except Refused as error:
        print(f"fused_lstm.compare: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
