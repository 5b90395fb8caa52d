"""The tables of README and docs, nearly all of them records that tables.py reads.

A `Table` has the results file, rows, columns and formats. What is not in a file of records (a
summary of lm.train, a survey of compiled kernels) is a `plain` table, and a few need a statistic
over many records: these are functions.
"""

from __future__ import annotations

import inspect
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pandas as pd

from lm.settings import PUBLISHED

from . import zoo
from .contenders import BASE, LOOP, OURS, PREPARED
from .core import speedup
from .gpu import tables as gpu
from .tables import (
    FORMATS,
    RESULTS,
    SIZES,
    By,
    Column,
    Joined,
    Line,
    Lines,
    Listing,
    Row,
    Table,
    by_contender,
    column,
    count,
    cpu,
    digits,
    each,
    markdown,
    ms,
    name,
    results,
    rows,
    tool,
)  # fmt: skip

STOCK = f"stock-{BASE}"  # nn.LSTM in the post's program
BOTH_WAYS = {"inference": "forward", "step": "both"}
SAYS = {
    "inference": "forward, no gradient",
    "step": "forward and backward",
    "train": "training step",
}


# --- the post's table: words per second, and the LSTM's part of a step ---

POST = {"tensorflow": 3800, "tensorflow-xla": 3420, STOCK: 7400}  # words/s on a GTX 1080
FIRST = "tensorflow"


def systems(device: str = "cpu") -> dict[str, tuple[str, str]]:
    """Return the rows of the post's table: label -> what it is, and that for a narrow figure."""
    ours = "triton" if device.startswith("cuda") else "native"
    library = "cuDNN" if ours == "triton" else "oneDNN"
    levels = ("pointwise", "hoisted", "steps", "layers")
    return {
        FIRST: ("TensorFlow, step loop", "TensorFlow loop"),
        "tensorflow-xla": ("the same under XLA", "TensorFlow XLA"),
        "keras": ("TensorFlow, Keras LSTM", "Keras LSTM"),
        "jax": ("JAX, lax.scan", "JAX scan"),
        STOCK: (f"PyTorch, nn.LSTM: {library}", "nn.LSTM"),
        "stock-loop-none": ("PyTorch, step loop", "PyTorch loop"),
        **{f"stock-{ours}-{fuse}": (f"+ {fuse} ({ours})", f"+ {fuse}") for fuse in levels},
        f"{ours}-layers": ("+ our loss and update", "+ our loss"),
        "cudnn": ("nn.LSTM, our loss and update", "nn.LSTM, our loss"),
    }


def lstm_seconds(train: Row, rest: Row | None) -> float | None:
    """Return the LSTM's part of a training step, in seconds.

    It was taken inside the step where there are times of that, else it is a step's time less that
    of one without its LSTM.
    """
    inside = getattr(train, "lstm_seconds", None)
    if isinstance(inside, list):
        return statistics.median(inside)
    return None if rest is None else max(train.median - rest.median, 0.0)


def trained(frame: pd.DataFrame, case: str) -> dict[str, tuple[Row, float | None]]:
    """Return label -> a training step and the LSTM's seconds of it, in the order of the table."""
    steps, rests = (
        by_contender(frame, suite="post", case=case, mode=mode) for mode in ("train", "rest")
    )
    known = [label for label in systems(next(iter(steps.values())).device) if label in steps]
    return {label: (steps[label], lstm_seconds(steps[label], rests.get(label))) for label in known}


def training(frame: pd.DataFrame) -> str:
    """Return words per second of training of all systems, x TensorFlow's step loop."""
    cases = each(frame, "case", suite="post", mode="train")
    by_case = {case: trained(frame, case) for case in cases}
    body = []
    for label, (says, _) in systems(rows(frame, suite="post")[0].device).items():
        row, share = [says, f"{POST[label]:,}" if label in POST else "-"], "-"
        for of_case in by_case.values():
            step, inside = of_case.get(label, (None, None))
            speed = "-" if step is None else FORMATS["words/s"](step)
            both = step is not None and FIRST in of_case
            row.append(f"{speed} ({speedup(of_case[FIRST][0], step)})" if both else speed)
            share = f"{inside / step.median:.0%}" if step and inside else "-"
        body += [[*row, share]] if set(row[2:]) != {"-"} else []
    return markdown(("words per second of training", "the post, GTX 1080", *cases,
        f"LSTM's share, {cases[-1]}"), body)  # fmt: skip


def training_parts(frame: pd.DataFrame) -> str:
    """Return milliseconds of a training step: its LSTM, and the rest."""
    cases = each(frame, "case", suite="post", mode="train")
    by_case = {case: trained(frame, case) for case in cases}
    body = []
    for label, (says, _) in systems(rows(frame, suite="post")[0].device).items():
        row = [says]
        for of_case in by_case.values():
            step, inside = of_case.get(label, (None, None))
            both = (inside, step.median - inside) if step and inside is not None else ()
            row += [digits(1e3 * seconds) for seconds in both] or ["-", "-"]
        body += [row] if set(row[1:]) != {"-"} else []
    return markdown(("ms", *(f"{case}: {p}" for case in cases for p in ("LSTM", "the rest"))), body)


# --- only the LSTM: engines, other systems, dtypes, instruction sets ---

RUNGS = (LOOP, "native-pointwise", "native-steps", OURS, BASE)
FUSES = {
    "tensorflow": "nothing",
    "tensorflow-xla": "pointwise",
    LOOP: "nothing",
    "compile": "pointwise, and autograd's bookkeeping",
    "keras": "nothing: a while loop with two products per step; on a GPU it is cuDNN's",
    "jax": "the input product by hand, pointwise by XLA",
    BASE: "pointwise and steps: a call for each layer; on a GPU it is cuDNN's",
}


def native(mode: str) -> Table:
    """Return the table of only the LSTM in a mode; in the last column memory is kept."""
    columns = [
        *(column(name(label), "ms", label) for label in RUNGS),
        column("layers, GF/s", "GF/s", OURS),
        column("layers / nn.LSTM", "times", BASE, OURS),
        column("kept", "times", BASE, OURS, file="native-kept"),
    ]
    rows = [By(SAYS[mode], "case", "{}, ms".format)]
    return Table("native", rows, columns, {"mode": mode, "dtype": "float32"})


def of_dtypes(file: str, base: str, *modes: str) -> Table:
    """Return a table of bfloat16 compared with float32, each with nn.LSTM's."""
    columns = [
        one
        for dtype in ("bfloat16", "float32")
        for one in (
            column(f"{dtype}: nn.LSTM, ms", "ms", base, dtype=dtype),
            column(f"{dtype}: native, ms", "ms", OURS, dtype=dtype),
            column(f"{dtype}: ratio", "times", base, OURS, dtype=dtype),
        )
    ]
    lines = [
        Line([f"{SAYS[mode]}, {size}"], {"mode": mode, "case": size})
        for mode, size in product(modes, SIZES)
    ]
    return Table(file, Lines(["two threads"], lines), columns)


def lanes(both: bool) -> Table:
    """Return the table of two directions, or of rows of unequal length."""
    columns: list[Column] = []
    for mode, says in (("inference", "forward, ms"), ("step", "forward and backward, ms")):
        columns += [column(says, "ms", OURS, mode=mode), column("nn.LSTM", "ms", BASE, mode=mode)]
        columns.append(column("ratio", "times", BASE, OURS, mode=mode))
        columns += [] if both else [column("us per token", "us per token", OURS, mode=mode)]
    case = By("bidirectional" if both else "rows", "case",
        lambda case: case.removeprefix("bidirectional, "))  # fmt: skip
    return Table("lanes", [case], columns, {"bidirectional": both})


def growth(file: str, *rows: By) -> Table:
    """Return the table of how time grows."""
    columns = [
        column("native, ms", "ms", OURS),
        column("GF/s", "GF/s", OURS),
        column("us per token", "us per token", OURS),
        column("nn.LSTM, ms", "ms", BASE),
        column("GF/s", "GF/s", BASE),
        column("ratio", "times", BASE, OURS),
    ]
    return Table(file, rows, columns)


# --- calls, with the slowest of them ---

INFERENCE = (OURS, PREPARED, BASE, "onnxruntime", "openvino")
BYTES = {
    "quantize_dynamic": "quantize_dynamic", "onnxruntime-int8": "ONNX Runtime",
    "native-int8": "quantize", "native-int8-weights": "weight_only",
}  # fmt: skip
STREAMS = {
    BASE: "nn.LSTM", "prepared-float32": "float32", "prepared-bfloat16": "bfloat16",
    "prepared-int8": "int8", "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime, int8",
}  # fmt: skip


def pause(mode: str) -> str:
    """Return how long calls of a mode wait for each other."""
    return "10 ms" if mode == "paused" else "none"


def tails(n: int) -> Table:
    """Return the table of one-step calls on this many threads, with busy processes and without."""
    rows = (
        By("p50 / p99 / worst, ms", "case"), By("pause", "mode", pause),
        By("busy processes", "neighbours", count),
    )  # fmt: skip
    columns = [column(name(label), "p50 / p99 / worst", label) for label in INFERENCE[:-1]]
    return Table("tail", rows, columns, {"threads": n})


AXES = [By(axis, axis, count, order=int) for axis in "HTB"]  # as small sizes gain most
RANGES = {"T": (1, 20), "B": (8, 64), "H": (256, 1024)}  # of calls drawn at random


def range_of(axis: str, value: int) -> str:
    """Return the range that a size is in: "1", "2 to 20", "above 20"."""
    low, high = RANGES[axis]
    if value <= low:
        return "1" if low == 1 else f"up to {low}"
    return f"{low + 1} to {high}" if value <= high else f"above {high}"


def ranges() -> list[tuple[list[str], list[dict[str, Row]]]]:
    """Return the calls drawn at random in float32 by the ranges of their H, T and B."""
    groups: dict[tuple[str, ...], list[dict[str, Row]]] = {}
    frame = results("grid")
    for case in each(frame, "case", dtype="float32"):
        by = by_contender(frame, case=case, dtype="float32")
        of = tuple(range_of(axis, getattr(by[BASE], axis)) for axis in "HTB")
        groups.setdefault(of, []).append(by)

    def order(of: tuple[str, ...]) -> list[int]:
        return [int(text.split()[-1]) + text.startswith("above") for text in of]

    return [(list(of), groups[of]) for of in sorted(groups, key=order)]


def over_torch(ours: str, quantile: str) -> Callable[[Any], str]:
    """Return the format of a range: our speed over torch's at a quantile, median and least."""

    def says(group: tuple[list[str], list[dict[str, Row]]]) -> str:
        each = [getattr(by[BASE], quantile) / getattr(by[ours], quantile) for by in group[1]]
        return f"{statistics.median(each):.2f} ({min(each):.2f})"

    return says


HELP_INFERENCE = Listing(
    ranges,
    {
        "H": lambda group: group[0][0],
        "T": lambda group: group[0][1],
        "B": lambda group: group[0][2],
        "calls": lambda group: str(len(group[1])),
        "native, p50": over_torch(OURS, "p50"),
        "native, p99": over_torch(OURS, "p99"),
        "prepared, p50": over_torch(PREPARED, "p50"),
        "prepared, p99": over_torch(PREPARED, "p99"),
    },
    "grid",
)


COMPARED = {  # what is compared -> results file, contender, dtype
    "inference, LSTMs and GRUs of random sizes": ("grid", OURS, "float32"),
    "outputs and gradients, rows of unequal length": ("lanes", OURS, "float32"),
    "gradients of a loss on the last step, up to 1,000 steps": ("last", OURS, "float32"),
    "outputs and gradients, models of other packages": ("models", "install", "float32"),
    "losses and updates, three training steps": ("post", OURS, "float32"),
    "inference, random sizes, in bfloat16": ("grid", OURS, "bfloat16"),
    "gradients of a loss on the last step, in bfloat16": ("last", OURS, "bfloat16"),
    "inference with int8 weights and inputs": ("int8", "native-int8", "float32"),
    "inference with int8 weights only": ("int8", "native-int8-weights", "float32"),
}


def compared() -> list[tuple[str, list[Row]]]:
    """Return what was compared, and its records."""
    return [
        (says, rows(results(file), contender=label, dtype=dtype))
        for says, (file, label, dtype) in COMPARED.items()
    ]


ERRORS = Listing(
    compared,
    {
        "compared": lambda run: run[0],
        "CPU": lambda run: cpu(run[1][0].machine),
        "cases": lambda run: str(len({row.case for row in run[1]})),
        "largest difference": lambda run: f"{max(row.error for row in run[1]):.0e}",
    },
)


def tails_foreign() -> str:
    """Return how much of the machine other work took while the slowest calls were measured."""
    shares = [row.foreign for row in rows(results("tail"))]
    return (
        f"Other work took {min(shares):.0%} to {max(shares):.0%} of the machine in these runs,"
        f" {statistics.median(shares):.0%} in the median one.\n"
    )


class Point(NamedTuple):
    """A call drawn at random: who it is, and our speed over the best of the others."""

    cell: str
    dtype: str
    flops: float
    plain: float
    prepared: float
    beside_torch: float  # of prepared weights over nn.LSTM or nn.GRU


def points(frame: pd.DataFrame) -> list[Point]:
    """Return the calls of the suite grid."""
    found = []
    for case, dtype in dict.fromkeys((row.case, row.dtype) for row in rows(frame)):
        by = by_contender(frame, case=case, dtype=dtype)
        best = min(row.median for label, row in by.items() if label not in (OURS, PREPARED))
        ours = by[PREPARED]
        speeds = best / by[OURS].median, best / ours.median, by[BASE].median / ours.median
        found.append(Point(ours.cell, dtype, ours.flops, *speeds))
    return found


def spread(speeds: Sequence[float]) -> str:
    """Return how many are at least 1, the median and the least."""
    ahead = sum(x >= 1 for x in speeds) / len(speeds)
    return f"{ahead:.0%}, {digits(statistics.median(speeds))}, {digits(min(speeds))}"


def kinds(drawn: Sequence[Point]) -> list[list[Point]]:
    """Return the calls of each cell and dtype."""
    found = sorted({(p.cell, p.dtype) for p in drawn}, reverse=True)
    return [[p for p in drawn if (p.cell, p.dtype) == kind] for kind in found]


# How often, and by how much, we are ahead of the best of the others, or behind it.
DRAWN = {
    "": lambda calls: f"{calls[0].cell.upper()}, {calls[0].dtype}",
    "calls": lambda calls: str(len(calls)),
    "prepared: at least as fast, median, worst": lambda calls: spread(
        [p.prepared for p in calls]),
    "not prepared": lambda calls: spread([p.plain for p in calls]),
    "prepared / torch, worst": lambda calls: digits(min(p.beside_torch for p in calls)),
}  # fmt: skip


def drawn(file: str) -> Listing:
    """Return the table of a file's calls drawn at random."""
    return Listing(lambda: kinds(points(results(file))), DRAWN, file)


GRID = drawn("grid")


# --- README's races, one machine's: faster.jsonl has `native` with memory kept, and `lanes` ---


def race(
    says: str, file: str, case: str, mode: str = "step", dtype: str = "float32",
    theirs: str = BASE, ours: str = OURS,
) -> Line:  # fmt: skip
    """Return a race of a file: what it says, and the records of the two that it compares."""
    system = "nn.LSTM" if theirs in (BASE, STOCK) else name(theirs)
    where = {"case": case, "mode": mode, "dtype": dtype}
    return Line([says, system], where, {"theirs": theirs, "ours": ours}, file)


RACES = Table(
    "",
    Lines(
        ["forward and backward", "compared with"],
        [
            *(race(size, "faster", size) for size in SIZES),
            race("medium, inference", "faster", "medium", "inference"),
            race("medium, bfloat16", "faster", "medium", dtype="bfloat16"),
            race("medium, a whole training step", "post", "medium", "train", theirs=STOCK),
            race(
                "rows of unequal length, T=100, B=32, H=256", "faster",
                "uniform, lengths, T=100, H=256",
            ),
            race(
                "two directions, T=100, B=32, H=256, inference", "faster",
                "bidirectional, T=100, H=256", "inference",
            ),
            race(
                "backward, loss on the last step, T=300, B=20, H=256", "last",
                "LSTM, T=300, B=20, H=256, L=2, last", "backward",
            ),
            race("one step, B=1, H=650", "short", "T=1, H=650", "inference"),
            race(
                "the same, weights packed once", "short", "T=1, H=650", "inference",
                theirs="onnxruntime", ours=PREPARED,
            ),
            race(
                "one step, B=1, H=1500, weights packed once", "short", "T=1, H=1500", "inference",
                theirs="onnxruntime", ours=PREPARED,
            ),
            race(
                "the same in bfloat16", "short", "T=1, H=1500", "inference", "bfloat16",
                "openvino", PREPARED,
            ),
        ],
    ),
    [
        column("ms", "p50", "theirs"),
        column("native, ms", "p50", "ours"),
        column("native's speed", "times", "theirs", "ours"),
    ],
    {"threads": 2},
)  # fmt: skip


# --- other packages' code ---


def of_loop(row: Row) -> str:
    """Return the milliseconds of a transcription outside its encoder."""
    return f"{1e3 * (row.whole - row.encoder):,.0f}"


def share(part: Callable[[Row], float]) -> Callable[[Row], str]:
    """Return the format of a part of a transcription."""
    return lambda row: f"{part(row) / row.whole:.0%}"


def threads_of(heading: str) -> list[By]:
    """Return a row for each case and number of threads."""
    return [By(heading, "case", lambda case: case.replace("_", " ", 1)), By("threads", "threads")]


# --- losses on the last step: all steps -> the last ---

LAST = Joined("loss", ("all", "last"), " -> ")
LAST_HEADING = "backward, ms: loss on all steps -> on the last"
LAST_CASE = r"(?P<call>.*), (?:all|last)$"


def all_to_last(layer: str) -> Callable[[dict], str]:
    """Return the format of a layer's two times, "-" without any."""
    return lambda row: " -> ".join(map(digits, row[layer])) if layer in row else "-"


# Times on an Intel Xeon before operators flushed, and with flags set by hand.
LAST_INTEL = Listing(
    lambda: [
        row | {"call": f"{row['call']}{', flushed' * (part == 'flushed')}"}
        for part in ("rows", "flushed") for row in tool("last-intel.json")[part]
    ],
    {LAST_HEADING: lambda row: row["call"]}
    | {layer: all_to_last(layer) for layer in ("nn.LSTM", "native", "nn.GRU", "native GRU")},
)  # fmt: skip


# --- cells ---

CELL_CASE = r"[^,]*, (?P<call>.*)$"
CUSTOM = [
    column(f"{call}: {BOTH_WAYS[mode]}", "0.1 times", "loop", "ours", mode=mode, call=call)
    for call in ("T=100, B=4, H=256", "T=35, B=20, H=650")
    for mode in BOTH_WAYS
]


def paper(cell: str) -> str:
    """Return the paper that a cell follows."""
    text = zoo.ALL[cell].function.__doc__ or ""
    return text.removeprefix("Follow ").removesuffix(".")


def lines_of(cell: str) -> str:
    """Return how many lines a cell's function has, without its docstring."""
    text = inspect.getsource(zoo.ALL[cell].function).splitlines()
    return str(len([line for line in text if line.strip() and '"""' not in line]))


def cells() -> str:
    """Return what each cell takes, and that beside the others' times in the same rounds."""
    body: dict[str, list[str]] = {}
    frame = results("cells")
    for size in SIZES[:2]:
        plain = by_contender(frame, case=size, mode="plain")["ours"]
        for kind in each(frame, "mode", case=size):
            by = by_contender(frame, case=size, mode=kind)
            other = "torch" if kind == "gru" else "keras"
            row = [ms(by["ours"]), f"{1 / speedup(plain, by['ours']).value:.2f}"]
            row += [str(speedup(by[o], by["ours"])) if o in by else "-" for o in ("loop", other)]
            body.setdefault(kind, [f"`{kind}`"]).extend(row)
    columns = product(SIZES[:2], (", ms", ": of plain", ": its loop", ": Keras or nn.GRU"))
    return markdown(("forward and backward", *map("".join, columns)), body.values())


SAMPLES = {
    "one backward": "one backward, which leaves the sum",
    "Opacus, ours": "`fused_lstm.opacus.LSTM`",
    "torch.func": "`torch.func`, with its forward",
    "Opacus, DPLSTM": "Opacus's `DPLSTM`",
}


def shape_order(call: str) -> list[int]:
    """Return a call's sizes, by which calls are sorted."""
    return [int(part.partition("=")[2]) for part in call.split(", ")]


# --- perplexities, from the summaries of lm.train ---

TRAINED = {
    "small": {
        "small-1": "seed 1",
        "small-2": "seed 2",
        "small-3": "seed 3",
        "small-1-two-threads": "seed 1 again",
        "small-bf16": "seed 1, bfloat16 under autocast",
    },
    "medium": {"medium-bf16": "seed 1, bfloat16 under autocast"},
}
CELLS = {
    "plain": "nn.LSTM's",
    "zoneout": "`zoneout=(0.025, 0.25)`",
    "recurrent-dropout": "`recurrent_dropout=0.2`",
    "layer-norm": "`layer_norm=True`",
}


def perplexities(run: str) -> list[float]:
    """Return a run's perplexity of the training, validation and test text."""
    summary = tool(f"{run}/summary.json")
    return [summary[f"{split}_perplexity"] for split in ("train", "valid", "test")]


def perplexity(preset: str) -> str:
    """Return each run of a preset to its end, and of `small` the mean of three seeds."""
    reference = [f"{p:.2f}" for p in PUBLISHED[preset]]
    body = [["the reference (TensorFlow's tutorial)", "-", *reference]]
    found = {run: perplexities(run) for run in TRAINED[preset]}
    for run, says in TRAINED[preset].items():
        summary = tool(f"{run}/summary.json")
        where = f"{cpu(summary['processor'])}, {summary['threads']}"
        body.append([says, where, *(f"{p:.2f}" for p in found[run])])
    if preset == "small":
        seeds = list(zip(*(found[f"small-{seed}"] for seed in (1, 2, 3)), strict=True))
        spread = (f"{statistics.mean(p):.2f} ± {statistics.stdev(p):.2f}" for p in seeds)
        body.insert(4, ["mean of the three ± standard deviation", "", *spread])
    header = f"`{preset}` on Penn Treebank, perplexity", "CPU, threads", "train", "valid", "test"
    return markdown(header, body)


def cell_run(run: str) -> dict[str, Any]:
    """Return the summary of a run with another cell."""
    return tool(f"cells/{run}/summary.json")


CELL_PERPLEXITY = Listing(
    lambda: CELLS,
    {
        "`small` on Penn Treebank, six epochs, perplexity"
        f" ({cpu(cell_run('plain')['processor'])})": lambda run: CELLS[run],
        "train": lambda run: f"{cell_run(run)['train_perplexity']:.2f}",
        "valid": lambda run: f"{cell_run(run)['valid_perplexity']:.2f}",
        "test": lambda run: f"{cell_run(run)['test_perplexity']:.2f}",
        "words/s, one thread": lambda run: f"{cell_run(run)['words_per_second']:,.0f}",
    },
)


def slstm_perplexity() -> str:
    """Return the validation text's perplexity by epochs, with an sLSTM beside nn.LSTM's cell."""
    runs, epochs, body = {"plain": "nn.LSTM's", "slstm": "sLSTM, 4 heads"}, range(1, 7), []
    for run, says in runs.items():
        log = pd.read_csv(RESULTS / "cells" / run / "log.csv")
        valid = log[log["split"] == "valid"].set_index("epoch")["perplexity"]
        body.append([says, *(f"{valid[n]:.1f}" if n in valid.index else "-" for n in epochs)])
    return markdown(("`small`, valid", *(f"epoch {n}" for n in epochs)), body)


def packed_perplexity() -> str:
    """Return a language model's perplexity with weights packed in each dtype."""
    found = tool("packed-perplexity.json")["test perplexity"]
    return markdown(("weights", *found), [["perplexity", *(f"{x:.3f}" for x in found.values())]])


def bf16_gradients() -> str:
    """Return the errors of gradients in bfloat16 by hidden size, nn.LSTM's and ours."""
    found = tool("bf16-gradients.json")["rows"]
    body = [[who, *(digits(row[who]) for row in found)] for who in ("nn.LSTM", "native")]
    return markdown(("error / gradient (Intel Xeon)", *(f"H={row['H']}" for row in found)), body)


# --- calls of two checkouts in turns, of bench.pairs ---


def paired(file: str) -> list[dict[str, Any]]:
    """Return the records of a results file of bench.pairs."""
    lines = (RESULTS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def intel(change: str, before: str = "before", after: str = "after") -> Listing:
    """Return the table of a change's CPU times on an Intel Xeon."""

    def changed() -> list[dict[str, Any]]:
        return [record for record in paired("intel") if record["change"] == change]

    return Listing(
        changed,
        {
            "CPU ms": lambda record: (
                record.get("weights", record["mode"])
                + ", T={}, B={}, H={}".format(*(record["shape"][n] for n in (0, 1, 3)))
            ),
            before: lambda record: digits(1e3 * record["before"]),
            after: lambda record: digits(1e3 * record["after"]),
            "ratio (95%)": "{0[ratio]:.2f} ({0[low]:.2f} to {0[high]:.2f})".format,
        },
        "intel",
    )


def tail_pairs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the records of single steps before and after, the module's with the prepared one's."""
    records = paired("tail-pairs")
    return list(zip(records[::2], records[1::2], strict=True))


def tail_of(which: int, side: str) -> Callable[[Any], str]:
    """Return what says a side's milliseconds beside the module's (0) or the prepared one's (1)."""

    def says(pair: Any) -> str:
        tail = pair[which]["tails"][side]
        return " / ".join(digits(1e3 * tail[name]) for name in ("p50", "p99", "worst"))

    return says


TAILS_BEFORE = Listing(
    lambda: [
        pair for pair in tail_pairs()
        if pair[0]["threads"] == 2 and pair[0]["shape"] == [1, 1, 256, 256, 2]
    ],
    {
        "pause": lambda pair: "10 ms" if pair[0]["pause"] else "none",
        "busy": lambda pair: str(pair[0]["busy"]),
        "module, before": tail_of(0, "before"), "module, after": tail_of(0, "after"),
        "prepared, before": tail_of(1, "before"), "prepared, after": tail_of(1, "after"),
        "nn.LSTM": tail_of(0, "nn.LSTM"), "ONNX Runtime": tail_of(0, "ONNX Runtime"),
    },
    "tail-pairs",
)  # fmt: skip


def tails_changed() -> list[tuple[int, int, list[Any]]]:
    """Return threads, the module (0) or a prepared layer (1), and their calls before and after."""
    pairs = tail_pairs()
    return [
        (threads, which, [pair[which]["tails"] for pair in pairs if pair[0]["threads"] == threads])
        for threads in (1, 2)
        for which in (0, 1)
    ]


def share_of(quantile: str, base: str = "before", side: str = "after") -> Callable[[Any], str]:
    """Return what says the ratio of a quantile of two sides: the median and its range."""

    def says(row: Any) -> str:
        ratios = sorted(tails[side][quantile] / tails[base][quantile] for tails in row[2])
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    return says


def at_most_twice(side: str) -> Callable[[Any], str]:
    """Return what says in how many settings a side's p99 is at most twice ONNX Runtime's."""

    def says(row: Any) -> str:
        near = sum(t[side]["p99"] <= 2 * t["ONNX Runtime"]["p99"] for t in row[2])
        return f"{near} of {len(row[2])}"

    return says


CALLS_OF: dict[str, Callable[[Any], str]] = {
    "threads": lambda row: str(row[0]),
    "calls of": lambda row: ("native: layers", "native, prepared")[row[1]],
}
TAILS_CHANGED = Listing(
    tails_changed,
    {
        **CALLS_OF,
        "p50, after / before": share_of("p50"),
        "p99, after / before": share_of("p99"),
        "worst, after / before": share_of("worst"),
    },
    "tail-pairs",
)
TAILS_BESIDE = Listing(
    tails_changed,
    {
        **CALLS_OF,
        "p50 / nn.LSTM's": share_of("p50", "nn.LSTM"),
        "p50 / ONNX Runtime's": share_of("p50", "ONNX Runtime"),
        "p99 / nn.LSTM's": share_of("p99", "nn.LSTM"),
        "p99 / ONNX Runtime's": share_of("p99", "ONNX Runtime"),
        "at most 2: before": at_most_twice("before"),
        "at most 2: after": at_most_twice("after"),
    },
    "tail-pairs",
)


# --- all of them ---

TABLES: dict[str, Callable[[], str]] = gpu.TABLES | {
    "training": lambda: training(results("post")),
    "training_parts": lambda: training_parts(results("post")),
    "faster": RACES,
    "native_step": native("step"),
    "native_forward": native("inference"),
    "native_training": Table(
        "steps", [By("training step, words/s", "case")],
        [
            column("step loop", "words/s", "stock-loop-none"),
            column("nn.LSTM", "words/s", STOCK),
            column("native", "words/s", OURS),
            column("/ nn.LSTM", "times", STOCK, OURS),
            column("kept", "times", STOCK, OURS, file="steps-kept"),
            column("/ loop", "times", "stock-loop-none", OURS),
            column("kept", "times", "stock-loop-none", OURS, file="steps-kept"),
        ],
        {"dtype": "float32"},
    ),
    "native_training_intel": Table(
        "steps-intel", [By("training step, words/s", "case"), By("dtype", "dtype")],
        [
            column("nn.LSTM", "words/s", STOCK),
            column("native", "words/s", OURS),
            column("/ nn.LSTM (95%)", "times (95%)", STOCK, OURS),
        ],
    ),
    "native_bfloat16": of_dtypes("native", BASE, "inference", "step"),
    "native_autocast": of_dtypes("steps", STOCK, "train"),
    "native_avx2": Table(
        "native-avx2",
        Lines(["AVX2 only"], [
            Line([SAYS["step"]], {"mode": "step"}, {"theirs": BASE}),
            Line([SAYS["inference"]], {"mode": "inference"}, {"theirs": BASE}),
            Line([SAYS["train"]], {"mode": "train"}, {"theirs": STOCK}, "steps-avx2"),
        ]),
        [
            one for size in SIZES for one in (
                column(f"{size}: native, ms", "ms", OURS, case=size),
                column(f"{size}: nn.LSTM's speed", "times (95%)", "theirs", OURS, case=size),
            )
        ],
        {"dtype": "float32"},
    ),
    "peers": Table(
        "peers",
        Lines(["system"], [Line([name(label)], {}, {"system": label}) for label in FUSES]),
        [
            column("ms", "ms", "system"),
            column("speed relative to nn.LSTM", "times", BASE, "system"),
            column("what it fuses", lambda row: FUSES[row.contender], "system"),
        ],
        {"mode": "step", "case": "small"},
    ),
    "lanes_bidirectional": lanes(True),
    "lanes_packed": lanes(False),
    "growth_threads": growth("threads", By("", "case"), By("threads", "threads")),
    "growth_sizes": growth("scaling", By("", "case")),
    "short": Table(
        "short", [By("p50 / p99, ms", "dtype"), By("call", "case")],
        [column(name(label), "p50 / p99", label) for label in INFERENCE],
    ),
    "busy": Table(
        "busy", [By("call", "case"), By("busy processes", "neighbours", count)],
        [
            column("native: p50, ms", "p50", OURS), column("p99, ms", "p99", OURS),
            column("nn.LSTM: p50, ms", "p50", BASE), column("p99, ms", "p99", BASE),
            column("ONNX Runtime: p50 / p99, ms", "p50 / p99", "onnxruntime"),
            column("OpenVINO: p50 / p99, ms", "p50 / p99", "openvino"),
        ],
    ),
    "tails": tails(2),
    "tails_one": tails(1),
    "tails_before": TAILS_BEFORE,
    "tails_beside": TAILS_BESIDE,
    "tails_changed": TAILS_CHANGED,
    "help_training": Table(
        "scaling", [*AXES, By("layers", "L", count)],
        [
            column("nn.LSTM, ms", "ms", BASE), column("native, ms", "ms", OURS),
            column("native's speed", "times", BASE, OURS),
        ],
    ),
    "help_inference": HELP_INFERENCE,
    "help_short": Table(
        "short", AXES,
        [
            column("nn.LSTM", "p50 / p99", BASE), column("native", "p50 / p99", OURS),
            column("prepared", "p50 / p99", PREPARED),
            column("native's speed", "times", BASE, OURS),
            column("prepared's", "times", BASE, PREPARED),
        ],
        {"dtype": "float32"},
    ),
    "help_tail": Table(
        "tail", [By("threads", "threads", order=int), By("busy processes", "neighbours", count)],
        [column(says, "p50 / p99 / worst", label) for label, says in (
            (BASE, "nn.LSTM"), (OURS, "native"), (PREPARED, "native, prepared"))],
        {"case": "T=1, B=1, H=256", "mode": "inference"},
    ),
    "tails_foreign": tails_foreign,
    "errors": ERRORS,
    "int8": Table(
        "int8", [By("p50, ms", "case")],
        [column("nn.LSTM, float32", "p50", BASE),
            *(column(says, "p50 (error)", label) for label, says in BYTES.items())],
    ),
    "streams": Table(
        "streaming-prepared", threads_of("p50 / p99 / worst, ms"),
        [column(says, "p50 / p99 / worst", label) for label, says in STREAMS.items()],
    ),
    "grid": GRID,
    "grid_intel": drawn("grid-intel"),
    "adopted": Table(
        "adopted", [By("ms: theirs → ours", "case")],
        [column(f"{says}, {words}", "ms → ms", "theirs", "ours", mode=mode, threads=n)
            for n, words in ((1, "1 thread"), (2, "2 threads"))
            for mode, says in BOTH_WAYS.items()],
    ),
    "kernelbench": Table(
        "kernelbench", threads_of("task"),
        [
            column("forward, ms: torch", "ms", BASE, mode="inference"),
            column("torch.compile", "ms", "compile", mode="inference"),
            column("ours", "ms", "install", mode="inference"),
            column("torch / ours", "times", BASE, "install", mode="inference"),
            column("both, ms: torch", "ms", BASE, mode="step"),
            column("torch, flushed", "ms", "flushed", mode="step"),
            column("ours", "ms", "install", mode="step"),
            column("flushed / ours", "times", "flushed", "install", mode="step"),
        ],
    ),
    "transducer": Table(
        "transducer", threads_of("model, sound"),
        [
            column("steps, tokens", "{0.steps:.0f}, {0.tokens:.0f}".format, BASE),
            column("whole, ms", "ms", BASE),
            column("loop", share(lambda row: row.whole - row.encoder), BASE),
            column("prediction", share(lambda row: row.prediction), BASE),
            column("joint", share(lambda row: row.joint), BASE),
            column("loop, ms: generate", of_loop, BASE),
            column("install", of_loop, "install"),
            column("Greedy", of_loop, "greedy"),
            column("Greedy, int8", of_loop, "greedy-int8"),
            column("whole: Greedy", "times", BASE, "greedy"),
            column("int8", "times", BASE, "greedy-int8"),
        ],
    ),
    "last": Table(
        "last", [By(LAST_HEADING, "call"), By("threads", "threads")],
        [column(f"{says}, {dtype}", "ms", label, dtype=dtype)
            for dtype in ("float32", "bfloat16")
            for label, says in ((BASE, "torch.nn"), (OURS, "native"))],
        joined=LAST, split=LAST_CASE,
    ),
    "last_intel": LAST_INTEL,
    "last_xeon": Table(
        "last-xeon", [By(LAST_HEADING, "call")],
        [
            column("torch.nn", "ms", BASE, denormals="keep"),
            column("native, denormals kept", "ms", OURS, denormals="keep"),
            column("native", "ms", OURS, denormals="flush"),
        ],
        joined=LAST, split=LAST_CASE,
    ),
    "custom": Table(
        "custom-intel",
        [By("cell", "cell", "`{}`".format), By("from", "cell", paper),
            By("lines", "cell", lines_of)],
        CUSTOM, split=CELL_CASE,
    ),
    "custom_compiled": Table(
        "custom-compiled-intel", [By("cell", "case"), By("", "mode", BOTH_WAYS.__getitem__)],
        [
            column("loop, ms", "ms", "loop"),
            column("torch.compile, ms", "ms", "compile"),
            column("fused, ms", "ms", "ours"),
            column("compiled / fused", "0.1 times", "compile", "ours"),
            column("first call, s: compiled", "first call, s", "compile"),
            column("fused", "first call, s", "ours"),
        ],
    ),
    "custom_source": lambda: f"```cpp\n{zoo.lltm.source()}```\n",
    "custom_triton": lambda: f"```python\n{zoo.lltm.source('triton')}```\n",
    "custom_explained": lambda: f"```python\n{zoo.lltm.explained()}```\n",
    "cells": cells,
    "slstm": Table(
        "slstm", [By("cell", "package"), By("call", "call", order=shape_order)],
        [
            column(f"{says}: {heading}", form, *labels, mode=mode)
            for mode, says in (("inference", "forward"), ("step", "and backward"))
            for heading, form, labels in (
                ("native, ms", "ms", ("native",)), ("eager", "times", ("eager", "native")),
                ("compiled", "times", ("compiled", "native")),
            )
        ],
        joined=Joined("threads", (1, 2), " / "), split=CELL_CASE,
    ),
    "per_sample": Table(
        "samples",
        Lines(["32 samples"], [Line([says], {}, {"way": way}) for way, says in SAMPLES.items()]),
        [
            one for size in SIZES[:2] for one in (
                column(f"{size}, ms", "ms", "way", case=size),
                column(f"{size}: of one backward", "0.01 times", "way", "one backward", case=size),
            )
        ],
    ),
    "perplexity": partial(perplexity, "small"),
    "perplexity_medium": partial(perplexity, "medium"),
    "cell_perplexity": CELL_PERPLEXITY,
    "slstm_perplexity": slstm_perplexity,
    "bf16_gradients": bf16_gradients,
    "packed_perplexity": packed_perplexity,
    "intel_ahead": intel("ahead"),
    "intel_bf16": intel("bf16"),
    "intel_tf32": intel("tf32", "float32", "two terms"),
    "intel_tf32_switch": intel("tf32 switch", "two terms everywhere", "where they pay"),
    "intel_prepared": intel("prepared"),
}  # fmt: skip
