"""The tables of README and docs, nearly all of them records that tables.py reads.

A `Table` has the results file, rows, columns and formats. What is not in a file of records (a
summary of lm.train, a survey of compiled kernels) is a `plain` table, and a few need a statistic
over many records: these are functions.
"""

from __future__ import annotations

import inspect
import statistics
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pandas as pd

import fused_lstm
from lm.settings import PUBLISHED

from .contenders import BASE, NAMES, OURS, PREPARED
from .core import speedup
from .gpu import tables as gpu
from .inference import WITHOUT
from .tables import (
    FORMATS,
    RESULTS,
    SIZES,
    By,
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
    levels = ("pointwise", "hoisted", "steps")  # on a CPU `layers` is the code of `steps` here
    return {
        FIRST: ("TensorFlow, step loop", "TensorFlow loop"),
        "tensorflow-xla": ("the same under XLA", "TensorFlow XLA"),
        "keras": ("TensorFlow, Keras LSTM", "Keras LSTM"),
        "jax": ("JAX, lax.scan", "JAX scan"),
        STOCK: (f"PyTorch, nn.LSTM: {library}", "nn.LSTM"),
        "stock-loop-none": ("PyTorch, step loop", "PyTorch loop"),
        **{f"stock-{ours}-{fuse}": (f"+ {fuse} ({ours})", f"+ {fuse}") for fuse in levels},
        f"{ours}-layers": (f"{ours}, our loss and update", f"{ours}, our loss"),
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


# --- ours and nn.LSTM, in several processes ---


class Race(NamedTuple):
    """A race: its words, the other system, and the records of the two that it compares."""

    says: str
    file: str
    case: str
    mode: str = "step"
    dtype: str = "float32"
    theirs: str = BASE
    ours: str = OURS
    threads: int = 2

    def pairs(self) -> list[tuple[Row, Row]]:
        """Return the records of the other system and of ours, a pair of each process."""
        found = rows(results(self.file), case=self.case, mode=self.mode, dtype=self.dtype,
            threads=self.threads)  # fmt: skip
        by = {(row.contender, row.group): row for row in found}
        return [(row, by[self.ours, row.group]) for row in found if row.contender == self.theirs]

    def factors(self) -> list[float]:
        """Return how many times as fast ours is, of each process, from the least."""
        return sorted(speedup(*pair).value for pair in self.pairs())

    def factor(self) -> str:
        """Return the median of the processes, with the least and the greatest."""
        each = self.factors()
        if each[0] <= 1 <= each[-1]:
            return f"no difference seen ({each[0]:.2f} to {each[-1]:.2f})"
        ends = f" ({each[0]:.2f} to {each[-1]:.2f})" if each[1:] else " (1 process)"
        return f"{statistics.median(each):.2f}x{ends}"

    def system(self) -> str:
        """Return what a reader calls the other system."""
        return NAMES.get(self.theirs.removeprefix("stock-"), self.theirs)

    def ms(self, which: int) -> str:
        """Return the median milliseconds of the other system (0) or of ours (1)."""
        return digits(1e3 * statistics.median(pair[which].median for pair in self.pairs()))


def races(*several: Race, heading: str = "") -> Listing:
    """Return the table of races."""
    return Listing(
        lambda: several,
        {
            heading: lambda race: race.says,
            "compared with": lambda race: NAMES.get(
                race.theirs.removeprefix("stock-"), race.theirs
            ),
            "its ms": lambda race: race.ms(0),
            "ours, ms": lambda race: race.ms(1),
            "times as fast: median (least to greatest process)": lambda race: race.factor(),
        },
        several[0].file,
    )


PAIRS = {"step": "forward and backward", "inference": "forward, no gradient"}
LSTM_ALONE = [
    Race(f"{case}, {says}{'' if dtype == 'float32' else ', bfloat16'}", "faster", case, mode, dtype)
    for mode, says in PAIRS.items() for dtype in ("float32", "bfloat16") for case in SIZES
]  # fmt: skip
UNEVEN = "uniform, lengths, T=100, H=256"
BOTH_DIRECTIONS = "bidirectional, T=100, H=256"
LANES = [
    Race(f"{what}, {says}", "faster", case, mode)
    for case, what in ((UNEVEN, "rows of unequal length"), (BOTH_DIRECTIONS, "two directions"))
    for mode, says in PAIRS.items()
]
# The layer alone in the post's program; the whole program: layer, loss and update.
LAYER, PROGRAM = ("stock-cudnn", f"stock-{OURS}"), ("stock-cudnn", OURS)
STEPS = [
    Race(f"{case}: {says}", "steps", case, "train", theirs=theirs, ours=ours)
    for case in SIZES
    for says, (theirs, ours) in (("our layer in the post's program", LAYER),
        ("our layer, loss and update", PROGRAM))
]  # fmt: skip
ONE_STEP = [
    Race("one step, B=1, H=650", "short", "T=1, H=650", "inference", theirs=WITHOUT),
    Race("the same, weights packed once", "short", "T=1, H=650", "inference",
        theirs="onnxruntime", ours=PREPARED),
    Race("one step, B=1, H=1500", "short", "T=1, H=1500", "inference", theirs="onnxruntime"),
    Race("the same, weights packed once", "short", "T=1, H=1500", "inference",
        theirs="onnxruntime", ours=PREPARED),
]  # fmt: skip
LAST_STEP = Race("backward of a loss on the last step, T=300, B=20, H=256", "last",
    "LSTM, T=300, B=20, H=256, L=2, last", "backward")  # fmt: skip
# README's first screen: five factors, one of them a loss.
FIRST_SCREEN = [
    ("forward and backward, float32, H = 200 / 650 / 1500", LSTM_ALONE[:3]),
    ("forward and backward, bfloat16, H = 650", [LSTM_ALONE[4]]),
    ("the same, rows of unequal length, H = 256", [LANES[0]]),
    ("inference, 20 rows, H = 650", [LSTM_ALONE[7]]),
    ("one step, H = 1500, compared with ONNX Runtime", [ONE_STEP[2]]),
]


def first_screen() -> str:
    """Return README's five factors, each the median of its processes."""
    body = []
    for says, several in FIRST_SCREEN:
        each = [f"{statistics.median(race.factors()):.2f}x" for race in several]
        ends = [factor for race in several for factor in race.factors()]
        spread = f"{min(ends):.2f} to {max(ends):.2f}" if several[0].factors()[1:] else "1 process"
        body.append([says, f"**{' / '.join(each)}**", spread])
    heading = "speed on two cores, that of nn.LSTM = 1"
    return markdown((heading, "ours", "least to greatest process"), body)


# The eight rows of docs/will-it-help.md.
HELP = races(
    *LSTM_ALONE[:3], LSTM_ALONE[4], LANES[0], LSTM_ALONE[7], ONE_STEP[0], ONE_STEP[2],
    heading="call on two threads",
)  # fmt: skip


# --- calls, with the slowest of them ---

INFERENCE = (OURS, PREPARED, BASE, WITHOUT, "onnxruntime", "openvino")
STREAMS = {
    BASE: "nn.LSTM", "prepared-float32": "float32", "prepared-bfloat16": "bfloat16",
    "prepared-int8": "int8", "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime, int8",
}  # fmt: skip


def worst(file: str) -> str:
    """Return a heading of a file's slowest calls: "worst of 500"."""
    return f"worst of {' or '.join(sorted({count(row.calls) for row in rows(results(file))}))}"


COMPARED = {  # what is compared -> results file, contender, dtype
    "inference, LSTMs and GRUs of random sizes": ("grid-intel", OURS, "float32"),
    "outputs and gradients, one or two directions": ("faster", OURS, "float32"),
    "gradients of a loss on the last step, up to 300 steps": ("last", OURS, "float32"),
    "outputs and gradients, models of other packages": ("models", "install", "float32"),
    "losses and updates, three training steps": ("steps", OURS, "float32"),
    "inference, random sizes, in bfloat16": ("grid-intel", OURS, "bfloat16"),
    "gradients of a loss on the last step, in bfloat16": ("last", OURS, "bfloat16"),
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


def kinds(drawn: Sequence[Point]) -> list[list[Point]]:
    """Return the calls of each cell and dtype."""
    found = sorted({(p.cell, p.dtype) for p in drawn}, reverse=True)
    return [[p for p in drawn if (p.cell, p.dtype) == kind] for kind in found]


# Prepared weights and the best of the others: how often ours are as fast, and by how much.
DRAWN = {
    "": lambda calls: f"{calls[0].cell.upper()}, {calls[0].dtype}",
    "calls": lambda calls: str(len(calls)),
    "at least as fast": lambda calls: f"{sum(p.prepared >= 1 for p in calls) / len(calls):.0%}",
    "median factor": lambda calls: digits(statistics.median(p.prepared for p in calls)),
    "worst factor": lambda calls: digits(min(p.prepared for p in calls)),
    "worst, compared with torch": lambda calls: digits(min(p.beside_torch for p in calls)),
}  # fmt: skip


def drawn(file: str) -> Listing:
    """Return the table of a file's calls drawn at random."""
    return Listing(lambda: kinds(points(results(file))), DRAWN, file)


GRID = drawn("grid")


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


# --- cells ---

CELL_CASE = r"[^,]*, (?P<call>.*)$"
CUSTOM = [
    column(f"{call}: {BOTH_WAYS[mode]}", "0.1 times", "loop", "ours", mode=mode, call=call)
    for call in ("T=100, B=4, H=256", "T=35, B=20, H=650")
    for mode in BOTH_WAYS
]


SHOWN = ("lltm", "gru", "slstm", "sru", "min_gru")


def zoo() -> dict[str, fused_lstm.Cell]:
    """Return the cells of bench/zoo.py, which take seconds to trace."""
    from . import zoo

    return zoo.ALL


def paper(cell: str) -> str:
    """Return the paper that a cell follows."""
    text = zoo()[cell].function.__doc__ or ""
    return text.removeprefix("Follow ").removesuffix(".")


def lines_of(cell: str) -> str:
    """Return how many lines a cell's function has, without its docstring."""
    text = inspect.getsource(zoo()[cell].function).splitlines()
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


# --- signatures ---


def signatures() -> str:
    """Return the signature and the first paragraph of each public name, as Markdown."""
    blocks = []
    for public in fused_lstm.__all__:
        value = getattr(fused_lstm, public)
        if not callable(value):
            continue
        _, _, call = str(inspect.signature(value)).partition("(")
        text = textwrap.fill(f"fused_lstm.{public}({call}", 96, subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False)  # fmt: skip
        first = inspect.cleandoc(value.__doc__ or "").partition("\n\n")[0]
        blocks.append(f"### {public}\n\n```python\n{text}\n```\n\n{first}\n")
    return "\n".join(blocks)


# --- of `make report` alone: suites that no page shows ---

SHORT = Table(
    "short", [By("p50 / p99, ms", "dtype"), By("call", "case")],
    [column(name(label), "p50 / p99", label) for label in INFERENCE],
)  # fmt: skip
BUSY = Table(
    "busy", [By("call", "case"), By("busy processes", "neighbours", count)],
    [column(name(label), "p50 / p99", label) for label in (OURS, BASE, "onnxruntime", "openvino")],
)  # fmt: skip
GROWTH = Table(
    "scaling", [By("", "case")],
    [
        column("native, ms", "ms", OURS), column("GF/s", "GF/s", OURS),
        column("nn.LSTM, ms", "ms", BASE), column("ratio", "times", BASE, OURS),
    ],
)  # fmt: skip


# --- all of them ---

TABLES: dict[str, Callable[[], str]] = {
    **{table: gpu.TABLES[table] for table in ("cards", "kernel")},
    "signatures": signatures,
    "first_screen": first_screen,
    "help": HELP,
    "alone": races(*LSTM_ALONE, heading="two layers, two threads"),
    "lanes": races(*LANES, heading="one layer, T=100, B=32, H=256, two threads"),
    "steps": races(*STEPS, heading="training step, two threads"),
    "one_step": races(*ONE_STEP, LAST_STEP, heading="two layers, two threads"),
    "training": lambda: training(results("post")),
    "training_parts": lambda: training_parts(results("post")),
    "native_training_intel": Table(
        "steps-intel", [By("training step, words/s", "case"), By("dtype", "dtype")],
        [
            column("nn.LSTM", "words/s", STOCK),
            column("our layer, loss and update", "words/s", OURS),
            column("times as fast", "times (ends)", STOCK, OURS),
        ],
    ),
    "short": SHORT,
    "tail": Table(
        "tail",
        [By(f"p50 / {worst('tail')}, ms; threads", "threads", order=int),
            By("busy processes", "neighbours", count)],
        [column(says, "p50 / worst", label) for label, says in (
            (BASE, "nn.LSTM"), (OURS, "native"), (PREPARED, "native, prepared"),
            ("onnxruntime", "ONNX Runtime"))],
        {"case": "T=1, B=1, H=256", "mode": "inference"},
    ),
    "errors": ERRORS,
    "streams": Table(
        "streaming-prepared", [By(f"p50 / {worst('streaming-prepared')}, ms", "case")],
        [column(says, "p50 / worst", label) for label, says in STREAMS.items()], {"threads": 2},
    ),
    "grid_intel": drawn("grid-intel"),
    "adopted": Table(
        "adopted", [By("two threads, ms: theirs → ours", "case")],
        [column(says, "ms → ms", "theirs", "ours", mode=mode, threads=2)
            for mode, says in BOTH_WAYS.items()],
    ),
    "kernelbench": Table(
        "kernelbench", [By("two threads, ms", "case", lambda case: case.replace("_", " ", 1))],
        [
            column("forward: torch", "ms", BASE, mode="inference"),
            column("forward: ours", "ms", "install", mode="inference"),
            column("both: torch", "ms", BASE, mode="step"),
            column("both: torch, flushed", "ms", "flushed", mode="step"),
            column("both: ours", "ms", "install", mode="step"),
        ],
        {"threads": 2},
    ),
    "transducer": Table(
        "transducer", threads_of("model, sound"),
        [
            column("whole, ms", "ms", BASE),
            column("the loop's share", share(lambda row: row.whole - row.encoder), BASE),
            column("loop, ms: generate", of_loop, BASE),
            column("loop, ms: Greedy", of_loop, "greedy"),
            column("whole: Greedy", "times", BASE, "greedy"),
            column("whole: Greedy, int8", "times", BASE, "greedy-int8"),
        ],
    ),
    "last": Table(
        "last", [By(LAST_HEADING, "call"), By("threads", "threads")],
        [column(f"{says}, {dtype}", "ms", label, dtype=dtype)
            for dtype in ("float32", "bfloat16")
            for label, says in ((BASE, "torch.nn"), (OURS, "native"))],
        joined=LAST, split=LAST_CASE,
    ),
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
        "custom",
        Lines(["cell", "from", "lines"],
            [Line([f"`{cell}`", paper(cell), lines_of(cell)], {"cell": cell}) for cell in SHOWN]),
        CUSTOM, split=CELL_CASE,
    ),
    "custom_library": Table(
        "custom",
        [By("cell `lstm` and fused_lstm.LSTM", "call"), By("", "mode", BOTH_WAYS.__getitem__)],
        [column("fused_lstm.LSTM, ms", "ms", "library"), column("the cell, ms", "ms", "ours"),
            column("times as fast", "times (ends)", "library", "ours")],
        {"cell": "lstm"}, split=CELL_CASE,
    ),
    "custom_explained": lambda: f"```python\n{zoo()['lltm'].explained()}```\n",
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
        {"threads": 2}, split=CELL_CASE,
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
}  # fmt: skip
