"""What a run says while it goes on, and what it leaves to be drawn.

Lines on standard output; progress bars where a person watches; a line of log.csv for each figure,
and what shows it: TensorBoard, Weights & Biases.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from lm.command import UserError, reason
from lm.files import write_atomically

FILE = "log.csv"
# seconds are wall time of the run, evaluation included; perplexity of "train" is that of the epoch
# so far; norm, clipped part and speed are those since the line before.
FIGURES = ("learning_rate", "grad_norm", "clip_fraction", "words_per_second")
COLUMNS = ("step", "epoch", "words", "seconds", "split", "perplexity", *FIGURES)


class Log:
    """Lines on standard output; on standard error, if it is a terminal, progress bars in words.

    A `silent` one says nothing: of several ranks one speaks.
    """

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._bars: list[tqdm] = []
        self._terminal: Any = None

    def line(self, text: str) -> None:
        """Print a line above the bar, at once even through a pipe."""
        if not self._silent:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def field(self, name: str, text: str) -> None:
        """Print a line of the header."""
        self.line(f"{name:<9} {text}")

    @contextlib.contextmanager
    def bar(self, name: str, words: int, done: int = 0) -> Iterator[None]:
        """Show how many of `words` words are read, how fast, and the time left.

        What anything else writes to standard error meanwhile, such as a warning, goes above it.
        """
        hidden = self._silent or not sys.stderr.isatty()
        if hidden:
            yield
            return
        self._terminal = self._terminal or sys.stderr
        bar = tqdm(
            total=words, initial=done, desc=name, unit=" words", unit_scale=True,
            file=self._terminal, dynamic_ncols=True, leave=not self._bars,
        )  # fmt: skip
        self._bars.append(bar)
        above_the_bar: Any = DummyTqdmFile(self._terminal)
        try:
            with contextlib.redirect_stderr(above_the_bar):
                yield
        finally:
            self._bars.pop().close()
            if self._bars:
                self._bars[-1].unpause()  # its time left is that of training

    def advance(self, words: int) -> None:
        """Count words that were read, in the bar that was opened last."""
        if self._bars:
            self._bars[-1].update(words)


class Record:
    """A run's figures in `directory`/log.csv, unless that is None, and where they are watched.

    A run that goes on from a checkpoint at `step` drops what was recorded after it, and a figure
    that is there already is not written again. Raises UserError where a file cannot be written.
    """

    def __init__(
        self, directory: Path | None = None, tensorboard: Path | None = None,
        wandb: str | None = None, settings: Mapping[str, Any] | None = None, step: int = 0,
    ) -> None:  # fmt: skip
        self._path = None if directory is None else directory / FILE
        self._seen: set[tuple[int, str]] = set()
        self._board: Any = None
        self._wandb: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What a run that goes on at `step` wrote after it is hidden.
            self._board = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)
        if wandb is not None:
            import wandb as weights_and_biases

            self._wandb = weights_and_biases.init(project=wandb, config=dict(settings or {}))
        if self._path is not None:
            try:
                old = read_log(self._path) if step and self._path.exists() else []
            except UserError as error:
                raise UserError(f"{error}; it may be removed: the run goes on without it") from None
            rows = [row for row in old if row["step"] <= step]
            self._seen = {(row["step"], row["split"]) for row in rows}
            content = io.StringIO()
            writer = csv.DictWriter(content, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self._path, content.getvalue().encode())

    def write(self, row: Mapping[str, Any]) -> None:
        """Record a figure: a value for each of COLUMNS; None, or left out, where there is none."""
        if (row["step"], row["split"]) in self._seen:
            return
        self._seen.add((row["step"], row["split"]))
        values = {f"perplexity/{row['split']}": row["perplexity"]}
        values |= {name: row[name] for name in FIGURES if row.get(name) is not None}
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, row["step"])
            self._board.flush()  # a killed run has them too
        if self._wandb is not None:
            self._wandb.log(values, step=row["step"])
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write '{self._path}': {error.strerror}") from None

    def close(self) -> None:
        """Write everything."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.csv, numbers as numbers, and None where there is none.

    A last line that a killed run left half written is dropped. UserError where it is no log.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        complete = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(complete, newline="")))
        if rows and set(rows[0]) != set(COLUMNS):
            raise UserError(f"{path} is not a log of lm.train")
        return [{name: _value(name, text) for name, text in row.items()} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {reason(error)}") from None


def _value(name: str | None, text: str) -> Any:
    """Return a field of a line; ValueError, or TypeError where the line is too short or long."""
    if name in ("step", "epoch", "words"):
        return int(text)
    if name == "split" or (name in FIGURES and not text):
        return text or None
    return float(text)
