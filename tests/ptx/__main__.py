"""Runs the project's kernels on the PTX machine and prints a table: `python -m ptx --help`.

python -m ptx                                     # every case, as `make ptx`
python -m ptx --faults                            # the table of faults
python -m ptx --only layers-bf16-sm_90-H33 --seed 3   # one schedule, findings with their lines
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from concurrent.futures import as_completed
from itertools import product

from .pool import compile_here, pool

compile_here()  # before triton is imported: here, and in the processes that import this

import triton  # noqa: E402

from . import cases, faults, lists  # noqa: E402


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
    return made


def run_cases(chosen: list[cases.Case], seeds: list[int]) -> bool:
    """Print each outcome that is not clean, then the table. Returns whether all were clean."""
    futures = [pool().submit(cases.run, case, seeds) for case in chosen]
    outcomes = []
    for future in as_completed(futures):
        outcome = future.result()
        outcomes.append(outcome)
        clean = "clean" if outcome.clean else str(outcome)
        print(f"{len(outcomes)}/{len(chosen)} {outcome.case}: {clean}", file=sys.stderr, flush=True)
    print(table(outcomes))
    return all(outcome.clean for outcome in outcomes)


def table(outcomes: list[cases.Outcome]) -> str:
    """By kernel, mode, architecture and dtype."""
    groups = defaultdict(list)
    for outcome in outcomes:
        case = outcome.case
        kind = f"{case.kind}, projected" if case.P else case.kind
        groups[kind, case.mode, f"sm_{case.arch}", case.dtype].append(outcome)
    lines = [
        f"Triton {triton.__version__}",
        "",
        "| kernels | mode | | dtype | shapes | schedules | error / allowed"
        " | instructions, millions | findings |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, members in sorted(groups.items()):
        shapes, schedules = len(members), sum(o.schedules for o in members)
        error = max(o.error for o in members)
        millions = sum(o.stats["instructions"] for o in members) / 1e6
        bad = sum(not o.clean for o in members)
        found = f"in {bad} shapes" if bad else "none"
        cells = [*key, shapes, schedules, f"{error:.1g}", f"{millions:.1f}", found]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run_faults(words: str, seeds: int) -> bool:
    """Print the table of faults. Returns whether each was found, or could not be."""
    chosen = [fault for fault in faults.FAULTS if words in fault.name]
    directions = "forward", "backward"
    submit = pool().submit
    futures = {
        (fault.name, kernel, arch): submit(faults.run_by_name, fault.name, *kernel, arch, seeds)
        for fault in chosen
        for kernel in product(fault.kinds, directions)
        for arch in fault.arch
    }
    print(f"Triton {triton.__version__}\n")
    print("| fault | found in | of | how, or why not |\n|---|---|---|---|")
    as_wanted = True
    for fault in chosen:
        results = [future.result() for key, future in futures.items() if key[0] == fault.name]
        results = [(found, outcome) for found, outcome in results if outcome is not None]
        found = sum(found for found, _ in results)
        as_wanted &= found == (0 if fault.not_found else len(results))
        how = fault.not_found or f"`{fault.finds}`"
        print(f"| {fault.name} | {found} | {len(results)} | {how} |", flush=True)
        if words:
            print("", *(outcome for found, outcome in results if found), sep="\n")
    return as_wanted


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    every = lists.some_cases() if args.few else lists.every_case()
    chosen = [case for case in every if args.only in str(case)]
    if args.seeds < 1 or not chosen:
        what = f"--seeds must be at least 1, got {args.seeds}"
        print(what if args.seeds < 1 else f"--only: no case has {args.only!r}", file=sys.stderr)
        return 2
    seeds = list(range(1, args.seeds + 1)) if args.seed is None else [args.seed]
    if args.faults is not None:
        return 0 if run_faults(args.faults, args.seeds) else 1
    return 0 if run_cases(chosen, seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
