"""Runs the project's kernels on the PTX machine and prints a table: `python -m ptx --help`.

python -m ptx                                     # every case, as `make ptx`
python -m ptx --faults                            # the table of faults
python -m ptx --only layers-bf16-sm_90-H33 --seed 3   # one schedule, findings with their lines
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from concurrent.futures import as_completed
from itertools import product
from pathlib import Path
from typing import Any

from .pool import compile_here, pool

compile_here()  # before triton is imported: here, and in the processes that import this

import triton  # noqa: E402

from . import cases, faults, lists, phase_cases  # noqa: E402


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m ptx", description=__doc__.splitlines()[0])
    made.add_argument("--seeds", type=int, default=10, help="schedules of each case (10)")
    made.add_argument("--seed", type=int, help="this schedule alone")
    made.add_argument("--only", default="", metavar="WORDS", help="cases whose name has these")
    made.add_argument("--few", action="store_true", help="only the cases that CI has")
    made.add_argument(
        "--faults", nargs="?", const="", metavar="WORDS",
        help="the table of faults instead, or those whose name has these words and their reports",
    )  # fmt: skip
    made.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    return made


def run_cases(chosen: list[cases.Case], seeds: list[int]) -> list[dict[str, Any]]:
    """Run them, with a line for each as it ends; rows by kernel, mode, architecture and dtype."""
    print(f"{len(chosen)} cases under {len(seeds)} schedules each", file=sys.stderr, flush=True)
    run = {False: cases.run, True: phase_cases.run}
    futures = [pool().submit(run[case.phase], case, seeds) for case in chosen]
    began = time.monotonic()
    groups = defaultdict(list)
    for done, future in enumerate(as_completed(futures), 1):
        outcome = future.result()
        case, clean = outcome.case, "clean" if outcome.clean else str(outcome)
        minutes = (time.monotonic() - began) / done * (len(chosen) - done) / 60
        left = f"{minutes:.0f} min left" if minutes >= 1 else "under a minute left"
        print(f"{done}/{len(chosen)}, {left}: {case}: {clean}", file=sys.stderr, flush=True)
        kind = f"{case.kind}, projected" if case.P else case.kind
        kind += ", phase" if case.phase else ""
        groups[kind, case.mode, f"sm_{case.arch}", case.dtype].append(outcome)
    return [
        {
            **dict(zip(("kernels", "mode", "arch", "dtype"), key, strict=True)),
            "shapes": len(outcomes),
            "schedules": sum(o.schedules for o in outcomes),
            "error": max(o.error for o in outcomes),  # of what is allowed
            "instructions": sum(o.stats["instructions"] for o in outcomes),
            "dirty": sum(not o.clean for o in outcomes),  # shapes with a finding
        }
        for key, outcomes in sorted(groups.items())
    ]


def run_faults(words: str, seeds: int) -> list[dict[str, Any]]:
    """A row for each fault: in how many trials it was found, and how, or why it cannot be."""
    chosen = [fault for fault in faults.FAULTS if words in fault.name]
    directions = "forward", "backward"
    submit = pool().submit
    futures = {
        (fault.name, kernel, arch): submit(faults.run_by_name, fault.name, *kernel, arch, seeds)
        for fault in chosen
        for kernel in product(fault.kinds, directions)
        for arch in fault.arch
    }
    rows = []
    for fault in chosen:
        results = [future.result() for key, future in futures.items() if key[0] == fault.name]
        results = [(found, outcome) for found, outcome in results if outcome is not None]
        found, trials = sum(found for found, _ in results), len(results)
        says = fault.not_found or f"`{fault.finds}`"
        rows.append({"fault": fault.name, "found": found, "trials": trials, "says": says,
                     "as_wanted": found == (0 if fault.not_found else trials)})  # fmt: skip
        print(f"{fault.name}: {found} of {trials}", file=sys.stderr, flush=True)
        if words:
            print("", *(outcome for found, outcome in results if found), sep="\n")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown has it."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    shown = [[f"{v:.1g}" if isinstance(v, float) else str(v) for v in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    every = lists.some_cases() if args.few else lists.every_case()
    every += phase_cases.some_cases() if args.few else phase_cases.every_case()
    chosen = [case for case in every if args.only in str(case)]
    if args.seeds < 1 or not chosen:
        what = f"--seeds must be at least 1, got {args.seeds}"
        print(what if args.seeds < 1 else f"--only: no case has {args.only!r}", file=sys.stderr)
        return 2
    seeds = list(range(1, args.seeds + 1)) if args.seed is None else [args.seed]
    if args.faults is not None:
        rows = run_faults(args.faults, args.seeds)
        passed = all(row["as_wanted"] for row in rows)
    else:
        rows = run_cases(chosen, seeds)
        passed = not any(row["dirty"] for row in rows)
    print(f"Triton {triton.__version__}", "", table(rows), sep="\n")
    if args.json is not None:
        name = "cases" if args.faults is None else "faults"
        args.json.write_text(
            json.dumps({"triton": triton.__version__, name: rows}, indent=1) + "\n"
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
