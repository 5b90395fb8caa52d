"""`python -m bench.report RECORDS.jsonl ... -o DIR`: a page with figures, report.md.

Each suite in the files has the tables of README and docs that show it, made of these records, a
table of all its times, and where it trains or has several systems a figure. What was not measured,
and why, is at the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.figure import to_svg

from . import figures, tables
from .__main__ import TABLES
from .core import BUSY
from .figures import Bar
from .suites import SUITES
from .tables import Record, digits, markdown, name

OWNERS = {"other systems, and loops": figures.GREY, "nn.LSTM": figures.BLUE,
    "fused_lstm": figures.GREEN}  # fmt: skip


def bar(record: Record) -> Bar:
    """Return a record's bar, in the colour of whose it is, with its quartiles."""
    others, theirs, ours = OWNERS
    engine = record["contender"].removeprefix("stock-").partition("-")[0]
    owner = {"native": ours, "triton": ours, "cudnn": theirs}.get(engine, others)
    ends = 1e3 * record["q1"], 1e3 * record["q3"]
    note = f"{digits(1e3 * record['median'])} ms"
    return Bar(name(record["contender"]), {owner: 1e3 * record["median"]}, note, ends)


def times(records: Sequence[Record]) -> str:
    """Return all median times of a suite in ms: a row for each case and contender."""
    modes = list(dict.fromkeys(r["mode"] for r in records))
    fields = ("case", "dtype", "threads", "neighbours", "contender")
    found: dict[tuple, dict[str, str]] = {}
    for r in records:
        text = digits(1e3 * r["median"])
        if "calls" in r and "worst" in r:
            last = "p99" if "p99" in r else "worst"
            text = f"{digits(1e3 * r['p50'])} / {digits(1e3 * r[last])} ({last} of {r['calls']:,})"
        found.setdefault(tuple(r.get(field, 0) for field in fields), {})[r["mode"]] = text
    body = []
    for (case, dtype, threads, busy, contender), cells in found.items():
        place = f"{case}, {dtype}, {threads} threads" + (f", {busy} busy" if busy else "")
        body.append([place, name(contender), *(cells.get(mode, "-") for mode in modes)])
    return markdown(("median, ms; of calls: p50 / p99", "", *modes), body)


def records_of(path: Path) -> list[Record]:
    """Return a file's records; ValueError, one line, where it has others, as pytest-benchmark's."""
    records = tables.load(path)
    for record in records:
        if lacking := {"suite", "contender", "seconds"} - record.keys():
            lacks = ", ".join(sorted(lacking))
            raise ValueError(f"{path}: lacks {lacks}; expected a file that python -m bench writes")
    return records


def tell(records: Sequence[Record]) -> tuple[str, dict[str, figures.Figure]]:
    """Return the page, and its figures by file name."""
    timed = [r for r in records if not r["why"] and r["seconds"]]
    if not timed:
        raise ValueError("records: got no measurement; expected at least one")
    blocks, drawn = ["# Measured here"], {}
    busiest = max(r["foreign"] for r in timed)
    if busiest > BUSY:
        blocks.append(f"**The machine was busy: other work took {busiest:.0%} of it.**")
    for suite in dict.fromkeys(r["suite"] for r in timed):
        own = [r for r in timed if r["suite"] == suite]
        name_of = suite.partition("/")[0]
        says = SUITES[name_of].says if name_of in SUITES else suite
        blocks.append(f"## {suite}: {says}")
        for one in TABLES.get(name_of, ()):
            blocks.append(tables.table_of(tables.definitions()["table"][one], own))
        mode = next((m for m in ("step", "train") if any(r["mode"] == m for r in own)), None)
        panels: dict[str, list[Bar]] = {}
        for r in own:
            if r["mode"] == mode:
                panels.setdefault(f"{r['case']}, {r['dtype']}, {r['cores']}", []).append(bar(r))
        if any(len(of) > 1 for of in panels.values()):
            file = suite.replace("/", "-")
            unit = f"milliseconds of a {mode}: shorter is better; a line shows the quartiles"
            drawn[f"{file}.svg"] = figures.bars(panels, unit, OWNERS)
            blocks.append(f"![{unit}]({file}.svg)")
        blocks.append(times(own))
    libraries = {
        (r["suite"], r["machine"], r["date"][:10], r["commit"],
            ", ".join(f"{n} {v}" for n, v in r["versions"].items())): None
        for r in timed
    }  # fmt: skip
    header = ("suite", "machine", "date", "commit", "libraries")
    blocks += ["## Machine", markdown(header, libraries)]
    absent = sorted({(r["suite"], name(r["contender"]), r["why"]) for r in records if r["why"]})
    if absent:
        blocks += ["## Not measured", markdown(("suite", "contender", "why"), absent)]
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n", drawn


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("bench.report", description=__doc__)
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS.jsonl")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        page, drawn = tell([record for path in options.records for record in records_of(path)])
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "report.md").write_text(page, encoding="utf-8")
        for file, figure in drawn.items():
            (options.output / file).write_text(to_svg(figure), encoding="utf-8")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(options.output / "report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
