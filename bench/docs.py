"""`python -m bench.docs [--check]`: the tables and figures of README and docs, and docs/facts.json.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is one of tables.toml, or of
PROGRAMS here, which are no results but code and arithmetic. A sentence is written by hand. Behind a
measured number in it stands the name of a fact, which a browser does not show: `1.83<!--NAME-->`.
Where a fact has changed, the number is replaced, and its sentence printed, to be read again.
--check changes nothing, and says what is not as its files give it. Both list the results that are
older than the code that they measure, with the commands that measure them again.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import fused_lstm
from fused_lstm.triton import devices
from lm.figure import to_svg

from . import arithmetic, figures, suites, tables

ROOT = Path(__file__).parents[1]
FACTS = ROOT / "docs" / "facts.json"
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NAMED = re.compile(r"<!--(\w+)-->")


# --- tables that are not of results ---


def signatures() -> str:
    """Return the signature and the first paragraph of each public name, as Markdown."""
    blocks = []
    for public in fused_lstm.__all__:
        value = getattr(fused_lstm, public)
        if not callable(value):
            continue
        _, _, call = str(inspect.signature(value)).partition("(")
        text = textwrap.fill(f"fused_lstm.{public}({call}", 96, subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False)  # fmt: skip
        first = inspect.cleandoc(value.__doc__ or "").partition("\n\n")[0]
        blocks.append(f"### {public}\n\n```python\n{text}\n```\n\n{first}\n")
    return "\n".join(blocks)


def cards() -> str:
    """Return the cards that a launch is planned for."""
    body = [
        [
            card.name,
            card.gfx or f"sm_{card.arch}",
            f"{card.smem // 1024} KiB",
            f"{card.l2 / 1e6:.0f} MB",
        ]
        for card in (*devices.DEVICES.values(), *devices.AMD.values())
    ]
    return tables.markdown(("card", "architecture", "shared memory of a program", "L2"), body)


def explained() -> str:
    """Return what is generated for a cell; bench/zoo.py takes seconds to trace."""
    from . import zoo

    return f"```python\n{zoo.ALL['lltm'].explained()}```\n"


PROGRAMS: dict[str, Callable[[], str]] = {
    "signatures": signatures,
    "cards": cards,
    "custom_explained": explained,
    "answer_post": arithmetic.post_table,
    "answer_h100": arithmetic.h100_table,
}


# --- pages ---


def block(name: str) -> str:
    """Return a table's text."""
    return PROGRAMS[name]() if name in PROGRAMS else tables.table(name)


def facts() -> dict[str, str]:
    """Return all facts, by name."""
    return tables.facts() | arithmetic.facts()


def quoted(text: str, now: dict[str, str], before: dict[str, str]) -> tuple[str, list[str]]:
    """Return a page with the facts as they are now, and the sentences that quoted another one.

    Raises ValueError where a name is no fact's, or the text before it is not the fact's.
    """
    changed, parts, end = [], [], 0
    for match in NAMED.finditer(text):
        name, said = match[1], text[end : match.start()]
        if name not in now:
            raise ValueError(f"fact: got {name!r}; expected of {', '.join(sorted(now))}")
        flat = said.replace("\n", " ")
        for value in (now[name], before.get(name, now[name])):
            if flat.endswith(value):
                break
        else:
            raise ValueError(
                f"fact {name}: got {flat[-40:]!r} before its name; expected {now[name]!r}"
            )
        if value != now[name]:
            said = said[: len(said) - len(value)] + now[name]
            changed.append(f"{flat[-80:]} ({name} is now {now[name]})")
        parts += [said, match[0]]
        end = match.end()
    return "".join([*parts, text[end:]]), changed


def pages() -> list[Path]:
    """Return the documents whose tables are made."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def files() -> tuple[dict[Path, str], list[str]]:
    """Return all that is made, by path, and the sentences whose facts have changed."""
    now, changed, right = facts(), [], {}
    before = json.loads(FACTS.read_text(encoding="utf-8")) if FACTS.exists() else {}
    for path in pages():
        text = path.read_text(encoding="utf-8")
        text = MARKED.sub(lambda match: f"{match[1]}{block(match[2])}{match[3]}", text)
        right[path], of_page = quoted(text, now, before)
        changed += [f"{path.relative_to(ROOT)}: {sentence}" for sentence in of_page]
    right[FACTS] = json.dumps(now, indent=1, ensure_ascii=False) + "\n"
    drawn = {tables.RESULTS / name: to_svg(draw()) for name, draw in figures.FIGURES.items()}
    return right | drawn, changed


def older() -> list[str]:
    """Return a line for each results file whose code has changed since, with its command."""
    lines, measured = [], tables.definitions()["measured"]
    for path in sorted(tables.RESULTS.glob("*.jsonl")):
        changes = {}
        for suite, commit in sorted({(row["suite"], row["commit"]) for row in tables.load(path)}):
            words = ["git", "-C", str(ROOT), "rev-list", "--count", f"{commit}..HEAD", "--"]
            ran = subprocess.run(
                [*words, *suites.code(suite)], capture_output=True, text=True, check=False
            )
            changes[commit] = ran.stdout.strip() or "unknown"
        told = [f"{commit}, changes of its code: {n}" for commit, n in changes.items() if n != "0"]
        if told:
            again = measured.get(path.stem, {"command": "?", "minutes": 0})
            command = f"python -m bench {again['command']} --json {path.relative_to(ROOT)}"
            lines.append(f"{path.stem}: {'; '.join(told)}\n    {command}  # {again['minutes']} min")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Write what is made, or compare it; return the exit status."""
    check, wrong = "--check" in arguments, 0
    try:
        right, changed = files()
    except ValueError as error:
        print(f"bench.docs: {error}", file=sys.stderr)
        return 2
    for path, text in right.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong += 1
            if not check:
                path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {'is not what its files give' if check else 'made'}")
    if changed:
        print("sentences that quote a fact which has changed:", *changed, sep="\n  ")
    if lines := older():
        print("results older than the code they measure:", *lines, sep="\n  ")
    return int(check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
