"""The table of docs/models.md, from bench/results/models.jsonl."""

from __future__ import annotations

from itertools import product
from typing import Any

from ..answer import wrapped
from ..core import ratio
from ..tables import Row, by_contender, digits, each, machine, markdown, results, rows

FILE = "models"
HEADER = "package", "", "recurrent part", "times as fast, two threads"
RESETS = (
    "package", "", "threads", "the package's own code, ms", "under install, ms", "`resets=`, ms",
    "factor",
)  # fmt: skip


def models() -> str:
    """Return the share of the recurrent layers in each model, and how many times as fast it is."""
    frame, body = results(FILE), []
    for case in each(frame, "case"):
        for mode, word in (("inference", "inference"), ("train", "training")):
            layers, whole = (
                by_contender(frame, case=case, mode=of, threads=2)
                for of in (f"layers-{mode}", mode)
            )
            body.append([case, word, share(layers, whole), factor(whole)])
    return markdown(HEADER, body)


def expected() -> str:
    """Return how many whole models are faster, slower and neither, with the least and the most."""
    frame, clear, count = results(FILE), [], 0
    cases = each(frame, "case", contender="install")
    for case, mode, threads in product(cases, ("inference", "train"), (1, 2)):
        pair = by_contender(frame, case=case, mode=mode, threads=threads)
        if "torch" in pair and "install" in pair:
            count += 1
            times = ratio(pair["torch"].seconds, pair["install"].seconds)
            if times.clear and times.value != 1:
                clear.append((times.value, f"{case}, {mode}, {threads} thread{'s'[: threads - 1]}"))
    (least, slow), *_, (most, fast) = sorted(clear)
    behind = sum(value < 1 for value, _ in clear)
    first = rows(frame, threads=2)[0]
    return wrapped(
        f"Models of {len(cases)} other packages ran under `fused_lstm.install()`, in inference and"
        f" in training, with one thread and with two of {machine(first)}. In {len(clear) - behind}"
        f" of {count} races ours was faster, up to {most:.2f} times ({fast}); in {behind} it was"
        f" slower, {least:.2f} times as fast ({slow}); in {count - len(clear)} no difference was"
        " seen."
    )


def resets() -> str:
    """Return the times of models whose episodes end inside a batch, with `resets=` and without."""
    frame, body = results(FILE), []
    for case in each(frame, "case", contender="resets"):
        for mode, word in (("inference", "inference"), ("train", "training")):
            for n in (1, 2):
                pair = by_contender(frame, case=case, mode=mode, threads=n)
                times = [milliseconds(pair.get(label)) for label in ("torch", "install", "resets")]
                body.append([case, word, str(n), *times, factor(pair, "resets")])
    return markdown(RESETS, body)


def share(layers: dict[str, Row], whole: dict[str, Row]) -> str:
    """Return how much of torch's time is in recurrent layers."""
    if "torch" not in layers or "torch" not in whole:
        return "-"
    return f"{min(layers['torch'].median / whole['torch'].median, 1):.0%}"


def factor(pair: dict[str, Row], label: str = "install") -> str:
    """Return torch's time over ours with its ends, "-" without both."""
    if "torch" not in pair or label not in pair:
        return "-"
    return ratio(pair["torch"].seconds, pair[label].seconds).text


def milliseconds(row: Any) -> str:
    """Return the median."""
    return "-" if row is None else digits(1e3 * row.median)
