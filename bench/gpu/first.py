"""The first two minutes on a GPU: what is wrong, if anything, and one race with cuDNN, in one file.

`make gpu-first`; `make gpu` and `make gpu-race` begin with it. Card, driver, libraries, commit and
free memory; what a grid barrier takes, its parts, and a step with and without it; a test of each of
nine families of kernels; and the model medium in bfloat16 beside cuDNN. gpu-first.json is written
as it goes, and `python -m bench.gpu.first FILE` prints it as the command does at its end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..core import GRAPH
from . import card, compiling, racing, testing

SECONDS = 120.0
COMPILING, TESTING = 0.4, 0.75  # parts of these, by when the kernels are compiled, the tests done
PACE = 0.5  # seconds of timing, a race's mode
HERE = "tests/kernels/triton/test_gpu.py::", "tests/kernels/triton/test_gpu_cells.py::"
FAMILIES = {
    "pointwise": HERE[0] + "test_is_nn_lstm_in_float64[fp16-small-pointwise]",
    "steps": HERE[0] + "test_is_nn_lstm_in_float64[bf16-medium-steps]",
    "layers": HERE[0] + "test_is_nn_lstm_in_float64[tf32-medium-layers]",
    "200 launches": HERE[0] + "test_200_launches_give_the_same_bits[medium-0-layers]",
    "rows that end": HERE[0]
    + "test_both_directions_and_rows_that_end_are_nn_lstms[layers-packed-both]",
    "resets": HERE[0] + "test_resets_are_the_references[steps]",
    "heads": HERE[0] + "test_heads_are_the_loops[bf16-slstm-odd]",
    "h by its phase": HERE[0] + "test_h_by_its_phase_has_the_barriers_bits[plain-bf16-medium]",
    "a product inside a step": HERE[1]
    + "test_a_told_cell_is_the_loops[bf16-steps-multiplicative_lstm]",
}
(RACE,) = [race for race in racing.races() if race.title == "medium, bf16"]


def run(file: Path, device: torch.device, began: float) -> dict[str, Any]:
    """Compile, measure, test and race; write a report after each result, and return it."""
    from fused_lstm.triton.devices import current

    report = racing.about(device) | {"memory": memory(device)}
    report |= dict.fromkeys(("compiled", "measured"))
    report |= {"tests": dict.fromkeys(FAMILIES, "not run"), "race": []}

    def keep() -> None:
        part = file.with_suffix(".part")  # a file is whole or as it was
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        part.replace(file)

    def tested(event: dict) -> None:
        for family, test in FAMILIES.items():
            if test == event["who"]:
                end, why = event["event"], event["why"]
                report["tests"][family] = end if end == "passed" else f"{end}: {why}"
        keep()

    def raced(line: dict) -> None:
        report["race"].append({name: line.get(name) for name in ("contender", "mode", "why")})
        report["race"][-1]["ms"] = 1e3 * line["median"] if "median" in line else None
        keep()

    keep()
    print(f"first: {SECONDS:.0f} s at most, into {file}", flush=True)
    report["compiled"] = compiled(current(device), began + COMPILING * SECONDS)
    keep()
    if device.type == "cuda":
        report["measured"] = card.measured(began + TESTING * SECONDS)
        keep()
    outcomes = testing.run(began + TESTING * SECONDS, tested, [*FAMILIES.values()])
    for family, test in FAMILIES.items():  # who hung, or broke the GPU's context
        if test in outcomes["failed"]:
            report["tests"][family] = f"failed: {outcomes['failed'][test]}"
    keep()
    racing.supervise([RACE], PACE, began + SECONDS, raced, racing.about(device))
    report["seconds"] = round(time.monotonic() - began, 1)
    keep()
    print(f"\n{table(report)}\n\nfirst: {file}", flush=True)
    return report


def compiled(device: Any, deadline: float) -> dict[str, Any]:
    """Compile what the race launches, then what the tests do; return how many, and what failed."""
    race = compiling.compile_in_time(device, [RACE], deadline)
    tests = compiling.compile_tests(device, deadline, [*FAMILIES.values()])
    return {
        "kernels": race["kernels"] + tests["kernels"],
        "seconds": round(race["seconds"] + tests["seconds"], 1),
        "failed": race["failed"] | tests["failed"],
        "cut off": race["cut off"] or tests["cut off"],
    }


def memory(device: torch.device) -> dict[str, int] | None:
    """Return the bytes of a GPU's memory, free and in all."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return {"free": free, "total": total}


# --- the table ---


def table(report: dict[str, Any]) -> str:
    """Return a report as lines, also one that was cut off."""
    words = [f"{name} {report['versions'].get(name, 'none')}" for name in ("torch", "triton")]
    lines = [
        line("card", report["machine"]),
        *(line(name, value) for name, value in report["card"].items()),
        line("libraries", ", ".join(words)),
        line("commit", report["commit"]),
        line("date", report["date"]),
    ]
    if report["memory"]:
        free, total = (report["memory"][name] / 2**30 for name in ("free", "total"))
        lines.append(line("memory", f"{free:.1f} of {total:.1f} GiB free"))
    if done := report["compiled"]:
        cut = ", then cut off" if done["cut off"] else ""
        lines.append(line("compiled", f"{done['kernels']} kernels in {done['seconds']} s{cut}"))
        lines += [line("", f"{name}: {why}") for name, why in done["failed"].items()]
    found = report["measured"]
    if isinstance(found, dict):
        lines += measured_lines(found)
    elif found:
        lines.append(line("barrier", found))
    lines += [line(f"test: {family}", end) for family, end in report["tests"].items()]
    return "\n".join([*lines, *raced_lines(report["race"])])


def line(name: str, text: Any) -> str:
    """Return a line of the table."""
    return f"{name:>30}  {text}"


def measured_lines(found: dict[str, float]) -> list[str]:
    """Return a line for each number, and one for both forms of a step's meeting."""
    found, lines = dict(found), []
    for size in card.STEPS:
        us = [(form, found.pop(f"{size}_{form}_step_us", None)) for form in card.FORMS]
        if all(value is not None for _, value in us):
            text = ", ".join(f"{form} {value:.3f} us" for form, value in us)
            lines.append(line(f"a step's meeting, {size}", text))
    return [line(name, f"{value:.3f}") for name, value in found.items()] + lines


def raced_lines(race: list[dict[str, Any]]) -> list[str]:
    """Return a line for each contender: milliseconds of each mode, and how often cuDNN's."""
    times = {(row["contender"], row["mode"]): row["ms"] for row in race if row["ms"] is not None}
    whys = {row["contender"]: row["why"] for row in race if row["ms"] is None}
    found = []
    for contender in dict.fromkeys(row["contender"] for row in race):
        words = []
        for mode in racing.MODES:
            ms, base = (times.get((label, mode)) for label in (contender, racing.BASE))
            if ms is not None:
                factor = f" ({base / ms:.2f}x)" if base is not None else ""
                words.append(f"{mode.replace(GRAPH, ' in a graph')} {ms:.3f} ms{factor}")
        text = ", ".join(words) or whys.get(contender, "")
        found.append(line(f"{RACE.title}: {contender}", text))
    return found or [line(RACE.title, "not raced")]


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
