"""`python -m bench.docs [--check]`: the tables, sentences and figures of README and docs.

All come from results files. A block stands between `<!-- table NAME -->` and `<!-- end -->`; NAME
is one of BLOCKS. --check changes nothing and says what is not as its files give it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.figure import to_svg

from . import answer, doc_tables, report, tables
from .models import table

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BLOCKS = doc_tables.TABLES | answer.BLOCKS | {
    "models": table.models, "expected": table.expected, "resets": table.resets,
}  # fmt: skip
# Blocks of one results file that are no record, which names its own: a table's first heading names
# the CPU that it was measured on.
MEASURED = {"training": "post", "training_parts": "post", "cells": "cells", "models": "models",
    "resets": "models"}  # fmt: skip
REPORT = ("ladder", "post", "peers", "inference", "short", "grid", "busy", "streaming", "scaling")


def block(name: str) -> str:
    """Return a block's text, the CPU of its results file in a table's first heading."""
    made = BLOCKS[name]
    text, file = made(), getattr(made, "file", MEASURED.get(name))
    if not file:
        return text
    lines = (tables.RESULTS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    machines = (json.loads(line)["machine"] for line in lines)
    cpu = " and ".join(dict.fromkeys(map(tables.cpu, machines)))
    _, first, rest = text.split("|", 2)
    heading = f"{first.strip()} ({cpu})" if first.strip() else cpu
    return f"| {heading} |{rest}"


def made(text: str) -> str:
    """Return a page with every block as its results files give it."""
    return MARKED.sub(lambda match: f"{match[1]}{block(match[2])}{match[3]}", text)


def pages() -> list[Path]:
    """Return the documents whose blocks are made."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def files() -> dict[Path, str]:
    """Return all that is made: README, docs, their figures, and the report with its own."""
    right = {path: made(path.read_text(encoding="utf-8")) for path in pages()}
    right |= {tables.RESULTS / name: to_svg(draw()) for name, draw in answer.FIGURES.items()}
    measured = (tables.RESULTS / f"{name}.jsonl" for name in REPORT)
    page = report.tell(tables.read(*(path for path in measured if path.exists())))
    return right | page.files(tables.RESULTS / "cpu")


def main(arguments: Sequence[str]) -> int:
    """Write what is made, or compare it; return the exit status."""
    check, wrong = "--check" in arguments, 0
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong += 1
            if not check:
                path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {'is not what its files give' if check else 'made'}")
    return int(check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
