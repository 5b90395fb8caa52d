"""`make gpu`: on a machine with a GPU, check everything there, then time it, in under 9 minutes.

First `pytest -m gpu`; then races of the engines and of the peers that are installed, in float32
(full and TF32), bfloat16 and float16 at the sizes of the post, and in float16 where cuDNN's own
persistent kernel runs. Each race has a process of its own: a contender that hangs or breaks the
GPU's context is reported, and the race starts again without it. What there was no time for is
reported too.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import torch

from .work import SIZES, Shape

ROOT = Path(__file__).parents[1]
MODES = ("forward", "step")
PRECISIONS = {
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}
TF32_TOLERANCE = 1e-2  # inputs of products keep 10 bits, for nn.LSTM and for all others
SILENCE = 60.0  # seconds without a word after which a race's process is taken for dead
DEVICE = "cuda"
EXCLUDED = ("compile",)  # minutes of compilation


@dataclass(frozen=True)
class Case:
    """One race."""

    name: str
    precision: str
    shape: tuple[int, int, int, int, int]


def cases() -> list[Case]:
    """In the order of their worth: what there is no time for is at the end."""
    found = [
        Case(size, precision, tuple(SIZES[size]))
        for precision in ("bf16", "tf32", "fp16", "fp32")
        for size in ("medium", "large", "small")
    ]
    # cuDNN's home ground: one layer, fp16, multiples of 128, a batch divisible by 8.
    home = [(H, B) for B in (16, 64) for H in (1024, 512, 768)]
    return found + [Case(f"home H={H} B={B}", "fp16", (1024, B, H, H, 1)) for H, B in home]


# --- a race, in its own process ---


def race(case: Case, seconds: float, without: Sequence[str]) -> None:
    """Run one race and say everything in lines of JSON: {"label": ..., "event": ..., ...}."""
    from . import check
    from .contenders import everyone, why_not
    from .race import line_up
    from .work import make_problem

    device = torch.device(DEVICE)
    dtype, tf32 = PRECISIONS[case.precision]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if tf32:
        check.TOLERANCE[dtype] = TF32_TOLERANCE
    entered = []
    for contender in everyone():
        if contender.engine in EXCLUDED or contender.label in without:
            continue
        if why := why_not(contender, device):
            say(contender.label, "absent", why=why)
        else:
            entered.append(contender)
    problem = make_problem(Shape(*case.shape), device, dtype)
    run = line_up(problem, entered, tick=lambda label: say(label, "starts"))
    for label, error in run.failed.items():
        say(label, "failed", why=f"{type(error).__name__}: {error}".splitlines()[0][:300])
    for label, error in run.errors.items():
        say(label, "right", error=error)
    if device.type == "cuda":
        torch.cuda.synchronize()  # raises where a contender has broken the context
    for mode in MODES:
        say("all", "timing", mode=mode)
        samples = run.time(mode, seconds, least=3, tick=lambda done: say("all", "alive"))
        for label, taken in samples.items():
            say(label, "timed", mode=mode, seconds=taken)
    run.close()


def say(label: str, event: str, **more: object) -> None:
    print(json.dumps({"label": label, "event": event, **more}), flush=True)


# --- the parent: one process a race, and again without whoever broke it ---


def supervise(case: Case, seconds: float, deadline: float) -> dict:
    """A race's outcome: {"right", "absent", "failed": label -> ..., "timed": mode -> ...}."""
    found = {"right": {}, "absent": {}, "failed": {}, "timed": {mode: {} for mode in MODES}}
    for _ in range(4):
        broken, why = attempt(case, seconds, deadline, found)
        if broken is None:
            return found
        found["failed"][broken] = why
        if broken == "all" or time.monotonic() > deadline:
            return found
    return found


def attempt(
    case: Case, seconds: float, deadline: float, found: dict, silence: float = SILENCE
) -> tuple[str | None, str]:
    """Run the race once into `found`. Returns who broke it, and how; or None."""
    process = subprocess.Popen(
        command(case, seconds, list(found["failed"])),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: queue.Queue = queue.Queue()
    for stream in (process.stdout, process.stderr):
        threading.Thread(target=_forward, args=(stream, lines), daemon=True).start()
    current, errors, open_streams = "all", [], 2
    while open_streams:
        left = min(silence, deadline - time.monotonic())
        try:
            stream, line = lines.get(timeout=max(left, 0.01))
        except queue.Empty:
            process.kill()
            process.wait()
            return current, "hung" if left >= silence else "was cut off: no time left"
        if line is None:
            open_streams -= 1
        elif stream is process.stdout:
            current = take(line, found, current)
        else:
            errors.append(line.strip())
    if process.wait() == 0:
        return None, ""
    said = [line for line in errors if line] or [f"exit status {process.returncode}"]
    return current, said[-1][:300]


def command(case: Case, seconds: float, without: list[str]) -> list[str]:
    """The race's process."""
    race_of = [sys.executable, "-m", "bench.gpu", "--race", json.dumps(asdict(case))]
    return [*race_of, "--seconds", str(seconds), "--without", *without]


def _forward(stream: TextIO, lines: queue.Queue) -> None:
    """Every line of a stream, and None at its end."""
    with stream:
        for line in stream:
            lines.put((stream, line))
    lines.put((stream, None))


def take(line: str, found: dict, current: str) -> str:
    """Put one line of a race into `found`; returns who is at work now."""
    try:
        event = json.loads(line)
        label, kind = event["label"], event["event"]
    except (ValueError, KeyError, TypeError):  # a library's own words
        return current
    if kind == "starts":
        return label
    if kind == "timing":
        return "all"
    if kind in ("absent", "failed"):
        found[kind][label] = event["why"]
    elif kind == "right":
        found["right"][label] = event["error"]
    elif kind == "timed":
        found["timed"][event["mode"]][label] = event["seconds"]
    return current


# --- what it prints and writes ---


def table(case: Case, outcome: dict) -> str:
    """Medians in milliseconds, and how many times faster than cuDNN, for one race."""
    from .contenders import BASE
    from .timing import quartiles, speedup

    lines = [f"{case.name}, {case.precision}: {Shape(*case.shape)}"]
    for label in outcome["right"]:
        cells = []
        for mode in MODES:
            samples = outcome["timed"][mode]
            if label not in samples:
                cells.append(f"{mode}: not timed")
                continue
            text = f"{mode} {1e3 * quartiles(samples[label]).median:9.3f} ms"
            if BASE in samples:
                text += f" {speedup(samples[BASE], samples[label]):6.2f}x"
            cells.append(text)
        lines.append(f"  {label:<18} {'   '.join(cells)}   error {outcome['right'][label]:.1e}")
    for kind in ("failed", "absent"):
        lines += [f"  {label:<18} {kind}: {why}" for label, why in outcome[kind].items()]
    return "\n".join(lines)


def tests(limit: float) -> dict:
    """`pytest -m gpu`: what it said, and whether all passed."""
    arguments = ["-q", "-m", "gpu", "tests/test_gpu.py", "--no-header", "--maxfail=20"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit,
        )
        said, status = done.stdout.strip().splitlines(), done.returncode
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
        said = (out.decode() if isinstance(out, bytes) else out).splitlines()
        said.append(f"cut off after {limit:.0f} s")
        status = 124
    return {"passed": status == 0, "status": status, "tail": said[-25:]}


def results_path() -> Path:
    """$OUT where it is set (a borrowed machine's way to send files back), else bench/results."""
    folder = Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "gpu.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.5, help="for everything together")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, a race and mode")
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
        race(Case(**json.loads(args.race)), args.seconds, args.without)
        return 0
    from .machine import describe, in_a_line

    deadline = time.monotonic() + 60 * args.minutes
    machine = describe(torch.device("cuda"))
    report = {"machine": machine, "tests": None, "races": [], "skipped": []}
    path = results_path()
    print(in_a_line(machine), flush=True)
    if not args.no_tests:
        report["tests"] = tests(limit=0.4 * 60 * args.minutes)
        print("\n".join(report["tests"]["tail"]), flush=True)
    for case in cases():
        if deadline - time.monotonic() < 15:
            report["skipped"].append(asdict(case))
            continue
        outcome = supervise(case, args.seconds, deadline)
        report["races"].append({"case": asdict(case), **outcome})
        print(table(case, outcome), flush=True)
        path.write_text(json.dumps(report, indent=1) + "\n")  # what is done is not lost
    path.write_text(json.dumps(report, indent=1) + "\n")
    for case in report["skipped"]:
        print(f"no time left for {case['name']}, {case['precision']}")
    print(f"written to {path}")
    return 0 if args.no_tests or report["tests"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
