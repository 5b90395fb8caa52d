"""`python -m bench.measured FOLDER`: measure the results files of README and docs, one by one.

Each row of [measured] in tables.toml is a command of `python -m bench`. It runs in a process of its
own and makes FOLDER/NAME.jsonl, and FOLDER/NAME.log of what it says. A row with `isa` is skipped on
a CPU without that instruction set. A file that is there is left as it is, so that a run that was
cut off can go on. `make results` runs this where the packages of all suites are installed.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import machine, tables
from .__main__ import BUSY_MACHINE, FAILED, USAGE

ROOT = Path(__file__).parents[1]
SAYS = {FAILED: "a contender failed", USAGE: "did not run", BUSY_MACHINE: "the machine was busy"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the commands; print their minutes, and at the end what went wrong; return the status."""
    rows = tables.definitions()["measured"]
    parser = argparse.ArgumentParser("bench.measured", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--only", metavar="NAMES", help="such as ladder,post [all]")
    options = parser.parse_args(argv)
    names = options.only.split(",") if options.only else [*rows]
    for name in names:
        if name not in rows:
            parser.error(f"--only: got {name!r}; expected of {', '.join(rows)}")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    isa = machine.settings().get("native_isa")
    print(f"commit {machine.commit()}, {isa}")
    wrong, sum_of_minutes = [], 0.0
    for name in names:
        row, file = rows[name], folder / f"{name}.jsonl"
        if row.get("isa", isa) != isa:
            print(f"{name}: skipped, needs a CPU with {row['isa']}")
            continue
        if file.exists():
            print(f"{name}: is there")
            continue
        part, log = file.with_suffix(".part"), file.with_suffix(".log")  # not yet a whole file
        words = [*shlex.split(row["command"]), "--json", str(part)]
        begin = time.monotonic()
        with log.open("w", encoding="utf-8") as said:
            status = subprocess.run(
                [sys.executable, "-m", "bench", *words], cwd=ROOT, stdout=said, stderr=said
            ).returncode
        minutes = (time.monotonic() - begin) / 60
        sum_of_minutes += minutes
        if part.exists():
            part.rename(file)
        if status:
            wrong.append(f"{name}: {SAYS.get(status, f'status {status}')}, see {log}")
        print(f"{name}: {minutes:.1f} minutes, {sum_of_minutes:.1f} in all", flush=True)
    for line in wrong:
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
