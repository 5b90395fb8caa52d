"""`python -m bench NAME ...`: check every answer, then measure; one line per measurement.

    python -m bench post --engines native,cudnn
    python -m bench inference short --cases medium --threads 1
    python -m bench.report out/*.jsonl -o out/report    # a page with figures from these files

The exit status is 1 if a contender gave a wrong answer or failed, 2 if the command line is wrong,
and 3 if other work took more than a tenth of the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from lm.command import POSITIVE, THREADS

from . import machine, tables
from .cases import DTYPES, Case, choose
from .contenders import BASE, NAMES
from .core import BUSY, Record, WrongAnswer, check_committed, quartiles, reason, save, speedup
from .suites import DEFAULT, SUITES, start

FAILED, USAGE, BUSY_MACHINE = 1, 2, 3
# Suite -> the tables of README and docs that are printed of it.
TABLES = {"ladder": ("levels", "beside", "medium", "tiny"), "post": ("training", "training_parts")}
# Instruction set -> what keeps everyone to it, in the environment of a process when it starts.
ISAS = {
    "avx2": {
        "FUSED_LSTM_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
}


TEXT = f"{__doc__}\nsuites ('all' is {', '.join(DEFAULT)}):\n" + "\n".join(
    f"  {name:10} {suite.says}" for name, suite in SUITES.items()
)


class Parser(argparse.ArgumentParser):
    """Says what was wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(USAGE, f"bench: {message}\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exit with one line where they cannot be."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = Parser("bench", description=TEXT, formatter_class=kind)
    add, every = parser.add_argument, torch.get_num_threads()
    add("names", nargs="*", metavar="NAME", help="suites; after kernelbench a clone's folder")
    add("--cases", type=cases, help="named cases, such as small,medium [the suite's]")
    add("--engines", help="engines, levels and peers, such as loop,native-steps,jax; 'all' includes"
        " those that compile for minutes [the others]")  # fmt: skip
    add("--device", type=device, help="such as cpu or cuda:1 [an accelerator, else cpu]")
    add("--dtype", choices=DTYPES, help="[the suite's]")
    add("--seconds", type=POSITIVE, help="seconds of timing per group [the suite's]")
    add("--threads", type=THREADS, default=every, help="threads of each contender [%(default)s]")
    add("--isa", choices=ISAS, help="limit all contenders to this instruction set")
    add("--keep-memory", action="store_true", help="let glibc keep freed memory in the process")
    add("--json", type=Path, metavar="FILE", help="where records go [out/NAME.jsonl]")
    add("--append", action="store_true", help="add to --json's file, which is made anew without")
    add("--processes", type=THREADS, default=1, help="runs of the whole command, each in a process"
        " of its own, all into one file [%(default)s]")  # fmt: skip
    add("--minutes", type=POSITIVE, default=8.5, help="time of `gpu`, `gpu-race` [%(default)s]")
    options = parser.parse_args(argv)
    options.folder = None
    if "kernelbench" in options.names[:-1]:
        options.folder = Path(options.names.pop(options.names.index("kernelbench") + 1))
    for name in options.names:
        if name not in (*SUITES, "all"):
            parser.error(f"suite: got {name!r}; expected of {', '.join(SUITES)}, all")
    if options.processes > 1 and options.json is None:
        parser.error("--processes: got no --json; expected the file of all processes' records")
    if options.json is not None:
        try:
            check_committed(options.json, machine.commit())
        except ValueError as error:
            parser.error(f"--json: {error}")
    kinds = {SUITES[name].device for name in options.names if name != "all"} - {None}
    if options.device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        cpu = accelerator is None or kinds == {"cpu"}
        options.device = torch.device("cpu") if cpu else accelerator
    here = [n for n in DEFAULT if SUITES[n].device in (None, options.device.type)]
    options.names = [n for name in options.names for n in (here if name == "all" else [name])]
    for name in options.names:
        if (kind := SUITES[name].device) not in (None, options.device.type):
            parser.error(f"--device: got {options.device}; expected {kind} for {name}")
    return options


def cases(text: str) -> list[Case]:
    """Return the named cases."""
    try:
        return choose(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device(text: str) -> torch.device:
    """Return the device; an error where it is none or is not here."""
    try:
        torch.zeros(1, device=text)
        return torch.device(text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; {reason(error)}") from None


def show(record: Record, before: Sequence[Record]) -> None:
    """Print a record of a suite: its time, its rates, and how many times as fast as nn.LSTM it is.

    Above it stands what it belongs to, where that is another than that of the record before it.
    """

    def place(r: Record) -> str:
        words = f"{r.case}, {r.dtype}, {r.threads} thread{'s' * (r.threads != 1)}"
        beside = r.extra.get("neighbours")
        return f"{words}, {beside} busy process{'es' * (beside > 1)}" if beside else words

    if not before or place(before[-1]) != place(record):
        print(f"\n{record.suite}: {place(record)}")
    words = [f"  {record.mode:10} {NAMES.get(record.contender, record.contender):22}"]
    if not record.seconds:
        words.append(record.why)
    else:
        q1, median, q3 = (1e3 * t for t in quartiles(record.seconds))
        words.append(f"{median:10.4g} ms ({q1:.4g} to {q3:.4g})")
        for base in before:
            same = (base.group, base.mode) == (record.group, record.mode)
            if same and base.contender in (BASE, f"stock-{BASE}"):
                words.append(f"relative to nn.LSTM {speedup(base, record).text}")
                break
        if "flops" in record.extra:
            words.append(f"{record.extra['flops'] / record.median / 1e9:,.0f} GF/s")
        elif "tokens" in record.extra:
            words.append(f"{record.extra['tokens'] / record.median:,.0f} words/s")
        if "worst" in record.extra:
            words.append(f"p50 {1e6 * record.extra['p50']:,.0f} us, {slowest(record.extra)}")
    print("  ".join(words), flush=True)


def slowest(tail: Mapping[str, Any]) -> str:
    """Return the slow calls in words: p99 where there are calls enough for it, else the worst."""
    label = "p99" if "p99" in tail else "worst"
    return f"{label} of {tail['calls']:,} calls {1e6 * tail[label]:,.0f} us"


def measure(name: str, options: argparse.Namespace) -> list[Record]:
    """Run a suite, print and write its records; exit with a line where it cannot run."""
    path = options.json or Path(os.environ.get("OUT") or "out") / f"{name}.jsonl"
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
    for table in TABLES.get(name, ()):
        lines = [tables.flat(record.line()) for record in records]
        if any(record.seconds for record in records):
            print(f"\n{tables.table_of(tables.definitions()['table'][table], lines)}")
    return records


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    options = parse(argv)
    if not options.names:
        print(TEXT)
        return 0
    wanted = (machine.KEEP if options.keep_memory else {}) | (
        ISAS[options.isa] if options.isa else {}
    )
    if wanted.items() - os.environ.items():  # they are read when a process starts
        again = [sys.executable, "-m", "bench", *(sys.argv[1:] if argv is None else argv)]
        return subprocess.run(again, env=os.environ | wanted).returncode
    if options.json is not None and not options.append:
        options.json.unlink(missing_ok=True)
    if options.processes > 1:
        words = [*(sys.argv[1:] if argv is None else argv), "--processes=1", "--append"]
        again = [sys.executable, "-m", "bench", *words]
        return max(subprocess.run(again).returncode for _ in range(options.processes))
    torch.set_num_threads(options.threads)
    print(machine.name(options.device))
    clock, records = machine.ForeignTime(), []
    for name in options.names:
        records += measure(name, options)
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
