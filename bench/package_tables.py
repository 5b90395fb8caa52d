"""Tables of docs/deploy.md and docs/models.md: streams, KernelBench, a transducer's loop."""

from __future__ import annotations

from itertools import product

from .contenders import BASE
from .core import speedup
from .tables import by_contender, cells_of, digits, each, markdown, ms, results

STREAMS = (BASE, "prepared-float32", "prepared-bfloat16", "prepared-int8", "onnxruntime",
           "onnxruntime-int8")  # fmt: skip


def streams() -> str:
    """Return p50, p99 and the worst of one-step calls through weights packed once."""
    frame, body = results("streaming-prepared.jsonl"), []
    for case, threads in product(each(frame, "case"), (1, 2)):
        by = by_contender(frame, case=case, threads=threads)
        times = [
            " / ".join(digits(1e3 * t) for t in (row.p50, row.p99, row.worst))
            for row in map(by.__getitem__, STREAMS)
        ]
        body.append([case, str(threads), *times])
    header = "nn.LSTM", "float32", "bfloat16", "int8", "ONNX Runtime", "ONNX Runtime, int8"
    return markdown(("p50 / p99 / worst, ms", "threads", *header), body)


def kernelbench() -> str:
    """Return KernelBench's recurrent tasks: torch's layers, compiled, flushed, and ours."""
    frame, body = results("kernelbench.jsonl"), []
    for case, threads in product(each(frame, "case"), (1, 2)):
        by = by_contender(frame, case=case, mode="inference", threads=threads)
        row = [case.replace("_", " ", 1), str(threads)]
        row += cells_of(by, f"ms {BASE}", "ms compile", "ms install", f"x {BASE} install")
        by = by_contender(frame, case=case, mode="step", threads=threads)
        row += cells_of(by, f"ms {BASE}", "ms flushed", "ms install", "x flushed install")
        body.append(row)
    header = (
        "task", "threads", "forward, ms: torch", "torch.compile", "ours", "torch / ours",
        "both, ms: torch", "torch, flushed", "ours", "flushed / ours",
    )  # fmt: skip
    return markdown(header, body)


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


TABLES = {"streams": streams, "kernelbench": kernelbench, "transducer": transducer}
