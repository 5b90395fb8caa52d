"""`python -m bench.docs [--check]`: the tables, sentences and figures of README and docs.

All come from results files. A block stands between `<!-- table NAME -->` and `<!-- end -->`; NAME
is one of BLOCKS. --check changes nothing and says what is not as its files give it. Both list the
results that are older than the code that they measure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.figure import to_svg

from . import answer, doc_tables, suites, tables
from .models import table

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BLOCKS = doc_tables.TABLES | answer.BLOCKS | {
    "models": table.models, "expected": table.expected, "resets": table.resets,
}  # fmt: skip
# Blocks of one results file that are no record, which names its own: a table's first heading names
# the CPU that it was measured on, and the day.
MEASURED = {"training": "post", "training_parts": "post", "cells": "cells", "models": "models",
    "resets": "models", "first_screen": "faster", "answer_everywhere": "ladder",
    "answer_medium": "ladder", "answer_tiny": "ladder", "answer_beside": "ladder",
    "answer_parts": "parts"}  # fmt: skip


def records(name: str) -> list[dict]:
    """Return the lines of a results file."""
    lines = (tables.RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def block(name: str) -> str:
    """Return a block's text, the CPU and the day of its results file in a table's first heading."""
    made = BLOCKS[name]
    text, file = made(), getattr(made, "file", MEASURED.get(name))
    if not file:
        return text
    rows = records(file)
    cpu = " and ".join(dict.fromkeys(tables.cpu(row["machine"]) for row in rows))
    days = sorted({row["date"][:10] for row in rows})
    place = f"{cpu}, {' to '.join(dict.fromkeys((days[0], days[-1])))}"
    _, first, rest = text.split("|", 2)
    heading = f"{first.strip()} ({place})" if first.strip() else place
    return f"| {heading} |{rest}"


def older() -> list[str]:
    """Return a line for each results file and commit whose code has changed since."""
    lines = []
    for path in sorted(tables.RESULTS.glob("*.jsonl")):
        measured = {(row["suite"], row["commit"]) for row in records(path.stem) if "suite" in row}
        for suite, commit in sorted(measured):
            words = ["git", "-C", str(ROOT), "rev-list", "--count", f"{commit}..HEAD", "--"]
            ran = subprocess.run(
                [*words, *suites.code(suite)], capture_output=True, text=True, check=False
            )
            changes = ran.stdout.strip() or "unknown"
            if changes != "0":
                lines.append(
                    f"{path.name}: {suite} at {commit}; changes of its code since: {changes}"
                )
    return lines


def made(text: str) -> str:
    """Return a page with every block as its results files give it."""
    return MARKED.sub(lambda match: f"{match[1]}{block(match[2])}{match[3]}", text)


def pages() -> list[Path]:
    """Return the documents whose blocks are made."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def files() -> dict[Path, str]:
    """Return all that is made: README, docs and their figures."""
    right = {path: made(path.read_text(encoding="utf-8")) for path in pages()}
    return right | {tables.RESULTS / name: to_svg(draw()) for name, draw in answer.FIGURES.items()}


def main(arguments: Sequence[str]) -> int:
    """Write what is made, or compare it; return the exit status."""
    check, wrong = "--check" in arguments, 0
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong += 1
            if not check:
                path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {'is not what its files give' if check else 'made'}")
    if lines := older():
        print("results older than the code they measure:", *lines, sep="\n  ")
    return int(check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
