"""Figures of a run: a line of log.csv for each, TensorBoard and Weights & Biases."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lm.command import UserError, reason
from lm.files import check_file, write_atomically

FILE = "log.csv"
# seconds are wall time of the run, evaluation included; perplexity of "train" is that of the epoch
# so far; norm, clipped part and speed are those since the line before.
FIGURES = dict.fromkeys(("learning_rate", "grad_norm", "clip_fraction", "words_per_second"), float)
COLUMNS: dict[str, Any] = {
    "step": int, "epoch": int, "words": int, "seconds": float, "split": str, "perplexity": float,
    **FIGURES,
}  # fmt: skip
HEADER = ",".join(COLUMNS)


class Record:
    """A run's figures in `directory`/log.csv, unless that is None, and where they are watched.

    A run that goes on from a checkpoint at `step` drops what was recorded after it, and a figure
    that is there already is not written again. Raises UserError where a file cannot be written.
    """

    def __init__(
        self, directory: Path | None = None, tensorboard: Path | None = None,
        wandb: str | None = None, options: Mapping[str, Any] | None = None, step: int = 0,
    ) -> None:  # fmt: skip
        self.path = None if directory is None else directory / FILE
        self.seen: set[tuple[int, str]] = set()
        self.board: Any = None
        self.wandb: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What a run that goes on at `step` wrote after it is hidden.
            self.board = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)
        if wandb is not None:
            import wandb as weights_and_biases

            self.wandb = weights_and_biases.init(project=wandb, config=dict(options or {}))
        if self.path is not None:
            check_file(self.path, "--save")  # a FIFO would be waited for
            before = read_log(self.path) if step and self.path.exists() else []
            rows = [row for row in before if row["step"] <= step]
            self.seen = {(row["step"], row["split"]) for row in rows}
            write_atomically(self.path, f"{HEADER}\n".encode() + to_csv(rows))

    def write(self, row: Mapping[str, Any]) -> None:
        """Record a figure: a value for each of COLUMNS; None, or left out, where there is none."""
        if (row["step"], row["split"]) in self.seen:
            return
        self.seen.add((row["step"], row["split"]))
        values = {f"perplexity/{row['split']}": row["perplexity"]}
        values |= {name: row[name] for name in FIGURES if row.get(name) is not None}
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, row["step"])
            self.board.flush()  # a killed run has them too
        if self.wandb is not None:
            self.wandb.log(values, step=row["step"])
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(to_csv([row]))

    def close(self) -> None:
        """Write everything."""
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def to_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return lines of a log.csv."""
    text = io.StringIO()
    csv.DictWriter(text, list(COLUMNS), lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.csv, numbers as numbers, and None where there is none.

    A last line that a killed run left half written is dropped. UserError where it is no log.
    """
    if path.exists() and not path.is_file():  # a FIFO would be waited for
        raise UserError(f"'{path}' is no file")
    try:
        header, *lines = path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
        if header != HEADER:
            raise ValueError(f"header: got {header[:80]!r}; expected {HEADER!r}")
        return [
            {name: kind(text) if text else None for (name, kind), text in zip(
                COLUMNS.items(), line.split(","), strict=True)}
            for line in lines
        ]  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path} is no log of lm.train: {reason(error)}") from None
