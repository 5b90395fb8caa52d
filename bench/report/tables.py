"""The tables of README and docs, each of a results file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from ..alone import SIZES
from ..contenders import BASE, LOOP
from ..measure.timing import quartiles, speedup
from . import style, systems
from .markup import Table
from .results import LEVELS, Results, gain, load

RESULTS = Path(__file__).parents[1] / "results"
RUNGS = ("loop", "native pointwise", "native steps", "native layers", "nn.LSTM")


def suite() -> Results:
    """The suite's run that the report shows."""
    return load(RESULTS / "cpu.json")


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def ms(seconds: float) -> str:
    return style.milliseconds(seconds)


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


# --- `bench native`, twice: memory as it comes, and kept ---


def measured(what: str, name: str = "native/cpu.json") -> dict[str, dict[str, Any]]:
    """size -> what was measured of it."""
    return {row["size"]: row for row in read(name)["measured"] if row["what"] == what}


def ratio(row: dict[str, Any], against: str, ours: str) -> float:
    return median(row, against) / median(row, ours)


def median(row: dict[str, Any], name: str) -> float:
    return statistics.median(row["samples"][name])


def native_alone(what: str) -> Table:
    """Milliseconds of the LSTM alone, and what they are in nn.LSTM's."""
    kept, rows = measured(what, "native/cpu-kept.json"), []
    for size, row in measured(what).items():
        times = [ms(median(row, rung)) for rung in RUNGS]
        speed = f"{row['flops'] / median(row, RUNGS[-2]) / 1e9:.0f}"
        ratios = [f"{ratio(r, 'nn.LSTM', RUNGS[-2]):.2f}" for r in (row, kept[size])]
        rows.append([f"{size}, ms", *times, speed, *ratios])
    header = (what, *(r.removeprefix("native ") for r in RUNGS), "layers, GF/s")
    return Table((*header, "layers / nn.LSTM", "kept"), rows)


def native_training() -> Table:
    """Whole training steps on Penn Treebank."""
    what, names, rows = "training step", ("loop", "nn.LSTM", "native"), []
    kept = measured(what, "native/cpu-kept.json")
    for size, row in measured(what).items():
        speeds = [f"{row['words'] / median(row, name):,.0f}" for name in names]
        pairs = [(r, other) for other in ("nn.LSTM", "loop") for r in (row, kept[size])]
        rows.append([size, *speeds, *(f"{ratio(r, other, 'native'):.2f}" for r, other in pairs)])
    header = ("training step, Penn Treebank, words/s", *names)
    return Table((*header, "/ nn.LSTM", "kept", "/ loop", "kept"), rows)


def native_avx2() -> Table:
    """Ratios to nn.LSTM where everyone is kept to AVX2."""
    rows = []
    for what in ("forward + backward", "forward, no_grad", "training step"):
        cells = [what]
        for row in measured(what, "native/cpu-avx2.json").values():
            ours = "native" if what == "training step" else RUNGS[-2]
            pairs = zip(row["samples"]["nn.LSTM"], row["samples"][ours], strict=True)
            q1, _, q3 = quartiles([stock / own for stock, own in pairs])
            cells.append(f"{ratio(row, 'nn.LSTM', ours):.2f} ({q1:.2f} to {q3:.2f})")
        rows.append(cells)
    return Table(("AVX2 only, bench native", "small", "medium"), rows)


# --- `bench scaling` ---


def growth(*axes: str) -> Table:
    """`bench scaling` along these axes."""
    rows = []
    for row in read("native/cpu_scaling.json")["measured"]:
        if row["axis"] not in axes:
            continue
        ours, stock = (row["seconds"][name]["median"] for name in ("native", "nn.LSTM"))
        tokens = row["shape"]["T"] * row["shape"]["B"]
        label = f"{row['axis']}={row.get('value')}"
        if row["axis"] == "threads":
            label = f"{row['size']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        rates = [f"{row['flops'] / t / 1e9:.0f}" for t in (ours, stock)]
        times = [ms(ours), rates[0], f"{1e6 * ours / tokens:,.1f}", ms(stock), rates[1]]
        rows.append([label, *times, f"{stock / ours:.2f}"])
    header = ("", "native, ms", "GF/s", "us a token", "nn.LSTM, ms", "GF/s", "ratio")
    return Table(header, rows)


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


def median_ms(row: dict[str, Any], name: str) -> str:
    return ms(median(row, name))


# --- perplexities ---

RUNS = {
    "small-1": "seed 1",
    "small-2": "seed 2",
    "small-3": "seed 3",
    "small-1-two-threads": "seed 1, two threads",
    "small-bf16": "seed 1, bfloat16 under autocast",
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


def perplexity() -> Table:
    """Each run of `small`, and the mean of three seeds."""
    from lm.config import PUBLISHED

    rows = [["the reference (TensorFlow's tutorial)", *(f"{p:.2f}" for p in PUBLISHED["small"])]]
    found = {run: perplexities(run) for run in RUNS}
    for run, says in RUNS.items():
        rows.append([says, *(f"{p:.2f}" for p in found[run])])
    seeds = list(zip(*(found[f"small-{seed}"] for seed in (1, 2, 3)), strict=True))
    spread = (f"{statistics.mean(p):.2f} ± {statistics.stdev(p):.2f}" for p in seeds)
    rows.insert(4, ["mean of the three ± standard deviation", *spread])
    return Table(("`small` on Penn Treebank, perplexity", "train", "valid", "test"), rows)


TABLES: dict[str, Callable[[], Table]] = {
    "training": training,
    "training_parts": training_parts,
    "alone": alone,
    "ladder": ladder,
    "peers": peers,
    "native_step": partial(native_alone, "forward + backward"),
    "native_forward": partial(native_alone, "forward, no_grad"),
    "native_training": native_training,
    "native_avx2": native_avx2,
    "growth_threads": partial(growth, "threads"),
    "growth_sizes": partial(growth, "T", "B", "H"),
    "lanes_bidirectional": partial(lanes, "bidirectional"),
    "lanes_packed": partial(lanes, "packed"),
    "cells": cells,
    "per_sample": per_sample,
    "perplexity": perplexity,
    "cell_perplexity": cell_perplexity,
}
