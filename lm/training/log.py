"""What a run tells while it goes on: lines on standard output, a bar where a person watches."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Log:
    """Lines on standard output, and on standard error, if it is a terminal, a progress bar.

    A `silent` one says nothing: of several processes one speaks.
    """

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._bar: tqdm | None = None

    def start(self, steps: int, done: int = 0) -> None:
        """Begin a bar of `steps` training steps, of which `done` have been made before."""
        hidden = self._silent or not sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=hidden, dynamic_ncols=True)

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def line(self, text: str) -> None:
        """A line above the bar, at once even through a pipe."""
        if not self._silent:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def field(self, name: str, text: str) -> None:
        """A line of the header."""
        self.line(f"{name:<9} {text}")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
