"""Results files as pandas has them, and what makes a table of them: rows, columns, formats.

A table of README or docs is a record, in doc_tables.py; `Table.of` reads all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .contenders import BASE, NAMES
from .core import ENOUGH, Record, speedup

RESULTS = Path(__file__).parent / "results"
SIZES = ("small", "medium", "large")
Row = Any  # a line of a results file: its fields are attributes


# --- records ---


def read(*paths: Path) -> pd.DataFrame:
    """Return the records of results files; ValueError, one line, where one cannot be read."""
    frames = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            frame = pd.DataFrame([json.loads(line) for line in lines])
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: is no file of records: {error}") from None
        if missing := {"suite", "case", "contender", "mode"} - set(frame.columns):
            raise ValueError(f"{path}: is no file of records: lacks {', '.join(sorted(missing))}")
        if "shape" in frame:  # its sizes T, B, I, H, L are fields too
            frame = frame.join(pd.DataFrame(list(frame["shape"].map(sizes)), index=frame.index))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def sizes(shape: Any) -> dict[str, int]:
    """Return a record's sizes, none where it has no shape."""
    return shape if isinstance(shape, dict) else {}


def of_records(records: Iterable[Record]) -> pd.DataFrame:
    """Return records as a file of them would be read."""
    return pd.DataFrame([record.line() for record in records])


@cache
def results(name: str) -> pd.DataFrame:
    """Return the records of bench/results/NAME.jsonl."""
    return read(RESULTS / f"{name}.jsonl")


def tool(file: str) -> Any:
    """Return a JSON file of another tool in bench/results."""
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def rows(frame: pd.DataFrame, **fields: Any) -> list[Row]:
    """Return the records that have these fields and a result."""
    if missing := fields.keys() - set(frame.columns):
        raise ValueError(
            f"fields: got {', '.join(missing)}; expected of {', '.join(map(str, frame))}"
        )
    chosen = frame["why"] == ""
    for name, value in fields.items():
        chosen &= frame[name] == value
    every = _every_row(frame)
    return [every[n] for n in chosen.to_numpy().nonzero()[0]]


_MADE: dict[tuple[int, int], tuple[pd.DataFrame, list[Row]]] = {}  # with its frame, which so stays


def _every_row(frame: pd.DataFrame) -> list[Row]:
    """Return a frame's rows, made once: that takes ten times as long as to choose among them."""
    key = id(frame), len(frame.columns)
    if key not in _MADE:
        _MADE[key] = frame, list(frame.itertuples(index=False))
    return _MADE[key][1]


def by_contender(frame: pd.DataFrame, **fields: Any) -> dict[str, Row]:
    """Return the records that have these fields by their contender."""
    return {row.contender: row for row in rows(frame, **fields)}


def each(frame: pd.DataFrame, field: str, **fields: Any) -> list[Any]:
    """Return the values of a field in the order of the file."""
    return list(dict.fromkeys(getattr(row, field) for row in rows(frame, **fields)))


# --- text ---


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table; columns that have figures are set right, others and the first left."""
    body = list(body)
    figures = [any(row[n][:1].isdigit() for row in body) for n in range(len(header))]
    rule = ["---", *("---:" if number else "---" for number in figures[1:])]
    lines = (
        "| " + " | ".join(c.replace("|", r"\|") for c in row) + " |"
        for row in (header, rule, *body)
    )
    return "\n".join(lines) + "\n"


def name(label: str, device: str = "cpu") -> str:
    """Return what a reader calls a contender."""
    if label == BASE:
        return f"nn.LSTM ({'cuDNN' if device.startswith('cuda') else 'oneDNN'})"
    return NAMES.get(label, label.replace("-", ": ", 1))


def cpu(machine: str) -> str:
    """Return the short name of a record's machine: "Zen 4", "Intel Xeon"."""
    family = re.search(r"family (\d+), model (\d+)", machine)
    zen = {"25 17": "Zen 4", "26 2": "Zen 5"}.get(" ".join(family.groups()) if family else "")
    name = machine.partition(" (family")[0].partition(",")[0].removesuffix(" Processor")
    return zen or name.replace("(R)", "")


def machine(row: Row) -> str:
    """Return a record's machine for a sentence: "an AMD EPYC (Zen 4)"."""
    brand = row.machine.partition(" (")[0].removesuffix(" Processor")
    zen = cpu(row.machine)
    return f"an {brand}" + (f" ({zen})" if zen.startswith("Zen") else "")


def digits(value: float) -> str:
    """Return three digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def count(value: float) -> str:
    """Return a whole number."""
    return f"{value:.0f}"


# --- formats: of one record, or of the records of two contenders that took turns ---


def ms(row: Row) -> str:
    """Return its median in milliseconds."""
    return digits(1e3 * row.median)


def tail(row: Row, *of: str) -> str:
    """Return p50 and more of its calls in milliseconds, the median where a turn was one call.

    Of fewer than ENOUGH calls the 99th percentile is one of the worst: the worst is shown instead.
    """
    if pd.isna(getattr(row, "p50", float("nan"))):
        return ms(row)
    few, texts = row.calls < ENOUGH, []
    for field in of:
        value = digits(1e3 * getattr(row, "worst" if few and field == "p99" else field))
        texts.append(f"{value} (worst of {count(row.calls)})" if few and field == "p99" else value)
    return " / ".join(texts)


FORMATS: dict[str, Callable[..., str]] = {
    "ms": ms,
    "p50": lambda row: tail(row, "p50"),
    "p50 / worst": lambda row: tail(row, "p50", "worst"),
    "p50 / p99": lambda row: tail(row, "p50", "p99"),
    "p50 (error)": lambda row: f"{tail(row, 'p50')} ({row.error:.1%})",
    "GF/s": lambda row: f"{row.flops / row.median / 1e9:.0f}",
    "us per token": lambda row: digits(1e6 * row.median / row.tokens),
    "words/s": lambda row: f"{row.tokens / row.median:,.0f}",
    "times": lambda base, other: str(speedup(base, other)),  # as fast
    "times (ends)": lambda base, other: speedup(base, other).text,
    "0.1 times": lambda base, other: f"{speedup(base, other).value:.1f}",
    "0.01 times": lambda base, other: f"{speedup(base, other).value:.2f}",
    "ms → ms": lambda base, other: f"{ms(base)} → {ms(other)}, {speedup(base, other)}",
}


# --- a table of anything ---


class Listing(NamedTuple):
    """A table of anything: what makes its rows, and for each heading what makes a row's text.

    file: the results file that it is of, where there is one.
    """

    rows: Callable[[], Iterable[Any]]
    columns: Mapping[str, Callable[[Any], str]]
    file: str = ""

    def __call__(self) -> str:
        """Return it as Markdown."""
        return self.of(self.rows())

    def of(self, rows: Iterable[Any]) -> str:
        """Return the table of these rows."""
        body = [[says(row) for says in self.columns.values()] for row in rows]
        return markdown(list(self.columns), body)


# --- a table of a results file ---


class By(NamedTuple):
    """A field whose values are the rows: its heading, how a value is written, how they are sorted.

    order: a sort key; the order of the file without one.
    """

    heading: str
    field: str
    says: Callable[[Any], str] = str
    order: Callable[[Any], Any] | None = None


class Line(NamedTuple):
    """A row: its texts, the records that it is of, and what its columns' labels stand for.

    file: the results file of these records, where it is not the table's.
    """

    texts: Sequence[str]
    where: Mapping[str, Any] = {}
    names: Mapping[str, str] = {}
    file: str = ""


class Lines(NamedTuple):
    """Rows that are listed one by one, under headings of their texts."""

    headings: Sequence[str]
    lines: Sequence[Line]


class Column(NamedTuple):
    """A column: its heading, its format, the contenders that this is of, and their records.

    Without labels it is of the one record that the row has.
    """

    heading: str
    says: str | Callable[..., str]  # of FORMATS, or a function of the records
    labels: Sequence[str]
    where: Mapping[str, Any]
    file: str


def column(
    heading: str, says: str | Callable[..., str], *labels: str, file: str = "", **where: Any
) -> Column:
    """Return a column; `file` is the results file of its records, where it is not the table's."""
    return Column(heading, says, labels, where, file)


class Joined(NamedTuple):
    """A field of whose values each cell has a figure, with a text between."""

    field: str
    values: Sequence[Any]
    between: str


ONE = Joined("", (None,), "")


class Table(NamedTuple):
    """A table of a results file: its rows, its columns, and the records that it is of.

    split: takes a case apart, by a regular expression whose groups are further fields.
    """

    file: str
    rows: Sequence[By] | Lines
    columns: Sequence[Column]
    where: Mapping[str, Any] = {}
    joined: Joined = ONE
    split: str = ""

    def __call__(self) -> str:
        """Return it as Markdown."""
        return self.of(results(self.file) if self.file else pd.DataFrame())

    def of(self, frame: pd.DataFrame) -> str:
        """Return the table of these records; rows and columns without any are left out."""
        if self.split:
            frame = frame.join(frame["case"].str.extract(self.split))
        if isinstance(self.rows, Lines):
            headings, lines = list(self.rows.headings), list(self.rows.lines)
        else:
            headings, lines = [by.heading for by in self.rows], self.found(frame, self.rows)
        body = [
            [*line.texts, *(self.cell(frame, line, column) for column in self.columns)]
            for line in lines
        ]
        headings += [column.heading for column in self.columns]
        seen = [n for n in range(len(headings)) if any(row[n] != "-" for row in body)]
        return markdown([headings[n] for n in seen], [[row[n] for n in seen] for row in body])

    def found(self, frame: pd.DataFrame, bys: Sequence[By]) -> list[Line]:
        """Return a row for each combination of the fields' values that has a record."""
        fields, lines = {by.field: by for by in bys}, []
        values = [
            sorted(of, key=by.order) if by.order is not None else of
            for by in fields.values()
            for of in [each(frame, by.field, **self.where)]
        ]
        for key in product(*values):
            where = dict(zip(fields, key, strict=True))
            if rows(frame, **{**where, **self.where}):
                lines.append(Line([by.says(where[by.field]) for by in bys], where))
        return lines

    def cell(self, frame: pd.DataFrame, line: Line, column: Column) -> str:
        """Return the text of a cell, "-" where a record is missing."""
        file = column.file or line.file
        records = results(file) if file else frame
        labels = [line.names.get(label, label) for label in column.labels]
        where, texts = {**self.where, **line.where, **column.where}, []
        says = FORMATS[column.says] if isinstance(column.says, str) else column.says
        for value in self.joined.values:
            one = {self.joined.field: value} if self.joined.field else {}
            by = by_contender(records, **where, **one)
            here = by and all(label in by for label in labels)
            texts.append(says(*(by[label] for label in labels or by)) if here else "-")
        return "-" if set(texts) == {"-"} else self.joined.between.join(texts)
