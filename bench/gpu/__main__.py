"""`make gpu`: compile, test, show the post's table, race: under 9 minutes (see __init__)."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from . import compiling, racing, testing
from .cases import Case, cases
from .watching import ROOT

COMPILING, TESTING = 0.2, 0.55  # of the minutes: by when each has to be done


def results_path() -> Path:
    """$OUT where it is set (a borrowed machine's way to send files back), else bench/results."""
    folder = Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "gpu.json"


def shapes_of_tests() -> list[tuple[str, tuple[int, ...]]]:
    """What tests/test_gpu.py launches: read from it, so that the two cannot drift."""
    import importlib.util

    sys.path.insert(0, str(ROOT / "tests"))
    spec = importlib.util.spec_from_file_location("test_gpu", ROOT / "tests" / "test_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [(p, shape) for shape in module.SHAPES.values() for p in module.PRECISIONS]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.5, help="for everything together")
    parser.add_argument("--seconds", type=float, default=1.5, help="of timing, a race and mode")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--race", help=argparse.SUPPRESS)
    parser.add_argument("--without", nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.minutes <= 0 or args.seconds <= 0:
        parser.error("--minutes and --seconds must be above 0")
    if not torch.cuda.is_available():
        print("bench.gpu: no NVIDIA GPU here that torch can use", file=sys.stderr)
        return 2
    if args.race:
        racing.race(Case(**json.loads(args.race)), args.seconds, args.without)
        return 0
    return everything(args.minutes, args.seconds, args.no_tests)


def everything(minutes: float, seconds: float, no_tests: bool) -> int:
    """Compile, test, race; what is done is written after each, so that nothing is lost."""
    from fused_lstm.triton.devices import current

    from ..machine import describe, in_a_line
    from ..post import in_a_process

    began = time.monotonic()
    deadline = began + 60 * minutes
    machine, path, hung = describe(torch.device("cuda")), results_path(), {}
    report = {"machine": machine, "compiled": None, "tests": None, "races": [], "skipped": []}
    print(in_a_line(machine), flush=True)

    wanted = [(case.precision, case.shape) for case in cases()]
    wanted += [] if no_tests else shapes_of_tests()
    until = began + COMPILING * 60 * minutes
    done = compiling.compile_in_time(current(torch.device("cuda")), wanted, until)
    print(f"{done['kernels']} launches compiled in {done['seconds']:.0f} s", flush=True)
    for name, why in done["failed"].items():
        print(f"  {name}: {why}", flush=True)
    report["compiled"] = done

    if not no_tests:
        report["tests"] = tests = testing.run(began + TESTING * 60 * minutes)
        print(f"tests: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['cut']}")
        for name, why in tests["failed"].items():
            print(f"  {name}: {why}", flush=True)
    limit = min(150.0, (deadline - time.monotonic()) / 2)
    print(in_a_process(path.with_name("gpu-post.json"), limit, "--device", "cuda"), flush=True)
    for case in cases():
        path.write_text(json.dumps(report, indent=1) + "\n")
        if deadline - time.monotonic() < 15:
            report["skipped"].append(asdict(case))
            print(f"no time left for {case.name}, {case.precision}")
            continue
        outcome = racing.supervise(case, seconds, deadline, hung)
        report["races"].append({"case": asdict(case), **outcome})
        print(racing.table(case, outcome), flush=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path}")
    return 0 if no_tests or not (tests["failed"] or tests["cut"]) else 1


if __name__ == "__main__":
    sys.exit(main())
