"""The tables of README and docs, each of a results file."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain, product

from lm.settings import PUBLISHED

from ..alone import SIZES
from ..contenders import BASE, LOOP
from ..measure.timing import speedup
from . import gpu, native, style, systems
from .markup import Table
from .native import median_ms
from .results import LEVELS, RESULTS, Results, gain, load, read
from .style import milliseconds as ms


def suite() -> Results:
    """The suite's run that the report shows."""
    return load(RESULTS / "cpu.json")


# --- the post's table ---


def training() -> Table:
    """Words per second of training, all systems."""
    return systems.to_table(load(RESULTS / "post.json"))


def training_parts() -> Table:
    """Milliseconds of a training step, its LSTM and the rest."""
    results, rows = load(RESULTS / "post.json"), []
    sizes = results.sizes("train")
    for line in systems.lines(results.machine["device"]):
        cells = [line.says.strip()]
        for size in sizes:
            row = systems.rows_of(results, size)[line.label]
            lstm = systems.lstm_seconds(row)
            cells += [ms(lstm), ms(row.time.median - lstm)]
        rows.append(cells)
    return Table(("a training step, ms", *(f"{s}: {p}" for s in sizes for p in PARTS)), rows)


PARTS = ("LSTM", "the rest")

# --- the LSTM alone, from the suite ---


def alone() -> Table:
    """Medians at the three presets."""
    labels = (LOOP, *(f"native-{level}" for level in LEVELS[1:]), BASE)
    ladders = {s: {row.label: row for row in suite().ladder(s)} for s in SIZES}
    rows = [
        [
            style.name(ladders["small"][label]),
            *(ms(of[label].time.median) for of in ladders.values()),
        ]
        for label in labels
    ]
    return Table(("ms", *(f"{size}: {shape}" for size, shape in SIZES.items())), rows)


def ladder() -> Table:
    """The small preset's rungs: what each launches, and its gain."""
    base, loop, *own = suite().ladder("small")
    rows, above = [], None
    for row in [loop, *own, base]:
        below = "" if above is None or row is base else f"{gain(above, row):.2f}x"
        whole = "" if row is loop else f"{gain(loop, row):.2f}x"
        moved = f"{row.info['bytes'] / 1e6:.0f} MB"
        launches, time = str(row.info["launches"]), ms(row.time.median)
        rows.append([style.name(row), launches, moved, time, below, whole])
        above = row
    return Table(
        ("rung", "launches", "operands", "ms", "over the rung above", "over the loop"), rows
    )


def peers() -> Table:
    """Other systems on the small preset, and what each fuses."""
    fuses = {
        "tensorflow": "nothing",
        "tensorflow-xla": "pointwise",
        LOOP: "nothing",
        "compile": "pointwise, and autograd's bookkeeping",
        "keras": "nothing: a while loop, two products a step; on a GPU it is cuDNN's",
        "jax": "the input product by hand, pointwise by XLA",
        BASE: "all three",
    }
    found = {row.label: row for row in suite().select("lstm", size="small", mode="step")}
    rows = [
        [style.name(row), ms(row.time.median), f"{gain(found[BASE], row):.2f}", fuses[label]]
        for label, row in ((label, found[label]) for label in fuses)
    ]
    return Table(("system", "ms", "x nn.LSTM's speed", "what it fuses"), rows)


def lanes(what: str) -> Table:
    """Two directions, or rows of unequal length, forward alone and with the backward."""
    found = suite().select(what)
    own = {(r.info["case"], r.info["mode"]): r for r in found if r.is_own}
    base = {(r.info["case"], r.info["mode"]): r for r in found if r.label == BASE}
    rows: dict[str, list[str]] = {}
    for (case, mode), row in own.items():
        T, H = row.shape.T, row.shape.H
        says = f"T={T}, H={H}"
        if what == "packed":
            spread = "Penn Treebank's" if row.info["spread"] == "sentences" else row.info["spread"]
            says = f"{spread}, {row.info['form']}, {says}"
        cells = rows.setdefault(says, [says])
        other = base[case, mode]
        cells += [ms(row.time.median), ms(other.time.median), f"{gain(other, row):.2f}"]
        if what == "packed":
            token = row.info.get("token_to_beside")
            cells.append("" if token is None else f"{token:.2f}")
    columns = ("nn.LSTM", "ratio", *(["a token"] if what == "packed" else []))
    header = (what, "forward", *columns, "forward and backward", *columns)
    return Table(header, list(rows.values()))


# --- `bench cells`, `bench samples` ---


def cells() -> Table:
    """What each cell takes, and that beside the others' times in the same rounds."""
    rows: dict[str, list[str]] = {}
    for row in read("cells.json")["measured"]:
        ratios = row["to_plain"], row["to_loop"], row["to_keras"] or row["to_theirs"]
        cells = [median_ms(row, "native"), *("" if r is None else f"{r:.2f}" for r in ratios)]
        rows.setdefault(row["cell"], [f"`{row['cell']}`"]).extend(cells)
    columns = "of plain", "x its loop", "x Keras or nn.GRU"
    headers = ((f"{size}, ms", *columns) for size in ("small", "medium"))
    return Table(("forward and backward", *chain.from_iterable(headers)), list(rows.values()))


def per_sample() -> Table:
    """Gradients by sample: what each takes, and that in times of an ordinary backward."""
    names = {
        "one backward": "one backward, which leaves the sum",
        "Opacus, ours": "`fused_lstm.opacus.LSTM`",
        "torch.func": "`torch.func`, with its forward",
        "Opacus, DPLSTM": "Opacus's `DPLSTM`",
    }
    measured = read("samples.json")["measured"]
    rows = [[says] for says in names.values()]
    for (name, row), sized in product(zip(names, rows, strict=True), measured):
        own, one = sized["samples"][name], sized["samples"]["one backward"]
        row += [median_ms(sized, name), f"{speedup(own, one):.2f}"]
    headers = ((f"{row['size']}, ms", "of one backward") for row in measured)
    return Table(("32 samples", *chain.from_iterable(headers)), rows)


# --- perplexities ---

RUNS = {
    "small": {
        "small-1": "seed 1",
        "small-2": "seed 2",
        "small-3": "seed 3",
        "small-1-two-threads": "seed 1, two threads",
        "small-bf16": "seed 1, bfloat16 under autocast",
    },
    "medium": {"medium-bf16": "seed 1, bfloat16 under autocast"},
}
SPLITS = ("train_perplexity", "valid_perplexity", "test_perplexity")


CELL_RUNS = {
    "plain": "nn.LSTM's",
    "zoneout": "`zoneout=(0.025, 0.25)`",
    "recurrent-dropout": "`recurrent_dropout=0.2`",
    "layer-norm": "`layer_norm=True`",
}


def perplexities(run: str) -> tuple[float, ...]:
    return tuple(read(f"{run}/summary.json")[split] for split in SPLITS)


def cell_perplexity() -> Table:
    """Six epochs of `small` with other cells."""
    rows = []
    for run, says in CELL_RUNS.items():
        found = f"{read(f'cells/{run}/summary.json')['words_per_second']:,.0f}"
        rows.append([says, *(f"{p:.2f}" for p in perplexities(f"cells/{run}")), found])
    header = ("`small` on Penn Treebank, six epochs, perplexity", "train", "valid", "test")
    return Table((*header, "words/s, one thread"), rows)


def perplexity(preset: str) -> Table:
    """Each run of a preset to its end, and of `small` the mean of three seeds."""
    rows = [["the reference (TensorFlow's tutorial)", *(f"{p:.2f}" for p in PUBLISHED[preset])]]
    found = {run: perplexities(run) for run in RUNS[preset]}
    for run, says in RUNS[preset].items():
        rows.append([says, *(f"{p:.2f}" for p in found[run])])
    if preset == "small":
        seeds = list(zip(*(found[f"small-{seed}"] for seed in (1, 2, 3)), strict=True))
        spread = (f"{statistics.mean(p):.2f} ± {statistics.stdev(p):.2f}" for p in seeds)
        rows.insert(4, ["mean of the three ± standard deviation", *spread])
    return Table((f"`{preset}` on Penn Treebank, perplexity", "train", "valid", "test"), rows)


TABLES: dict[str, Callable[[], Table]] = {
    "training": training,
    "training_parts": training_parts,
    "alone": alone,
    "ladder": ladder,
    "peers": peers,
    "lanes_bidirectional": partial(lanes, "bidirectional"),
    "lanes_packed": partial(lanes, "packed"),
    "cells": cells,
    "per_sample": per_sample,
    "perplexity": partial(perplexity, "small"),
    "perplexity_medium": partial(perplexity, "medium"),
    "cell_perplexity": cell_perplexity,
    **native.TABLES,
    **gpu.TABLES,
}
