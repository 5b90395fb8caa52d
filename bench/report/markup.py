"""A report as a list of blocks, and the two ways to write it: one HTML file, or Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple


class Heading(NamedTuple):
    text: str
    level: int = 2


class Text(NamedTuple):
    text: str  # `code` is the only markup


class Table(NamedTuple):
    """The first column is words, the others figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Picture(NamedTuple):
    name: str  # of the file beside report.md
    svg: str
    caption: str


Block = Heading | Text | Table | Picture

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 54rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; display: block; }
figcaption, caption { font-size: .875rem; color: #444; text-align: left; padding: .25rem 0; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .25rem .45rem; border-bottom: 1px solid #ddd; text-align: right;
         font-variant-numeric: tabular-nums; vertical-align: top; overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.words td, table.words th { text-align: left; }
@media (max-width: 34rem) { thead, td.none { display: none; }
  table, tbody, caption { display: block; }
  tr { display: block; padding: .5rem 0; border-bottom: 2px solid #bbb; }
  td, td:first-child, table.words td { display: flex; justify-content: space-between; gap: 1rem;
    text-align: right; border: 0; padding: .1rem 0; overflow-wrap: anywhere; }
  td::before { content: attr(data-name); color: #444; text-align: left; flex: none; }
  td:first-child { font-weight: 600; text-align: left; } td:first-child::before { content: none; }
  table.words td { flex-direction: column; } }
code { font-size: .9em; background: #f3f3f3; padding: 0 .2em; }
@media print { body { max-width: none; font-size: 11pt; padding: 0; }
  figure, table { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; } }
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One file that needs nothing else: style and figures are in it."""
    body = "\n".join(_html(block) for block in [Heading(title, 1), *blocks])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Picture(_, svg, caption):
            label = html.escape(caption, quote=True)
            svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
            return f"<figure>\n{svg}\n<figcaption>{_inline(caption)}</figcaption>\n</figure>"
        case Table(header, rows, caption):
            words = "" if _has_figures(rows) else ' class="words"'
            top = f"<caption>{_inline(caption)}</caption>" if caption else ""
            head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in header)
            named = [html.escape(cell, quote=True) for cell in header]
            lines = ["".join(map(_cell_html, named, row)) for row in rows]
            body = "".join(f"<tr>{line}</tr>\n" for line in lines)
            return (
                f'<div class="wide"><table{words}>{top}<thead><tr>{head}</tr></thead>\n'
                f"<tbody>{body}</tbody></table></div>"
            )


def _cell_html(name: str, cell: str) -> str:
    """A narrow screen shows the column's name beside each cell, and leaves out what is none."""
    none = ' class="none"' if cell in ("", "-") else ""
    return f'<td{none} data-name="{name}">{_inline(cell)}</td>'


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _has_figures(rows: Sequence[Sequence[str]]) -> bool:
    return any(cell[:1].isdigit() for row in rows for cell in row[1:])


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Its pictures are files beside it, `<name>.svg`."""
    return "\n\n".join(_markdown(block) for block in [Heading(title, 1), *blocks]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Picture(name, _, caption):
            return f"![{caption}]({name}.svg)\n\n{caption}"
        case Table(header, rows, caption):
            rule = ["---", *["---:" if _has_figures(rows) else "---"] * (len(header) - 1)]
            lines = [_cells(header), _cells(rule), *map(_cells, rows)]
            return (f"{caption}\n\n" if caption else "") + "\n".join(lines)


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
