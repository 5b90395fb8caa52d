"""What every `python -m lm.*` shares: one line for an error, no traceback however it is stopped."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lm.errors import UserError, one_line

INSTALL = {"fused_lstm": "pip install --no-build-isolation -e ."}  # else the extra `lm` brings it


@contextlib.contextmanager
def main_imports(name: str) -> Iterator[None]:
    """Around a command's imports: Ctrl-C while PyTorch loads ends the process, quietly.

    A package that is missing is one line, which says how to install it, and exit status 2. `name`
    is the importing module's `__name__`: unless that is the program itself, both are left to
    whoever imports it.
    """
    if name != "__main__":
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        command = INSTALL.get(package, "pip install 'fused-lstm[lm]'")
        print(f"lm.{Path(sys.argv[0]).stem} needs {package}: {command}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGINT, handler)


def run_command(name: str, run: Callable[[], int | None]) -> int:
    """Call `run`, the command called `name`; return the exit status, saying on stderr what failed.

    0 or what `run` returns; 2 for what the user can mend, too little memory included; 130 after
    Ctrl-C; 141 where the reader of standard output went away, as `| head` does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever a name or a prompt holds
    try:
        status = run() or 0
        sys.stdout.flush()
    except UserError as error:
        return _refuse(name, error)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still buffered would be written, and fail again, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        if (what := _memory(error)) is None:
            raise
        return _refuse(name, f"not enough memory{what}: try a smaller model or batch")
    return status


def _refuse(name: str, what: object) -> int:
    print(f"{name}: {one_line(what)}", file=sys.stderr)
    return 2


def _memory(error: Exception) -> str | None:
    """What to say of an error that is one of memory: PyTorch's on a CPU is like any other.

    A size that is no 64-bit number is one too.
    """
    if isinstance(error, MemoryError) or "verflow" in str(error):
        return ""
    found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    return found and f" for {found[1]} more"
