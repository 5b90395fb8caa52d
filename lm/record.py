"""What a run leaves to be drawn: a line of log.csv for each line of its log, and TensorBoard's."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.errors import UserError
from lm.files import sync, write_atomically

if TYPE_CHECKING:
    from lm.trainer import Trainer

FILE = "log.csv"
# seconds are wall time of the run, evaluation included; perplexity of "train" is that of the epoch
# so far; norm, clipped part and speed are those since the line before.
COLUMNS = (
    *("step", "epoch", "words", "seconds", "split", "perplexity", "learning_rate"),
    *("grad_norm", "clip_fraction", "words_per_second"),
)


class Record:
    """Curves of a run, in `directory`/log.csv and for TensorBoard in `tensorboard`, either None.

    A run that goes on from a checkpoint at `step` drops what was recorded after it, and a figure
    that is there already is not written again. Raises UserError where a file cannot be written, or
    the extra `tensorboard` is not installed.
    """

    def __init__(
        self, directory: Path | None = None, tensorboard: Path | None = None, step: int = 0
    ) -> None:
        self._path = None if directory is None else directory / FILE
        self._writer = None if tensorboard is None else _tensorboard(tensorboard, step)
        self._seen = set()
        if self._path is not None:
            rows = [row for row in read(self._path) if row["step"] <= step] if step else []
            self._seen = {(row["step"], row["split"]) for row in rows}
            content = io.StringIO()
            writer = csv.DictWriter(content, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self._path, content.getvalue().encode())

    def write(self, trainer: Trainer, split: str, perplexity: float, **more: Any) -> None:
        """A figure of `split`, "train", "valid" or "test", at the step that the run is at."""
        if (trainer.steps, split) in self._seen:
            return
        self._seen.add((trainer.steps, split))
        config = trainer.config
        row = {
            "step": trainer.steps,
            "epoch": -(-trainer.steps // trainer.epoch_steps),
            "words": trainer.steps * config.batch_size * config.num_steps,
            "seconds": round(trainer.seconds(), 3),
            "split": split,
            "perplexity": perplexity,
            "learning_rate": trainer.updater.rate,
            **more,
        }
        if self._writer is not None:
            self._writer.add_scalar(f"perplexity/{split}", perplexity, trainer.steps)
            for name, value in more.items():
                if value is not None:
                    self._writer.add_scalar(name, value, trainer.steps)
            self._writer.add_scalar("learning_rate", trainer.updater.rate, trainer.steps)
            self._writer.flush()  # a killed run has what log.csv has
        self._write_csv(row)

    def close(self) -> None:
        """Everything is written."""
        if self._writer is not None:
            self._writer.close()

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
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
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


def _tensorboard(directory: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs tensorboard: pip install 'fused-lstm[tensorboard]'"
                        ) from None  # fmt: skip
    try:
        return SummaryWriter(str(directory), purge_step=step + 1 if step else None)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--tensorboard: cannot write to '{directory}': {reason}") from None
