"""What every `python -m lm.*` shares: one line for an error, no traceback however it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from lm.errors import UserError


@contextlib.contextmanager
def main_imports(name: str) -> Iterator[None]:
    """Around a command's imports: Ctrl-C while PyTorch loads ends the process, quietly.

    `name` is the importing module's `__name__`: unless that is the program itself, Ctrl-C is left
    to whoever imports it.
    """
    if name != "__main__":
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def run_command(name: str, run: Callable[[], int | None]) -> int:
    """Call `run`, the command called `name`; return the exit status, saying on stderr what failed.

    0 or what `run` returns; 2 for what the user can mend; 130 after Ctrl-C; 141 where the reader
    of standard output went away, as `| head` does.
    """
    try:
        status = run() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still buffered would be written, and fail again, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status
