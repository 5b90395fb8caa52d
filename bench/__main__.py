"""`python -m bench NAME ...`: check every answer, then measure; one line per measurement.

    python -m bench post --engines native,cudnn
    python -m bench layers/best serve/steps --cases medium --threads 1,2
    python -m bench layers --before ../main    # another checkout's layers take turns with these
    python -m bench.report out/*.jsonl -o out/report    # a page with figures from these files

The exit status is 1 if a contender gave a wrong answer or failed, 2 if the command line is wrong,
and 3 if other work took more than a tenth of the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from lm.command import POSITIVE, THREADS

from . import machine, tables
from .cases import DTYPES
from .contenders import BASE, NAMES
from .core import BUSY, Record, WrongAnswer, check_committed, quartiles, reason, save, speedup
from .suites import DEFAULT, SUITES, parts, start

FAILED, USAGE, BUSY_MACHINE = 1, 2, 3
# Suite -> the tables of README and docs that are printed of it.
TABLES = {"fusions": ("levels", "beside", "medium", "tiny"), "post": ("training", "training_parts")}


def listed(name: str) -> str:
    """Return a suite's line of the help: its minutes, what it answers, and its parts."""
    suite = SUITES[name]
    of = f" ({', '.join(suite.parts)})" if len(suite.parts) > 1 else ""
    return f"  {name:12} {suite.minutes:3.0f} min  {suite.says}{of}"


TEXT = f"{__doc__}\nsuites, each with its parts ('all' is {', '.join(DEFAULT)}):\n" + "\n".join(
    map(listed, SUITES)
)


class Parser(argparse.ArgumentParser):
    """Says what was wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(USAGE, f"bench: {message}\n")


def several(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return the type of an option of several numbers, such as 0,1,2."""
    return lambda text: [kind(word) for word in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exit with one line where they cannot be."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = Parser("bench", description=TEXT, formatter_class=kind)
    add, every = parser.add_argument, torch.get_num_threads()
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="suites, or SUITE/PART; after kernelbench a clone's folder",
    )
    add("--quick", action="store_true", help="a minute for each suite: one case or two, few rounds")
    add("--cases", action="append", help="a case of the suite, or named ones, such as small,medium")
    add("--engines", help="engines, levels and peers, such as loop,native-steps,jax; 'all' includes"
        " those that compile for minutes [the others]")  # fmt: skip
    add("--device", type=valued(device), help="such as cpu or cuda:1 [an accelerator, else cpu]")
    add("--dtype", choices=DTYPES, help="[the suite's]")
    add("--seconds", type=POSITIVE, help="seconds of timing per group [the suite's]")
    add("--threads", type=several(THREADS), default=[every], help="of each contender [%(default)s]")
    add("--neighbours", type=several(int), default=[0], help="busy processes beside it [0]")
    add("--pauses", type=several(float), default=[0.0], help="seconds before each call [0]")
    add("--before", type=Path, metavar="CHECKOUT", help="whose layers take turns with these")
    add("--keep-memory", action="store_true", help="let glibc keep freed memory in the process")
    add("--json", type=Path, metavar="FILE", help="where records go [out/NAME.jsonl]")
    add("--append", action="store_true", help="add to --json's file, which is made anew without")
    add("--processes", type=THREADS, default=1, help="runs of the whole command, each in a process"
        " of its own, all into one file [%(default)s]")  # fmt: skip
    add("--minutes", type=POSITIVE, default=8.5, help="time of `gpu`, `gpu-race` [%(default)s]")
    options = parser.parse_args(argv)
    options.folder = None
    if any(name.startswith("kernelbench") for name in options.names[:-1]):
        options.folder = Path(options.names.pop())
    try:
        for name in options.names:
            if name.partition("/")[0] not in (*SUITES, "all"):
                raise ValueError(f"suite: got {name!r}; expected of {', '.join(SUITES)}, all")
            if name != "all":
                parts(name)
        if options.before is not None and not (options.before / "kernels/fused_lstm").is_dir():
            raise ValueError(f"--before: got {options.before}; expected a checkout")
        if options.processes > 1 and options.json is None:
            raise ValueError("--processes: got no --json; expected the file of all records")
        if options.json is not None:
            check_committed(options.json, machine.commit())
    except ValueError as error:
        parser.error(str(error))
    named = [SUITES[name.partition("/")[0]] for name in options.names if name != "all"]
    if options.device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        cpu = accelerator is None or {suite.device for suite in named} == {"cpu"}
        options.device = torch.device("cpu") if cpu else accelerator
    kinds = (None, options.device.type)
    here = [n for n in DEFAULT if SUITES[n.partition("/")[0]].device in kinds]
    options.names = [n for name in options.names for n in (here if name == "all" else [name])]
    for name in options.names:
        kind = SUITES[name.partition("/")[0]].device
        if kind not in (None, options.device.type):
            parser.error(f"--device: got {options.device}; expected {kind} for {name}")
    return options


def valued(of: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return the type of an option whose ValueError is said in its words."""

    def read(text: str) -> Any:
        try:
            return of(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def device(text: str) -> torch.device:
    """Return the device; ValueError where it is none or is not here."""
    try:
        torch.zeros(1, device=text)
        return torch.device(text)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"got {text!r}; {reason(error)}") from None


def place(record: Record) -> str:
    """Return what a record belongs to."""
    words = f"{record.case}, {record.dtype}, {record.threads} thread{'s' * (record.threads != 1)}"
    beside, pause = record.extra.get("neighbours"), record.extra.get("pause")
    words += f", {beside} busy process{'es' * (beside > 1)}" if beside else ""
    return words + (f", {1e3 * pause:g} ms before each call" if pause else "")


def show(record: Record, before: Sequence[Record]) -> None:
    """Print a record: its time, its rates, and how many times as fast as nn.LSTM it is.

    Above it stands what it belongs to, where that is another than that of the record before it.
    """
    if not before or place(before[-1]) != place(record):
        print(f"\n{record.suite}: {place(record)}")
    words = [f"  {record.mode:10} {NAMES.get(record.contender, record.contender):22}"]
    extra = record.extra
    if not record.seconds:
        words.append(record.why)
    else:
        q1, median, q3 = (1e3 * t for t in quartiles(record.seconds))
        words.append(f"{median:10.4g} ms ({q1:.4g} to {q3:.4g}, n={len(record.seconds)})")
        turns = {r.contender: r for r in before
            if (r.group, r.mode) == (record.group, record.mode)}  # fmt: skip
        bases = {f"{record.contender}, before": "the other checkout", BASE: "nn.LSTM",
            f"stock-{BASE}": "nn.LSTM"}  # fmt: skip
        first = next(iter(turns), None)  # the base where nn.LSTM is none of them
        base = next((label for label in bases if label in turns), first)
        if base is not None:
            who = bases.get(base) or NAMES.get(base, base)
            words.append(f"relative to {who} {speedup(turns[base], record).text}")
        if "worst" in extra:
            label = "p99" if "p99" in extra else "worst"
            words.append(f"p50 {1e6 * extra['p50']:,.0f} us, {label} of {extra['calls']:,} calls"
                         f" {1e6 * extra[label]:,.0f} us")  # fmt: skip
        elif "flops" in extra:
            words.append(f"{extra['flops'] / record.median / 1e9:,.0f} GF/s")
        elif "tokens" in extra:
            words.append(f"{extra['tokens'] / record.median:,.0f} words/s")
    print("  ".join(words), flush=True)


def measured(name: str, options: argparse.Namespace) -> list[Record]:
    """Run a suite, print and write its records; exit with a line where it cannot run."""
    folder = Path(os.environ.get("OUT") or "out")
    path = options.json or folder / f"{name.replace('/', '-')}.jsonl"
    records: list[Record] = []
    try:
        for record in start(name, options):
            show(record, records)
            records.append(record)
    except (ValueError, WrongAnswer) as error:
        print(f"bench {name}: {reason(error)}", file=sys.stderr)
        raise SystemExit(USAGE if isinstance(error, ValueError) else FAILED) from None
    finally:
        if records:
            save(path, records, append=options.json is not None)
            print(f"records: {path}")
    lines = [tables.flat(record.line()) for record in records if record.seconds]
    for table in TABLES.get(name.partition("/")[0], ()) if lines else ():
        print(f"\n{tables.table_of(tables.definitions()['table'][table], lines)}")
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    options = parse(argv)
    if not options.names:
        print(TEXT)
        return 0
    wanted = machine.KEEP if options.keep_memory else {}
    own = [*(sys.argv[1:] if argv is None else argv)]
    if wanted.items() - os.environ.items():  # they are read when a process starts
        again = [sys.executable, "-m", "bench", *own]
        return subprocess.run(again, env=os.environ | wanted).returncode
    if options.json is not None and not options.append:
        options.json.unlink(missing_ok=True)
    if options.processes > 1:
        again = [sys.executable, "-m", "bench", *own, "--processes=1", "--append"]
        return max(subprocess.run(again).returncode for _ in range(options.processes))
    print(machine.name(options.device))
    clock, records, threads = machine.ForeignTime(), [], torch.get_num_threads()
    for name in options.names:
        records += measured(name, options)
    torch.set_num_threads(threads)
    foreign = max([record.foreign for record in records], default=0.0)
    if foreign > BUSY:
        print(
            f"bench: other work took up to {foreign:.0%} of the machine ({clock.share():.0%} over"
            " the whole run), so the times above do not measure this machine",
            file=sys.stderr,
        )
    if any(record.why and record.group for record in records):  # it took part, and failed
        return FAILED
    return BUSY_MACHINE if foreign > BUSY else 0


if __name__ == "__main__":
    sys.exit(main())
