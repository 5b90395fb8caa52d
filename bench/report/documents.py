"""`python -m bench.report.documents [--check]`: the tables of README and docs, from results files.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is one of tables.TABLES.
--check changes nothing and says which tables are not what their files give.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .markup import to_markdown
from .tables import TABLES

ROOT = Path(__file__).parents[2]
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def made(text: str) -> str:
    """`text` with every marked table as its results file gives it."""

    def table(match: re.Match) -> str:
        body = to_markdown("", [TABLES[match[2]]()]).partition("\n\n")[2]
        return f"{match[1]}{body}{match[3]}"

    return MARKED.sub(table, text)


def main(arguments: list[str]) -> int:
    """Write, or compare; the exit status."""
    parser = argparse.ArgumentParser("python -m bench.report.documents", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    check, wrong = parser.parse_args(arguments).check, 0
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if (new := made(text)) != text:
            wrong += 1
            if not check:
                path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {'is not what its files give' * check or 'made'}")
    return int(check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
