"""Commands `python -m lm.*`: their arguments, and one line and status 2 for a mistake."""

from __future__ import annotations

import argparse
import functools
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fused_lstm import ENGINES


class UserError(Exception):
    """A mistake that the user can mend: one line, shown without a traceback."""


def reason(error: BaseException) -> str:
    """Return an exception's message in a line: the system's words, its first line, or its kind."""
    message = str(getattr(error, "strerror", None) or error)
    return (message.splitlines() or [type(error).__name__])[0]


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., int]]:
    """Return what makes of a function of a command line the command called `name`.

    Its mistakes are printed in a line, and it returns an exit status: 0, or what the function
    exits with; 2 for what the user can mend, too little memory included; 130 after Ctrl-C; 141
    where the reader of standard output went away (`| head`).
    """

    def decorate(main: Callable[..., None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            if isinstance(sys.stdout, io.TextIOWrapper):  # whatever a name or a prompt holds
                sys.stdout.reconfigure(errors="backslashreplace")
            try:
                main(argv)
                sys.stdout.flush()
                return 0
            except SystemExit as error:
                return int(error.code or 0)
            except BrokenPipeError:
                # What is still buffered would be written, and fail again, when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 128 + signal.SIGPIPE
            except KeyboardInterrupt:
                status, message = 128 + signal.SIGINT, "interrupted"
            except ModuleNotFoundError as error:  # one that an extra brings
                status, message = 2, f"needs {error.name}: pip install {error.name}"
            except UserError as error:
                status, message = 2, str(error)
            except OSError as error:
                named = f"'{error.filename}': " if error.filename else ""
                status, message = 2, f"{named}{reason(error)}"
            except (MemoryError, OverflowError, RuntimeError) as error:
                text = f"{type(error).__name__} {error}"
                if not re.search(
                    "MemoryError|out of memory|tried to allocate|overflow", text, re.I
                ):
                    raise
                message = f"not enough memory; try a smaller model or batch ({reason(error)})"
                status = 2
            # A name may hold any character: the line stays one.
            line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
            print(f"{name}: {line}", file=sys.stderr)
            return status

        return run

    return decorate


# --- arguments ---


class Parser(argparse.ArgumentParser):
    """Raises UserError for a wrong command line: the usage would fill a screen."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(f"python -m {name}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def number(kind: type, expected: str, valid: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Return argparse's `type=` for the ints or floats that are `valid`; others are an error."""

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not valid(value):
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {expected}")
        return value

    return convert


COUNT = number(int, "a whole number, at least 1", lambda n: 1 <= n < 2**31)
WHOLE = number(int, "a whole number, at least 0", lambda n: 0 <= n < 2**31)
SEED = number(int, "a whole number, at least 0", lambda n: 0 <= n < 2**63)
# More threads cannot be had everywhere, and OpenMP ends the process then.
THREADS = number(int, "a whole number from 1 to 1024", lambda n: 1 <= n <= 1024)
POSITIVE = number(float, "a number more than 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = number(float, "a number, at least 0", lambda x: 0 <= x < math.inf)
PART = number(float, "a number from 0 to 1", lambda x: 0 <= x <= 1)
SHARE = number(float, "a number more than 0 and at most 1", lambda x: 0 < x <= 1)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the directory of a trained model, and --best."""
    text = "what `lm.train --save` wrote: a directory of checkpoints, or one of them"
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help=text)
    text = "the checkpoint of the lowest validation perplexity [the newest]"
    parser.add_argument("--best", action="store_true", help=text)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add the dtype that an LSTM's weights are packed in, once, for inference."""
    text = "pack the LSTM's weights once, as float32, bfloat16 or int8; a CPU's"
    parser.add_argument("--weights", choices=("float32", "bfloat16", "int8"), help=text)


def add_engine(parser: Any) -> None:
    """Add what runs the model; `parser` may be a group of one."""
    add = parser.add_argument
    add("--lstm", default="auto", metavar="ENGINE", help=f"{', '.join(('auto', *ENGINES))} [auto]")
    levels = dict.fromkeys(level for engine in ENGINES.values() for level in engine.fuses)
    add("--fuse", metavar="LEVEL", help=f"what a launch covers: {', '.join(levels)} [the most]")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 [an accelerator if there is one]")
    add("--threads", type=THREADS, metavar="N", help="of the CPU [PyTorch's choice]")
