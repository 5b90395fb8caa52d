"""Tables and facts of results files: what bench/tables.toml says, and how a figure is written.

A table is a pivot: rows, columns, and a format of the records that a row and a column choose. A
fact is one cell, under a name that a sentence of README or docs quotes. Both are data; a new one is
some lines in tables.toml, where its words are explained.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from . import core
from .contenders import BASE, NAMES

RESULTS = core.RESULTS
Record = dict[str, Any]  # a line of a results file, with T, B, I, H, L of its shape
Pick = tuple[Any, ...]  # the records of a cell's labels, which took turns; None for one left out


# --- files ---


def flat(line: Mapping[str, Any]) -> Record:
    """Return a line's fields, those of its shape among them, and its cores in words."""
    shape, threads = line.get("shape") or {}, line.get("threads", 1)
    cores = f"{threads} core{'s' * (threads > 1)}" if line.get("device", "cpu") == "cpu" else "GPU"
    return {"why": "", "group": "", "pause": 0, "cores": cores, **line, **shape}


@cache
def read(name: str) -> list[Record]:
    """Return the records of a file in bench/results: NAME.jsonl, or any .json or .csv."""
    return load(RESULTS / (name if "." in name else f"{name}.jsonl"))


def load(path: Path) -> list[Record]:
    """Return a file's records; ValueError, one line, where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            lines: list[Any] = list(csv.DictReader(text.splitlines()))
        elif path.suffix == ".json":
            lines = [json.loads(text)]
        else:
            lines = [json.loads(line) for line in text.splitlines()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: is no file of records: {error}") from None
    for line in lines if path.suffix == ".jsonl" else ():
        fields = line.keys() if isinstance(line, dict) else set()
        if missing := {"suite", "case", "contender", "mode"} - fields:
            raise ValueError(f"{path}: is no file of records: lacks {', '.join(sorted(missing))}")
    return [flat(line) for line in lines]


def matches(record: Record, where: Mapping[str, Any]) -> bool:
    """Return whether a record has a result and these fields; a list has the values allowed."""
    return not record["why"] and all(
        record.get(name) in value if isinstance(value, list) else record.get(name) == value
        for name, value in where.items()
    )


# --- the records of a cell ---


def find(group: Mapping[tuple[str, str], Record], label: str, mode: str | None) -> Record | None:
    """Return a group's record of a label; None where there is none.

    A label is a contender; "x @ mode", in another mode; "x | y", the first that is there; "fastest
    of x | y", the fastest.
    """
    fastest, names = label.startswith("fastest of "), label.removeprefix("fastest of ").split(" | ")
    there = []
    for name in names:
        contender, _, other = name.partition(" @ ")
        there += [r for (c, m), r in group.items() if c == contender and m == (other or mode or m)]
    return (min(there, key=lambda r: r["median"]) if fastest else there[0]) if there else None


def pick(records: Iterable[Record], where: Mapping[str, Any], labels: Sequence[str]) -> list[Pick]:
    """Return, for each group of records that took turns, those of the labels.

    A label that ends in "?" may be missing. Without labels, each record is a pick.
    """
    where = dict(where)
    if not labels:
        return [(record,) for record in records if matches(record, where)]
    modes = where.pop("mode", None)
    groups: dict[str, dict[tuple[str, str], Record]] = {}
    for record in records:
        if matches(record, where):
            groups.setdefault(record["group"], {})[record["contender"], record["mode"]] = record
    found = []
    for group, mode in product(groups.values(), modes if isinstance(modes, list) else [modes]):
        chosen = tuple(find(group, label.removesuffix("?"), mode) for label in labels)
        if all(r or label.endswith("?") for r, label in zip(chosen, labels, strict=True)):
            found.append(chosen)
    return found


# --- formats: of picks, one of each process ---


def digits(value: float) -> str:
    """Return three digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def cpu(machine: str) -> str:
    """Return the short name of a record's machine: "Zen 4", "Intel Xeon"."""
    family = re.search(r"family (\d+), model (\d+)", machine)
    zen = {"25 17": "Zen 4", "26 2": "Zen 5"}.get(" ".join(family.groups()) if family else "")
    name = machine.partition(" (family")[0].partition(",")[0].removesuffix(" Processor")
    return zen or name.replace("(R)", "")


def machine(record: Record) -> str:
    """Return a record's machine for a sentence: "an AMD EPYC (Zen 4)", "an Intel Xeon"."""
    brand = record["machine"].partition(" (family")[0]
    brand, short = brand.removesuffix(" Processor").replace("(R)", ""), cpu(record["machine"])
    return f"an {brand} ({short})" if short.startswith("Zen") else f"an {brand}"


def middle(picks: Sequence[Pick], of: Callable[..., float | None]) -> float:
    """Return the median over processes; NaN where one of them has no such number."""
    values = [of(*pick) for pick in picks]
    return math.nan if None in values else statistics.median(values)  # pyrefly: ignore


def median(*records: Record) -> float:
    """Return the median seconds of the last of the records."""
    return records[-1]["median"]


def number(text: Callable[[float], str], of: Callable[..., float | None]) -> Callable:
    """Return the format of a number of a pick, "-" where there is none."""

    def says(picks: Sequence[Pick]) -> str:
        value = middle(picks, of)
        return "-" if math.isnan(value) else text(value)

    return says


def factors(picks: Sequence[Pick]) -> list[core.Ratio]:
    """Return how many times as fast the second of each pick is as the first, from the least."""
    return sorted(core.ratio(a["seconds"], b["seconds"]) for a, b, *_ in picks)


def times(picks: Sequence[Pick]) -> str:
    """Return the factor, of several processes the median one; or that none was seen."""
    each = factors(picks)
    if not each[1:]:
        return str(each[0])
    seen = not each[0].value <= 1 <= each[-1].value
    return f"{statistics.median(r.value for r in each):.2f}x" if seen else "no difference seen"


def ends(picks: Sequence[Pick]) -> str:
    """Return the factor, its spread over processes, and that within the middle one."""
    each = factors(picks)
    if not each[1:]:
        return each[0].text
    within = each[len(each) // 2].within
    return f"{times(picks)} ({spread(picks)}; {within})"


def spread(picks: Sequence[Pick]) -> str:
    """Return the least and the greatest factor of the processes, and how many these are."""
    each = factors(picks)
    if not each[1:]:
        return "1 process"
    count = len(each) // len({one[0]["case"] for one in picks})
    return f"{count} processes: {each[0].value:.2f} to {each[-1].value:.2f}"


def each_case(picks: Sequence[Pick]) -> str:
    """Return the median factor of each case."""
    cases: dict[str, list[Pick]] = {}
    for one in picks:
        cases.setdefault(one[0]["case"], []).append(one)
    values = (statistics.median(r.value for r in factors(of)) for of in cases.values())
    return f"**{' / '.join(f'{value:.2f}x' for value in values)}**"


def tail(*of: str) -> Callable[[Sequence[Pick]], str]:
    """Return the format of p50 and more of a call, the median where a turn was one call.

    Of several processes it is the median of each. Of fewer than core.ENOUGH calls the 99th
    percentile is one of the worst: the worst stands there.
    """

    def says(picks: Sequence[Pick]) -> str:
        records = [one[-1] for one in picks]
        if records[0].get("p50") is None:
            return ms(middle(picks, median))
        calls = min(record["calls"] for record in records)
        few, texts = calls < core.ENOUGH, []
        for field in of:
            name = "worst" if few and field == "p99" else field
            text = ms(statistics.median(record[name] for record in records))
            texts.append(f"{text} (worst of {calls})" if name != field else text)
        return " / ".join(texts)

    return says


def calls_of(picks: Sequence[Pick]) -> str:
    """Return how many calls there were, of several processes in each."""
    each = " or ".join(sorted({f"{one[-1]['calls']:,}" for one in picks}))
    return f"{len(picks)} x {each}" if picks[1:] else each


def lstm_seconds(step: Record, rest: Record | None) -> float | None:
    """Return the LSTM's part of a training step: timed inside it, or a step less one without it."""
    if "lstm_seconds" in step:
        return statistics.median(step["lstm_seconds"])
    return None if rest is None else max(step["median"] - rest["median"], 0.0)


def lstm_share(step: Record, rest: Record | None) -> float | None:
    """Return that part of the step."""
    inside = lstm_seconds(step, rest)
    return None if inside is None else inside / step["median"]


def the_rest(step: Record, rest: Record | None) -> float | None:
    """Return the seconds of the other parts."""
    inside = lstm_seconds(step, rest)
    return None if inside is None else step["median"] - inside


def predicted(record: Record, kind: str = "") -> float | None:
    """Return the model's seconds of a step of the fusions, or of one kind of it."""
    parts = record.get("predicted")
    return None if parts is None else parts[kind] if kind else sum(parts.values())


def megabytes(kind: str) -> Callable[[Record], float]:
    """Return what gives the bytes of a kind that a step reads and writes."""
    return lambda record: record[f"{kind}_read"] + record[f"{kind}_written"]


def mb(count: float) -> str:
    """Return bytes as MB."""
    return f"{count / 1e6:,.0f}" if count >= 9.95e6 or not count else f"{count / 1e6:.1f}"


def ms(seconds: float) -> str:
    """Return seconds as milliseconds."""
    return digits(1e3 * seconds)


def perplexity(split: str) -> Callable[[Sequence[Pick]], str]:
    """Return the format of one run's perplexity, of several their mean and standard deviation."""

    def says(picks: Sequence[Pick]) -> str:
        values = [record[f"{split}_perplexity"] for (record,) in picks]
        more = f" ± {statistics.stdev(values):.2f}" if values[1:] else ""
        return f"{statistics.mean(values):.2f}{more}"

    return says


def clear(picks: Sequence[Pick]) -> list[tuple[float, str]]:
    """Return the factors that differ from 1, from the least, and whose they are."""
    found = []
    for one in picks:
        (ratio,), r = factors([one]), one[0]
        if ratio.clear and ratio.value != 1:
            words = f"{r['case']}, {r['mode']}, {r['threads']} thread{'s' * (r['threads'] > 1)}"
            found.append((ratio.value, words))
    return sorted(found)


def count(of: Iterable[Any]) -> str:
    """Return how many different ones there are."""
    return str(len(set(of)))


def whole_and(part: Callable[[Record], float]) -> Callable[[Record], float]:
    """Return what gives a part of a whole transcription."""
    return lambda record: part(record) / record["whole"]


def loop(record: Record) -> float:
    """Return the seconds of a transcription outside its encoder."""
    return record["whole"] - record["encoder"]


FORMATS: dict[str, Callable[[Sequence[Pick]], str]] = {
    # of one contender
    "ms": number(ms, median),
    "p50 / worst": tail("p50", "worst"),
    "p50 / p99": tail("p50", "p99"),
    "calls": calls_of,
    "first": number("{:.1f}".format, lambda r: r["first"]),
    "words/s": number("{:,.0f}".format, lambda *r: r[-1]["tokens"] / r[-1]["median"]),
    "name": lambda picks: NAMES.get(_engine(picks[0][0]), _engine(picks[0][0])),
    "machine": lambda picks: machine(picks[0][0]),
    "CPU": lambda picks: cpu(picks[0][0].get("machine") or picks[0][0]["processor"]),
    "CPU, threads": lambda picks: "; ".join(
        dict.fromkeys(f"{cpu(r['processor'])}, {r['threads']}" for (r,) in picks)),
    "day": lambda picks: picks[0][0]["date"][:10],
    "commit": lambda picks: picks[0][0]["commit"],
    "torch": lambda picks: picks[0][0]["versions"]["torch"],
    # of two, that took turns
    "times": times,
    "times (ends)": ends,
    "each case": each_case,
    "0.1 times": lambda picks: f"{factors(picks)[0].value:.1f}",
    "0.01 times": lambda picks: f"{factors(picks)[0].value:.2f}",
    "time over": lambda picks: f"{1 / factors(picks)[0].value:.2f}",
    "ms less": number(ms, lambda a, b: a["median"] - b["median"]),
    "ms → ms": lambda picks: " → ".join(digits(1e3 * r["median"]) for r in picks[0]),
    "ms → ms, times": lambda picks: f"{FORMATS['ms → ms'](picks)}, {times(picks)}",
    "share": number("{:.0%}".format, lambda a, b: min(a["median"] / b["median"], 1)),
    "words/s (times)": lambda picks: FORMATS["words/s"](picks)
        + (f" ({times(picks)})" if picks[0][0] else ""),
    # of many
    "cases": lambda picks: count(p[0]["case"] for p in picks),
    "count": lambda picks: str(len(picks)),
    "largest error": lambda picks: f"{max(r['error'] for (r,) in picks):.0e}",
    "at least as fast": lambda picks: f"{sum(_over(*p) >= 1 for p in picks) / len(picks):.0%}",
    "median factor": lambda picks: digits(statistics.median(_over(*p) for p in picks)),
    "worst factor": lambda picks: digits(min(_over(*p) for p in picks)),
    "how many faster": lambda picks: str(sum(value > 1 for value, _ in clear(picks))),
    "how many slower": lambda picks: str(sum(value < 1 for value, _ in clear(picks))),
    "how many neither": lambda picks: str(len(picks) - len(clear(picks))),
    "most": lambda picks: f"{clear(picks)[-1][0]:.2f}",
    "most, whose": lambda picks: clear(picks)[-1][1],
    "least": lambda picks: f"{clear(picks)[0][0]:.2f}",
    "least, whose": lambda picks: clear(picks)[0][1],
    # of a training step, and one without its LSTM
    "LSTM's share": number("{:.0%}".format, lstm_share),
    "LSTM, ms": number(ms, lstm_seconds),
    "the rest, ms": number(ms, the_rest),
    # of a level of the fusions: what its step consists of
    "launches": number("{:,.0f}".format, lambda r: r["launches"]),
    "MB of weights": number(mb, megabytes("weights")),
    "MB of gradients": number(mb, megabytes("gradients")),
    "MB of the rest": number(mb, megabytes("intermediates")),
    "model / measured": lambda p: f"{number(ms, predicted)(p)} / {number(ms, median)(p)}",
    "model, ms less": number(ms, lambda a, b: (predicted(a) or 0) - (predicted(b) or 0)),
    "gradients, ms less": number(
        ms, lambda a, b: (predicted(a, "gradients") or 0) - (predicted(b, "gradients") or 0)
    ),
    "least model / measured": lambda p: f"{min(predicted(r) / r['median'] for (r,) in p):.2f}",
    "most model / measured": lambda p: f"{max(predicted(r) / r['median'] for (r,) in p):.2f}",
    "peak GF/s": number(lambda v: f"{v / 1e9:.0f}", lambda r: r["limits"]["flops"]),
    "copied GB/s": number(lambda v: f"{v / 1e9:.1f}", lambda r: r["limits"]["bandwidth"]),
    "launch us": number(lambda v: f"{1e6 * v:.1f}", lambda r: r["limits"]["launch"]),
    "at the peak, ms": number(ms, lambda r: r["peak"]),
    # of a transcription
    "loop's share": number("{:.0%}".format, whole_and(loop)),
    "loop, ms": number(lambda v: f"{1e3 * v:,.0f}", loop),
    # of the language model
    **{split: perplexity(split) for split in ("train", "valid", "test")},
    "training words/s": lambda picks: f"{picks[0][0]['words_per_second']:,.0f}",
    "last perplexity": lambda picks: f"{float(picks[-1][0]['perplexity']):.1f}",
}  # fmt: skip


def _engine(record: Record) -> str:
    return record["contender"].removeprefix("stock-")


def _over(base: Record, other: Record) -> float:
    return base["median"] / other["median"]


# --- tables ---


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


def cell(records: Sequence[Record] | None, row: Mapping, column: Mapping, table: Mapping) -> str:
    """Return a cell's text, "-" without a record; `records` stand for the table's file."""
    own = {**row, **{k: v for k, v in column.items() if k not in COLUMN}}
    own = {k: v for k, v in own.items() if k not in ROW}
    where = {**table.get("where", {}), **own}
    if "text" in column:
        return row.get(column["text"], "-")
    labels = column.get("of", [])
    labels = [labels] if isinstance(labels, str) else labels
    names = {**table.get("labels", {}), **row.get("labels", {})}
    labels = [re.sub(r"^\w+", lambda word: names.get(word[0], word[0]), label) for label in labels]
    if "" in labels:
        return ""
    labels = [label.format_map(where) for label in labels]
    file = row.get("file") or table.get("file", "")
    files = file if isinstance(file, list) else [file]
    rows = records if records is not None else [r for name in files for r in read(name)]
    if column["value"] not in FORMATS:
        raise ValueError(f"value: got {column['value']!r}; expected of {', '.join(FORMATS)}")
    field, values, between = column.get("join", table.get("join", ["", [None], ""]))
    texts = []
    for value in values:
        picks = pick(rows, where | ({field: value} if field else {}), labels)
        texts.append(FORMATS[column["value"]](picks) if picks else "-")
    missing = column.get("missing", "-")
    return missing if set(texts) == {"-"} else between.join(texts)


COLUMN = "heading", "of", "value", "missing", "join", "text", "file"
ROW = "says", "labels", "file", "cells", "post", "against"


def rows_of(records: Sequence[Record], table: Mapping) -> list[tuple[list[str], dict]]:
    """Return the texts and the fields of each row: those listed, or one for each value in `by`."""
    if "rows" in table:
        return [
            ([says] if isinstance(says := row["says"], str) else says, row) for row in table["rows"]
        ]
    by, where, names = table["by"], table.get("where", {}), table.get("names", {})
    fields = [name for one in by for name in re.findall(r"{(\w+)", one["says"])]
    first: list[dict[Any, int]] = [{} for _ in by]
    found: dict[tuple, list] = {}
    for record in (r for r in records if matches(r, where)):
        values = {name: record.get(name) for name in fields}
        named = {name: names.get(value, value) for name, value in values.items()}
        texts = [one["says"].format_map(named) for one in by]
        key = [
            record[one["order"]] if "order" in one else order.setdefault(text, len(order))
            for one, order, text in zip(by, first, texts, strict=True)
        ]
        found.setdefault(tuple(texts), [key, values])
    return [
        (list(texts), where) for texts, (_, where) in sorted(found.items(), key=lambda i: i[1][0])
    ]


def table_of(table: Mapping, records: Sequence[Record] | None = None) -> str:
    """Return a table as Markdown, of `records` where they are given in place of its file.

    Rows and columns without a figure are left out.
    """
    heads = table.get("headings") or [one.get("heading", "") for one in table["by"]]
    columns = table["columns"]
    rows = rows_of(records if records is not None else _file(table), table)
    body = []
    for texts, where in rows:
        cells = where.get("cells") or [cell(records, where, column, table) for column in columns]
        figures = zip(columns, cells, strict=True)
        if {text for column, text in figures if "text" not in column} - {"-"}:
            body.append([*texts, *cells])
    heads = [*heads, *(column["heading"] for column in columns)]
    seen = [n for n in range(len(heads)) if any(row[n] != "-" for row in body)]
    return markdown([heads[n] for n in seen], [[row[n] for n in seen] for row in body])


def _file(table: Mapping) -> list[Record]:
    file = table.get("file", "")
    return read(file) if isinstance(file, str) and file else []


@cache
def definitions() -> dict[str, Any]:
    """Return bench/tables.toml; a table's `columns` and `rows` may name those of `shared`."""
    found = tomllib.loads((Path(__file__).parent / "tables.toml").read_text(encoding="utf-8"))
    for table in found["table"].values():
        for part in ("columns", "rows"):
            if isinstance(table.get(part), str):
                table[part] = found["shared"][table[part]]
    return found


def table(name: str) -> str:
    """Return a table of tables.toml; its first heading names the CPU and the day of its file."""
    of = definitions()["table"][name]
    text, file = table_of(of), of.get("file", "")
    if not isinstance(file, str) or "." in file or not file:
        return text
    cpus = " and ".join(dict.fromkeys(cpu(r["machine"]) for r in read(file)))
    days = sorted({r["date"][:10] for r in read(file)})
    place = f"{cpus}, {' to '.join(dict.fromkeys((days[0], days[-1])))}"
    _, first, rest = text.split("|", 2)
    heading = f"{first.strip()} ({place})" if first.strip() else place
    return f"| {heading} |{rest}"


def facts() -> dict[str, str]:
    """Return the facts of tables.toml: name -> text."""
    return {name: cell(None, {}, of, of) for name, of in definitions()["fact"].items()}


def name(label: str, device: str = "cpu") -> str:
    """Return what a reader calls a contender."""
    if label == BASE:
        return f"nn.LSTM ({'cuDNN' if device.startswith('cuda') else 'oneDNN'})"
    return NAMES.get(label, label.replace("-", ": ", 1))
