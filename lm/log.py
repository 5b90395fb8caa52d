"""What a run tells while it goes on: lines on standard output, a bar where a person watches."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Log:
    """Lines on standard output, and on standard error, if it is a terminal, a progress bar."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def start(self, steps: int) -> None:
        """Begin a bar of `steps` training steps."""
        hidden = not sys.stderr.isatty()
        self._bar = tqdm(total=steps, unit="step", disable=hidden, dynamic_ncols=True)

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def line(self, text: str) -> None:
        """A line above the bar, at once even through a pipe."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def field(self, name: str, text: str) -> None:
        """A line of the header."""
        self.line(f"{name:<9} {text}")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
