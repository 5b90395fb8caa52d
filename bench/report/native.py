"""The tables of docs/native.md: what the topics of `python -m bench` found of the C++ engine."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from ..contenders import BASE, LOOP, NAMES
from ..measure.timing import quartiles
from ..rows import OURS
from .markup import Table
from .results import LEVELS, read
from .style import milliseconds as ms

RUNGS = {
    LOOP: NAMES[LOOP],
    **{f"native-{level}": level for level in LEVELS[1:]},
    BASE: NAMES[BASE],
}
MODES = ("forward, no_grad", "forward + backward")
TRAINING = "training step"


def median(row: dict[str, Any], name: str) -> float:
    return statistics.median(row["samples"][name])


def median_ms(row: dict[str, Any], name: str) -> str:
    return ms(median(row, name))


def ratio(row: dict[str, Any], against: str = BASE) -> float:
    """How many times as fast ours is, of medians."""
    return median(row, against) / median(row, OURS)


def measured(what: str, name: str = "native/cpu.json") -> dict[str, dict[str, Any]]:
    """size -> what was measured of it."""
    return {row["size"]: row for row in read(name)["measured"] if row["what"] == what}


# --- `bench native`: memory as it comes, and kept; float32 and bfloat16 ---


def alone(what: str) -> Table:
    """Milliseconds of the LSTM alone, and what they are in nn.LSTM's."""
    kept, rows = measured(what, "native/cpu-kept.json"), []
    for size, row in measured(what).items():
        times = [median_ms(row, rung) for rung in RUNGS]
        speed = f"{row['flops'] / median(row, OURS) / 1e9:.0f}"
        rows.append([f"{size}, ms", *times, speed, *(f"{ratio(r):.2f}" for r in (row, kept[size]))])
    return Table((what, *RUNGS.values(), "layers, GF/s", "layers / nn.LSTM", "kept"), rows)


def training() -> Table:
    """Whole training steps on Penn Treebank."""
    names, rows = {LOOP: NAMES[LOOP], BASE: NAMES[BASE], OURS: "native"}, []
    kept = measured(TRAINING, "native/cpu-kept.json")
    for size, row in measured(TRAINING).items():
        speeds = [f"{row['words'] / median(row, name):,.0f}" for name in names]
        pairs = [(r, other) for other in (BASE, LOOP) for r in (row, kept[size])]
        rows.append([size, *speeds, *(f"{ratio(r, other):.2f}" for r, other in pairs)])
    header = ("training step, Penn Treebank, words/s", *names.values())
    return Table((*header, "/ nn.LSTM", "kept", "/ loop", "kept"), rows)


def bfloat16(*modes: str) -> Table:
    """bfloat16 beside float32, each with nn.LSTM's own."""
    rows = []
    for mode in modes:
        half, full = measured(f"{mode}, bf16"), measured(mode)
        for size, row in half.items():
            cells = []
            for one in (row, full[size]):
                cells += [median_ms(one, BASE), median_ms(one, OURS), f"{ratio(one):.2f}"]
            rows.append([f"{mode}, {size}", *cells])
    columns = [(f"{n}: nn.LSTM, ms", "native, ms", "ratio") for n in ("bfloat16", "float32")]
    return Table(("two threads", *chain.from_iterable(columns)), rows)


def avx2() -> Table:
    """Ratios to nn.LSTM where everyone is kept to AVX2."""
    rows, sizes = [], []
    for what in (*reversed(MODES), TRAINING):
        found = measured(what, "native/cpu-avx2.json")
        cells, sizes = [what], list(found)
        for row in found.values():
            pairs = zip(row["samples"][BASE], row["samples"][OURS], strict=True)
            q1, _, q3 = quartiles([stock / own for stock, own in pairs])
            cells += [median_ms(row, OURS), f"{ratio(row):.2f} ({q1:.2f} to {q3:.2f})"]
        rows.append(cells)
    columns = [(f"{size}: native, ms", "times as fast") for size in sizes]
    return Table(("AVX2 only", *chain.from_iterable(columns)), rows)


# --- `bench scaling` ---


def growth(*axes: str) -> Table:
    """What it found along these axes."""
    rows = []
    for row in read("native/scaling.json")["measured"]:
        if row["axis"] not in axes:
            continue
        label = f"{row['axis']}={row.get('value')}"
        if row["axis"] == "threads":
            label = f"{row['size']}, {row['what']}"
        rates = {name: f"{row['flops'] / median(row, name) / 1e9:.0f}" for name in (OURS, BASE)}
        token = f"{1e6 * median(row, OURS) / row['tokens']:,.1f}"
        own = [median_ms(row, OURS), rates[OURS], token]
        rows.append([label, *own, median_ms(row, BASE), rates[BASE], f"{ratio(row):.2f}"])
    return Table(("", "native, ms", "GF/s", "us a token", "nn.LSTM, ms", "GF/s", "ratio"), rows)


# --- `bench short` ---


def short() -> Table:
    """Calls of a few rows, beside who only infers."""
    names = {OURS: "native"} | {n: NAMES[n] for n in (BASE, "onnxruntime", "openvino")}
    found, rows = read("native/short.json")["measured"], []
    for row in sorted(found, key=lambda row: row["what"] != "float32"):
        cells = [median_ms(row, name) if name in row["samples"] else "-" for name in names]
        rate = f"{row['bytes'] / median(row, OURS) / 1e9:.0f}"
        rows.append([f"{row['what']}, {row['shape']}", *cells, f"{ratio(row):.1f}", rate])
    header = ("ms", *names.values(), "nn.LSTM / native", "native, GB/s of weights")
    return Table(header, rows)


# --- `bench parts` ---


def parts() -> Table:
    """A training step by what its operators are for."""
    found = read("native/parts.json")["parts_ms"]
    sizes, columns = list(found), {OURS: "native", BASE: "stock"}
    every = [found[size][name] for size in sizes for name in columns]
    rows = [[part, *(f"{one[part]:.1f}" for one in every)]
            for part in every[0] if any(one[part] >= 0.05 for one in every)]  # fmt: skip
    rows.append(["all", *(f"{sum(one.values()):.1f}" for one in every)])
    header = [f"{size}: {says}" for size in sizes for says in columns.values()]
    return Table(("ms", *header), rows)


# --- `bench products` ---


def products(name: str) -> Table:
    """GF/s of each product by itself, and the share of the best that there can be."""
    rows: dict[str, list[str]] = {}
    header: dict[str, str] = {}
    for row in read(name)["measured"]:
        if row["threads"] != 1:
            continue
        column = f"{row['isa']}, H={row['hidden']}"
        header[column] = f"{column} (best {row['best']:.0f})"
        rate = row["gflops"]["median"]
        rows.setdefault(row["product"], [row["product"]]).append(
            f"{rate:.0f} ({rate / row['best']:.0%})"
        )
    return Table(("GF/s, one thread", *header.values()), list(rows.values()))


# --- `bench accuracy` ---


def errors(what: str, about: str) -> Table:
    """Of each result, in every way to hold numbers."""
    columns = read("native/accuracy.json")[what][about]
    results = [name for name in next(iter(columns.values())) if name not in SAME]
    rows = [[name, *(scientific(own[name]) for own in columns.values())] for name in results]
    return Table(("error of", *columns), rows)


SAME = ("inference", "bias_hh_l0.grad", "bias_hh_l1.grad")  # as another row


def product_errors() -> Table:
    """Of products by their depth."""
    found = read("native/accuracy.json")["products"]
    rows = [[depth, *map(scientific, own.values())] for depth, own in found.items()]
    return Table(("depth", *next(iter(found.values()))), rows)


def scientific(error: float) -> str:
    """Two digits: 2.3e-7."""
    digits, power = f"{error:.1e}".split("e")
    return f"{digits}e{int(power)}"


TABLES: dict[str, Callable[[], Table]] = {
    "native_step": partial(alone, MODES[1]),
    "native_forward": partial(alone, MODES[0]),
    "native_training": training,
    "native_bfloat16": partial(bfloat16, *MODES),
    "native_autocast": partial(bfloat16, TRAINING),
    "native_avx2": avx2,
    "growth_threads": partial(growth, "threads"),
    "growth_sizes": partial(growth, "T", "B", "H"),
    "short": short,
    "parts": parts,
    "products": partial(products, "native/products.json"),
    "products_bfloat16": partial(products, "native/products-bf16.json"),
    "errors_float32": partial(errors, "lstm", "float32"),
    "errors_rounded": partial(errors, "lstm", "rounded first"),
    "errors_softmax": partial(errors, "softmax", "medium"),
    "errors_products": product_errors,
}
