"""A row of a topic: contenders on one piece of work, checked, timed in turn, a line for each.

Of the topics that time the C++ engine beside nn.LSTM on this CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch

import fused_lstm

from .contenders import BASE, NAMES
from .measure.check import asked_of, require_right
from .measure.memory import Counted
from .measure.timing import Timed, interleave, quartiles

DEVICE, CPU = "cpu", torch.device("cpu")
OURS = "native-layers"


def why_not(device: torch.device) -> str | None:
    """Why the native engine cannot be timed on a device."""
    if device.type != "cpu":
        return f"--device {device}: the native engine runs on cpu"
    why = fused_lstm.available_engines(CPU)["native"]
    return why and f"the native engine cannot run here: {why}"


def check(runners: Mapping[str, Any], rounded: torch.dtype | None = None) -> None:
    """WrongAnswer where one's is not nn.LSTM's."""
    answers = {name: runner.answer() for name, runner in runners.items()}
    for name, runner in runners.items():
        require_right(name, answers[name], asked_of(runner.modes, answers[BASE]), rounded)


def take_turns(
    cases: Mapping[str, Timed], seconds: float, warmup: int = 1, **about: Any
) -> dict[str, Any]:
    """A row: each one's rounds in seconds, and the pages that its median call mapped.

    `about` says what a call is: "what", "size" or "shape"; "flops", "words" or "bytes" of a call;
    and "goals", how many times as fast as another ours is to be at least, and aims to be.
    """
    counted = {name: Counted(case) for name, case in cases.items()}
    samples = interleave(counted, seconds, warmup=warmup)
    pages = {name: statistics.median(case.pages) for name, case in counted.items()}
    return {**about, "samples": samples, "pages": pages}


def lines(row: Mapping[str, Any]) -> list[str]:
    """A line for each contender: its time, its rate, and how many times as fast ours is."""
    samples, goals = row["samples"], row.get("goals", {})
    ours = samples.get(OURS)
    found = []
    for name, sample in samples.items():
        q1, median, q3 = quartiles(sample)
        said = f"{row['what']:26}{row.get('size') or row['shape']:15}{NAMES.get(name, name):17}"
        said += f"{f'{1e3 * median:.3f} ms ({1e3 * q1:.3f} to {1e3 * q3:.3f})':34}"
        for key, unit, scale in (
            ("flops", "GF/s", 1e9), ("words", "words/s", 1), ("bytes", "GB/s", 1e9)
        ):  # fmt: skip
            said += f"{row[key] / median / scale:8.0f} {unit}" if key in row else ""
        said += f"{row['pages'][name]:9.0f} pages"
        if ours and name != OURS:
            ratio = median / quartiles(ours).median
            low, _, high = quartiles([t / o for t, o in zip(sample, ours, strict=True)])
            said += f"   ours x {ratio:.2f} ({low:.2f} to {high:.2f})"
            if name in goals:
                floor, target = goals[name]
                verdict = "target" if ratio >= target else "floor" if ratio >= floor else "BELOW"
                said += f", of {floor:g} / {target:g}: {verdict}"
        found.append(said)
    return found


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row; the row."""
    print("\n".join(lines(row)))
    return row
