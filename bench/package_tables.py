"""Tables of docs/deploy.md and docs/models.md: streams, KernelBench, a transducer's loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from .contenders import BASE
from .core import speedup
from .tables import By, Column, Table, by_contender, each, markdown, ms, results

STREAMS = {
    BASE: "nn.LSTM", "prepared-float32": "float32", "prepared-bfloat16": "bfloat16",
    "prepared-int8": "int8", "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime, int8",
}  # fmt: skip


def per_thread(file: str, heading: str, columns: Sequence[Column]) -> Table:
    """Return a table with a row for each case and number of threads."""
    return Table(file, [By(heading, "case", task), By("threads", "threads")], columns)


def task(case: str) -> str:
    """Return KernelBench's "35_LSTM" as "35 LSTM", any other case as it is."""
    return case.replace("_", " ", 1)


def transducer() -> str:
    """Return the loop's share of a transcription, its parts, and the whole with our loop."""
    frame, body = results("transducer.jsonl"), []
    for case, threads in product(each(frame, "case"), (1, 2)):
        by = by_contender(frame, case=case, threads=threads)
        theirs, ours = by[BASE], by["install"]
        loop = theirs.whole - theirs.encoder
        row = [case, str(threads), f"{theirs.steps:.0f}, {theirs.tokens:.0f}", ms(theirs)]
        row += [f"{loop / theirs.whole:.0%}"]
        row += [f"{part / theirs.whole:.0%}" for part in (theirs.prediction, theirs.joint)]
        row += [
            f"{1e3 * (one.whole - one.encoder):,.0f}"
            for one in (theirs, ours, by["greedy"], by["greedy-int8"])
        ]
        row += [f"{speedup(theirs, by[label])}" for label in ("greedy", "greedy-int8")]
        body.append(row)
    header = (
        "model, sound", "threads", "steps, tokens", "whole, ms", "loop", "prediction", "joint",
        "loop, ms: generate", "install", "Greedy", "Greedy, int8", "whole: Greedy", "int8",
    )  # fmt: skip
    return markdown(header, body)


def of_modes(mode: str, *columns: tuple[str, str]) -> list[Column]:
    """Return columns of a mode, each a heading and a figure."""
    return [Column(heading, figure, {"mode": mode}) for heading, figure in columns]


TABLES: dict[str, Callable[[], str]] = {
    "streams": per_thread(
        "streaming-prepared", "p50 / p99 / worst, ms",
        [Column(says, f"worst {label}") for label, says in STREAMS.items()],
    ),
    "kernelbench": per_thread(
        "kernelbench", "task",
        of_modes(
            "inference", ("forward, ms: torch", f"ms {BASE}"), ("torch.compile", "ms compile"),
            ("ours", "ms install"), ("torch / ours", f"x {BASE} install"),
        )
        + of_modes(
            "step", ("both, ms: torch", f"ms {BASE}"), ("torch, flushed", "ms flushed"),
            ("ours", "ms install"), ("flushed / ours", "x flushed install"),
        ),
    ),
    "transducer": transducer,
}  # fmt: skip
