"""What every `python -m lm.*` shares: its arguments, and one line and status 2 for a mistake."""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fused_lstm import ENGINES


class UserError(Exception):
    """A mistake that the user can mend: one line, shown without a traceback."""


def reason(error: BaseException) -> str:
    """Return an exception's message in a line: the system's words, its first line, or its kind."""
    message = str(getattr(error, "strerror", None) or error)
    return (message.splitlines() or [type(error).__name__])[0]


def one_line(text: object) -> str:
    """Return `text` in one line of printable characters, others escaped: a name may hold any."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def run_command(name: str, run: Callable[[], int | None]) -> int:
    """Call `run`, the command called `name`; return the exit status, and print what failed.

    The status is 0 or what `run` returns; 2 for what the user can mend, too little memory
    included; 130 after Ctrl-C; 141 where the reader of standard output went away (`| head`).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever a name or a prompt holds
    try:
        status = run() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        message = one_line(error)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still buffered would be written, and fail again, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:  # one that an extra brings
        message = f"needs {error.name}: pip install {error.name}"
    except OSError as error:
        name_of_file = f"'{error.filename}': " if error.filename else ""
        message = one_line(f"{name_of_file}{reason(error)}")
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        if not out_of_memory(error):
            raise
        amount = re.search(r"[\d.]+ ([kKMGT]i?B|bytes)", str(error))
        what = f" for {amount[0]} more" if amount else ""
        message = f"not enough memory{what}; try a smaller model or batch"
    print(f"{name}: {message}", file=sys.stderr)
    return 2


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error is one of memory, PyTorch's or an engine's.

    A size that is no 64-bit number is one too: PyTorch and Python call that an overflow.
    """
    named = re.search("out of memory|allocate memory|tried to allocate|overflow", str(error), re.I)
    return isinstance(error, MemoryError | OverflowError) or named is not None


# --- arguments ---


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line: the usage would fill a screen."""

    def __init__(self, name: str, description: str | None, **options: Any) -> None:
        super().__init__(
            f"python -m {name}", description=description, allow_abbrev=False, **options
        )
        self._name = name

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self._name}: {one_line(message)}\n")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `open_low` and `open_high` leave the end itself out.

    A whole number of more than 64 bits is in no range: what it is for could not use it.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        usable = value.bit_length() < 64 if isinstance(value, int) else math.isfinite(value)
        return above and below and usable

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        high = f"less than {self.high:g}" if self.open_high else f"at most {self.high:g}"
        return low if math.isinf(self.high) else f"{low} and {high}"


COUNT = Range(1)
POSITIVE = Range(0, open_low=True)
PART = Range(0, high=1)
SHARE = Range(0, high=1, open_low=True)
THREADS = Range(1, 1024)  # more cannot be had everywhere, and OpenMP ends the process then
SEED = Range(0, 2**63 - 1)


def number(kind: type, valid: Range) -> Callable[[str], int | float]:
    """Return argparse's `type=` for an int or a float within `valid`."""

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value not in valid:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {what}, {valid}")
        return value

    return convert


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the directory of a trained model, and --best."""
    text = "what `lm.train --save` wrote: a directory of checkpoints, or one of them"
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help=text)
    text = "the checkpoint of the lowest validation perplexity [the newest]"
    parser.add_argument("--best", action="store_true", help=text)


def add_engine(parser: Any) -> None:
    """Add what runs the model; `parser` may be a group of one."""
    add = parser.add_argument
    add("--lstm", default="auto", metavar="ENGINE", help=f"{', '.join(('auto', *ENGINES))} [auto]")
    levels = dict.fromkeys(level for engine in ENGINES.values() for level in engine.fuses)
    add("--fuse", metavar="LEVEL", help=f"what a launch covers: {', '.join(levels)} [the most]")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 [an accelerator if there is one]")
    add("--threads", type=number(int, THREADS), metavar="N", help="of the CPU [PyTorch's choice]")
