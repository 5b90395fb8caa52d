"""What a run leaves to be drawn: a line of log.csv for each line of its log, and what watches it.

A watcher, TensorBoard's or Weights & Biases', is what `log(step, values)` and `close()` make it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lm.errors import UserError, reason
from lm.saving.files import sync, write_atomically

FILE = "log.csv"
# seconds are wall time of the run, evaluation included; perplexity of "train" is that of the epoch
# so far; norm, clipped part and speed are those since the line before.
FIGURES = ("learning_rate", "grad_norm", "clip_fraction", "words_per_second")
COLUMNS = ("step", "epoch", "words", "seconds", "split", "perplexity", *FIGURES)


class Watcher(Protocol):
    """Shows a run's curves while it goes on."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The figures of a step by name; a killed run has them too."""

    def close(self) -> None:
        """Everything is written."""


class Record:
    """Curves of a run, in `directory`/log.csv, unless that is None, and shown by `watchers`.

    A run that goes on from a checkpoint at `step` drops what was recorded after it, and a figure
    that is there already is not written again. Raises UserError where a file cannot be written.
    """

    def __init__(
        self, directory: Path | None = None, watchers: tuple[Watcher, ...] = (), step: int = 0
    ) -> None:
        self._path = None if directory is None else directory / FILE
        self._watchers, self._seen = watchers, set()
        if self._path is not None:
            found = read(self._path) if step and self._path.exists() else []
            rows = [row for row in found if row["step"] <= step]
            self._seen = {(row["step"], row["split"]) for row in rows}
            content = io.StringIO()
            writer = csv.DictWriter(content, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self._path, content.getvalue().encode())

    def write(self, row: Mapping[str, Any]) -> None:
        """A figure: a value for each of COLUMNS; None, or left out, where there is none."""
        if (row["step"], row["split"]) in self._seen:
            return
        self._seen.add((row["step"], row["split"]))
        values = {name: row[name] for name in FIGURES if row.get(name) is not None}
        for watcher in self._watchers:
            watcher.log(row["step"], {f"perplexity/{row['split']}": row["perplexity"]} | values)
        self._write_csv(dict(row))

    def close(self) -> None:
        """Everything is written."""
        for watcher in self._watchers:
            watcher.close()

    def _write_csv(self, row: dict[str, Any]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
                sync(file)
        except OSError as error:
            raise UserError(f"cannot write '{self._path}': {error.strerror}") from None


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.csv, numbers as numbers, and None where there is none.

    A last line that a killed run left half written is dropped. UserError where it is no log.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {reason(error)}") from None
    if rows and set(rows[0]) != set(COLUMNS):
        raise UserError(f"{path} is not a log of lm.train")
    try:
        return [{name: _value(name, text) for name, text in row.items()} for row in rows]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _value(name: str | None, text: str) -> Any:
    """The field `name` of a line; ValueError, or TypeError where the line is too short or long."""
    if name == "split":
        return text
    if name in ("step", "epoch", "words"):
        return int(text)
    return float(text) if text or name in ("seconds", "perplexity") else None


class TensorBoard:
    """Into `directory`; what a run that goes on at `step` has written after it is hidden.

    Raises UserError where that cannot be written, or the extra `tensorboard` is not installed.
    """

    def __init__(self, directory: Path, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs tensorboard: pip install 'fused-lstm[tensorboard]'"
                            ) from None  # fmt: skip
        try:
            self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)
        except (OSError, ValueError) as error:
            what = f"--tensorboard: cannot write to '{directory}': {reason(error)}"
            raise UserError(what) from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Into a project of Weights & Biases, where WANDB_MODE and the like say; `config` goes along.

    Raises UserError where wandb is not installed, or cannot begin a run.
    """

    def __init__(self, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs wandb: pip install 'fused-lstm[wandb]'") from None
        try:
            self._run = wandb.init(project=project, config=dict(config))
        except Exception as error:  # its own kinds, and those of a network
            raise UserError(f"--wandb: {reason(error)}") from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
