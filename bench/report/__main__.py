"""`python -m bench.report RESULTS.json [MORE.json ...] -o DIR`: the report of the suite's results.

Writes report.html, which needs nothing else, and report.md with its figures beside it. With more
than one file the last is what the report shows, and each earlier one is compared with it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.command import Parser

from .markup import to_html, to_markdown
from .results import load


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = Parser("bench.report", __doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json",
        help="what pytest --benchmark-only --benchmark-json=RESULTS.json wrote")  # fmt: skip
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR",
        help="directory to write report.html, report.md and its figures into")  # fmt: skip
    given = parser.parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("figures need matplotlib: pip install 'fused-lstm[plot]'")
    from .story import pictures, tell  # after the check: both draw

    try:
        *earlier, shown = [load(path) for path in given.results]
        title, blocks = tell(shown, earlier)
        given.output.mkdir(parents=True, exist_ok=True)
        for picture in pictures(blocks):
            (given.output / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        for name, text in (
            ("report.html", to_html(title, blocks)),
            ("report.md", to_markdown(title, blocks)),
        ):
            (given.output / name).write_text(text, encoding="utf-8")
            print(given.output / name)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
