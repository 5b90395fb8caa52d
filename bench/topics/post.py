"""The post's own table on this machine, words per second of training.

TensorFlow's step loop, the same under XLA, Keras' LSTM, JAX, stock PyTorch, and this project's
fusions one by one. All train one language model from the same weights on the same words; each is
checked against the post's program in float64 before it is timed, three losses and the update of
every weight; all take turns, and in the same rounds a step without its LSTM is timed too. The peers
are in processes of their own and compile side by side, before anything is timed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lm.command import reason

from ..alone import SIZES as PRESETS
from ..contenders import Contender, trainers
from ..contenders import why_not as cannot
from ..measure import machine
from ..measure.switches import full_float32
from ..measure.timing import quartiles
from ..race import Race
from ..report import systems
from ..report.results import Results, load
from ..suite import Group, extra_info, time_training
from ..training import make_lesson

SIZES, SECONDS = ("small", "medium"), 20.0
ROOT = Path(__file__).parents[2]
LEAST = 7  # rounds of a size
LONGEST = 100.0  # seconds for them, after which three must do


def entered(device: torch.device) -> tuple[list[Contender], dict[str, str]]:
    """Who is in the table and can run, and why the others cannot."""
    labels = [line.label for line in systems.lines(str(device))]
    known = [c for c in trainers() if c.label in labels]
    whys = {c.label: cannot(c, device) for c in known}
    return [c for c in known if not whys[c.label]], {n: why for n, why in whys.items() if why}


def measure(
    sizes: Sequence[str], device: torch.device, seconds: float, say: Callable[[str], object]
) -> dict[str, Any]:
    """What was found, in the form that report.results reads."""
    begin, (able, absent) = time.perf_counter(), entered(device)

    def tell(what: str) -> None:
        say(f"{time.perf_counter() - begin:5.0f} s  {what}")

    races = {size: Race(make_lesson(size, device), able) for size in sizes}
    try:
        for size, race in races.items():
            race.check_own(lambda label, size=size: tell(f"checking {label}, {size}"))
        tell("peers start, and compile side by side")
        for race in races.values():
            race.start_peers()
        for size, race in races.items():
            race.check_peers(lambda label, size=size: tell(f"checking {label}, {size}"))
        found = []
        for size, race in races.items():
            tell(f"timing {size}")
            group = time_training(race, seconds, least=LEAST, longest=LONGEST)
            found += [entry(c, size, group, device) for c in able if c.label in group.samples]
            for label, error in race.failed.items():
                absent[f"{label}, {size}"] = one_line(label, error)
            race.close()
    finally:
        for race in races.values():
            race.close()
    tell("done")
    return {
        "machine_info": {"fused_lstm": machine.describe(device) | {"dtype": "float32"}},
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begin),
        "not_measured": absent,
        "benchmarks": found,
    }


def one_line(label: str, error: Exception) -> str:
    """Why a contender has no time, without its name."""
    said = reason(error)
    for name in (label, label.removeprefix("stock-")):
        said = said.removeprefix(f"{name}: ")
    return said[:200]


def entry(contender: Contender, size: str, group: Group, device: torch.device) -> dict[str, Any]:
    """One row in pytest-benchmark's form."""
    about = {"suite": "train", "size": size, "mode": "training step", "shape": PRESETS[size]}
    info = extra_info(contender, group, device, torch.float32, about)
    sample = group.samples[contender.label]
    stats = {**quartiles(sample)._asdict(), "data": sample}
    return {
        "group": f"training, {size}",
        "name": contender.label,
        "stats": stats,
        "extra_info": info,
    }


def show(results: Results) -> str:
    """The table, what was checked, and what it explains."""
    parts = [machine.in_a_line(results.machine), systems.to_text(results)]
    parts.append(
        "±: half the distance of the quartiles. x TF: to TensorFlow's step loop. LSTM: its share of"
        "\na step, by timing one without it. PyTorch's rows have its own loss, clip and SGD unless"
        "\nthey say ours. All compute the same function: TensorFlow's forget bias is 0, its loss is"
        "\nthe preset's, and its clip takes the norm of the dense gradient."
    )
    for size in results.sizes("train"):
        header, rows, _ = systems.losses(results, size)
        rows = [header, *rows]
        parts.append("\n".join(f"{r[0]:38}{r[1]:>10}{r[2]:>10}{r[3]:>10}   {r[4]}" for r in rows))
    return "\n\n".join([*parts, *systems.sentences(results)])


def draw(results: Results, path: Path) -> str:
    """The figure, where matplotlib is; returns a line about it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no figure: it needs matplotlib, pip install 'fused-lstm[plot]'"
    from ..report import figures, style

    if (figure := figures.training(results)) is None:
        return "no figure: nothing was measured"
    path.write_text(style.to_svg(figure, "post"), encoding="utf-8")
    return f"figure: {path}"


def in_a_process(path: Path, limit: float, *options: str) -> str:
    """What the command says with these options, or one line about why it did not end well."""
    command = [sys.executable, "-m", "bench", "post", "--json", str(path), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return f"bench post: cut off after {limit:.0f} s"
    words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return done.stdout if done.returncode == 0 else f"bench post: {words[-1]}"


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured; ValueError where nobody could be."""
    with full_float32():
        found = measure(given.sizes, given.device, given.seconds, _to_stderr)
    if not found["benchmarks"]:
        whys = "; ".join(f"{label}: {why}" for label, why in found["not_measured"].items())
        raise ValueError(f"sizes: nobody could be timed: {whys}")
    return found


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def after(given: argparse.Namespace) -> None:
    """The table, from the file."""
    results = load(given.json)
    print(f"{show(results)}\n\n{draw(results, given.json.with_suffix('.svg'))}")
