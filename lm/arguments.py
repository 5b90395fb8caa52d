"""Command-line arguments that the commands of `lm` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from fused_lstm import ENGINES
from lm.config import Range
from lm.errors import one_line

COUNT = Range(1)
THREADS = Range(1, 1024)  # more cannot be had everywhere, and OpenMP ends the process then
SEED = Range(0, 2**63 - 1)
# What --lstm and --fuse take.
ENGINE = ", ".join(("auto", *ENGINES))
LEVEL = "what a launch covers: "
LEVEL += ", ".join(dict.fromkeys(chain.from_iterable(e.fuses for e in ENGINES.values())))


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line: the usage would fill a screen."""

    def __init__(self, name: str, description: str | None, **options: Any) -> None:
        options = {"allow_abbrev": False, **options}
        super().__init__(prog=f"python -m {name}", description=description, **options)
        self._name = name

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self._name}: {one_line(message)}\n")


def number(kind: type, valid: Range) -> Callable[[str], int | float]:
    """For `type=`: an int or a float within `valid`, or an error that says what it should be."""

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value not in valid:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what}, {valid}; got {text!r}")
        return value

    return convert


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The directory of a trained model, and --best."""
    what = "what `lm.train --save` wrote: a directory of checkpoints, or one of them"
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help=what)
    what = "the checkpoint of the lowest validation perplexity [the newest]"
    parser.add_argument("--best", action="store_true", help=what)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """What runs a trained model."""
    add = parser.add_argument
    add("--lstm", default="auto", metavar="ENGINE", help=f"{ENGINE} [auto]")
    add("--fuse", metavar="LEVEL", help=f"{LEVEL} [the engine's most]")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 [an accelerator if there is one]")
    add("--threads", type=number(int, THREADS), metavar="N", help="of the CPU [PyTorch's choice]")
