"""A result file of the suite, or of `bench post`, read: its machine and its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from ..alone import SIZES, Shape
from ..contenders import BASE, LOOP
from ..measure.timing import Quartiles

LEVELS = ("none", "pointwise", "steps", "layers")
RESULTS = Path(__file__).parents[1] / "results"  # as the documents show them


@dataclass(frozen=True)
class Row:
    """One case: `data` are the seconds of its rounds, `info` its extra_info."""

    group: str
    data: tuple[float, ...]
    time: Quartiles
    info: dict[str, Any]

    @property
    def label(self) -> str:
        return self.info["label"]

    @property
    def is_peer(self) -> bool:
        return self.info["peer"] is not None

    @property
    def is_own(self) -> bool:
        """Of this project's own kernels: the engines that have levels above `none`."""
        return self.info["fuse"] not in (None, "none")

    @property
    def shape(self) -> Shape:
        return Shape(**self.info["shape"])

    @property
    def noise(self) -> float:
        """Half of the quartiles' distance, as a part of the median."""
        return (self.time.q3 - self.time.q1) / 2 / self.time.median

    @property
    def rank(self) -> tuple[int, int, str]:
        """Where it stands among others: peers, compile, nn.LSTM, the loop, ours by level."""
        if self.is_own:
            return 4, LEVELS.index(self.info["fuse"]), self._stock_first
        kind = 0 if self.is_peer else {BASE: 2, LOOP: 3}.get(self.label.removeprefix("stock-"), 1)
        return kind, 0, self._stock_first

    @property
    def _stock_first(self) -> str:
        return f"{not self.info.get('stock')} {self.label}"


@dataclass(frozen=True)
class Results:
    """All rows of a file; `name` is the file's."""

    name: str
    machine: dict[str, Any]
    date: str
    commit: str
    not_measured: dict[str, str]
    rows: tuple[Row, ...]

    @property
    def on_gpu(self) -> bool:
        return self.machine["device"].startswith("cuda")

    def select(self, suite: str, **info: Any) -> list[Row]:
        """The rows of a suite whose extra_info says so, peers first and ours last."""
        wanted = {"suite": suite, **info}
        found = [r for r in self.rows if all(r.info.get(k) == v for k, v in wanted.items())]
        return sorted(found, key=lambda row: row.rank)

    def sizes(self, suite: str, keep: Callable[[Row], bool] = lambda row: True) -> list[str]:
        """The presets with rows in a suite, smallest first."""
        found = {r.info["size"] for r in self.rows if r.info["suite"] == suite and keep(r)}
        return [size for size in SIZES if size in found]

    def ladder(self, size: str, mode: str = "step") -> list[Row]:
        """nn.LSTM, the step loop, and our levels upwards."""
        rows = self.select("lstm", size=size, mode=mode)
        return [r for r in rows if r.is_own or r.label in (BASE, LOOP)]


def find(rows: list[Row], label: str) -> Row | None:
    """The row of that label, if it is there."""
    return next((row for row in rows if row.label == label), None)


@overload
def gain(base: Row, other: Row) -> float: ...
@overload
def gain(base: Row | None, other: Row | None) -> float | None: ...
def gain(base: Row | None, other: Row | None) -> float | None:
    """How many times as fast `other` is, of medians, so that it agrees with the times beside it."""
    if base is None or other is None:
        return None
    return base.time.median / other.time.median


def read(name: str) -> Any:
    """A committed results file of a topic, or of another tool."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def load(path: Path) -> Results:
    """Read a file that the suite wrote with --benchmark-json.

    Raises:
        ValueError: it cannot be read, or is not such a file; says why in one line.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        machine = raw["machine_info"]["fused_lstm"]
        rows = tuple(_row(bench) for bench in raw["benchmarks"])
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from None
    except (KeyError, TypeError, IndexError) as error:
        what = "was not written by this suite (pytest --benchmark-only --benchmark-json=FILE)"
        raise ValueError(f"{path}: {what}: lacks {error}") from None
    if not rows:
        raise ValueError(f"{path}: holds no measurement")
    commit = (raw.get("commit_info") or {}).get("id") or "unknown"
    date, absent = raw.get("datetime", ""), raw.get("not_measured", {})
    return Results(path.name, machine, date, commit, absent, rows)


def _row(bench: dict[str, Any]) -> Row:
    stats, info = bench["stats"], bench["extra_info"]
    for name in ("label", "engine", "fuse", "peer", "suite", "mode"):
        info[name]  # KeyError is load's to explain
    time = Quartiles(stats["q1"], stats["median"], stats["q3"])
    return Row(bench["group"], tuple(stats["data"]), time, info)
