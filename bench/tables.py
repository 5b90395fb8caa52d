"""Results files as pandas has them, and the tables of README and docs made from them."""

from __future__ import annotations

import inspect
import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fused_lstm.tools import page
from lm.settings import PUBLISHED

from . import zoo
from .contenders import BASE, LOOP, NAMES, OURS, PREPARED
from .core import Record, speedup

RESULTS = Path(__file__).parent / "results"
SIZES = ("small", "medium", "large")
Row = Any  # a line of a results file: its fields are attributes


# --- records ---


def read(*paths: Path) -> pd.DataFrame:
    """Return the records of results files; ValueError, one line, where one cannot be read."""
    frames = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            frame = pd.DataFrame([json.loads(line) for line in lines])
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: is no file of records: {error}") from None
        if missing := {"suite", "case", "contender", "mode"} - set(frame.columns):
            raise ValueError(f"{path}: is no file of records: lacks {', '.join(sorted(missing))}")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def of_records(records: Iterable[Record]) -> pd.DataFrame:
    """Return records as a file of them would be read."""
    return pd.DataFrame([record.line() for record in records])


@cache
def results(file: str) -> pd.DataFrame:
    """Return the records of a file in bench/results."""
    return read(RESULTS / file)


def rows(frame: pd.DataFrame, **fields: Any) -> list[Row]:
    """Return the records that have these fields and a result."""
    if missing := fields.keys() - set(frame.columns):
        raise ValueError(
            f"fields: got {', '.join(missing)}; expected of {', '.join(map(str, frame))}"
        )
    chosen = frame[frame["why"] == ""]
    for name, value in fields.items():
        chosen = chosen[chosen[name] == value]
    return list(chosen.itertuples(index=False))


def by_contender(frame: pd.DataFrame, **fields: Any) -> dict[str, Row]:
    """Return the records that have these fields by their contender."""
    return {row.contender: row for row in rows(frame, **fields)}


def each(frame: pd.DataFrame, field: str, **fields: Any) -> list[Any]:
    """Return the values of a field in the order of the file."""
    return list(dict.fromkeys(getattr(row, field) for row in rows(frame, **fields)))


# --- text ---


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table; columns that have figures are set right, others and the first left."""
    body = list(body)
    figures = [any(row[n][:1].isdigit() for row in body) for n in range(len(header))]
    rule = ["---", *("---:" if number else "---" for number in figures[1:])]
    lines = (
        "| " + " | ".join(c.replace("|", r"\|") for c in row) + " |"
        for row in (header, rule, *body)
    )
    return "\n".join(lines) + "\n"


def name(label: str, device: str = "cpu") -> str:
    """Return what a reader calls a contender."""
    if label == BASE:
        return f"nn.LSTM ({'cuDNN' if device.startswith('cuda') else 'oneDNN'})"
    return NAMES.get(label, label.replace("-", ": ", 1))


def cpu(machine: str) -> str:
    """Return the short name of a record's machine: "Zen 4", "Intel Xeon"."""
    family = re.search(r"family (\d+), model (\d+)", machine)
    zen = {"25 17": "Zen 4", "26 2": "Zen 5"}.get(" ".join(family.groups()) if family else "")
    name = machine.partition(" (family")[0].partition(",")[0].removesuffix(" Processor")
    return zen or name.replace("(R)", "")


def digits(value: float) -> str:
    """Return three digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def ms(row: Row) -> str:
    """Return its median in milliseconds."""
    return digits(1000 * row.median)


def factor(base: Row | None, other: Row | None) -> str:
    """Return how many times as fast `other` is, "-" where either is missing."""
    return str(speedup(base, other)) if base and other else "-"


def tail(row: Row) -> str:
    """Return p50 and p99 in milliseconds, the median alone where a turn was one call."""
    if pd.isna(getattr(row, "p99", float("nan"))):
        return ms(row)
    return f"{digits(1e3 * row.p50)} / {digits(1e3 * row.p99)}"


CALLS: dict[str, Callable[[Row], str]] = {
    "p50": lambda row: digits(1e3 * row.p50),
    "p99": lambda row: digits(1e3 * row.p99),
    "tail": tail,
    "worst": lambda row: " / ".join(digits(1e3 * t) for t in (row.p50, row.p99, row.worst)),
    "error": lambda row: f"{digits(1e3 * row.p50)} ({row.error:.1%})",
}


def cell(by_label: dict[str, Row], wanted: str) -> str:
    """Return one figure, "-" without a record.

    "ms LABEL", "p50 LABEL" and "p99 LABEL" in milliseconds, "tail LABEL" (p50 and p99), "worst
    LABEL" (these and the worst call), "error LABEL" (p50 and the error), "GF/s LABEL", "us LABEL"
    per token, "words/s LABEL", "x A B" (how many times as fast as A that B is), or "to A B" (both
    times and that factor).
    """
    kind, *labels = wanted.split()
    if any(label not in by_label for label in labels):
        return "-"
    row = by_label[labels[-1]]
    if kind == "x":
        return factor(by_label[labels[0]], row)
    if kind == "ms":
        return ms(row)
    if kind == "to":
        first = by_label[labels[0]]
        return f"{ms(first)} → {ms(row)}, {speedup(first, row)}"
    if kind in CALLS:
        return CALLS[kind](row)
    per_second = (row.flops if kind == "GF/s" else row.tokens) / row.median
    if kind == "us":
        return digits(1e6 / per_second)
    return f"{per_second / 1e9:.0f}" if kind == "GF/s" else f"{per_second:,.0f}"


def cells_of(by_label: dict[str, Row], *wanted: str) -> list[str]:
    """Return figures of one group of contenders."""
    return [cell(by_label, one) for one in wanted]


# --- tables that differ only in rows, columns, filter and format ---


class By(NamedTuple):
    """A field whose values are the rows: its heading, and how a value is written."""

    heading: str
    field: str
    says: Callable[[Any], str] = str


class Column(NamedTuple):
    """A column: its heading, its figure as `cell` takes it, and the records that it is of.

    file: the results file of these records, where it is not the table's.
    """

    heading: str
    figure: str
    where: Mapping[str, Any] = {}
    file: str = ""


class Table(NamedTuple):
    """A table of a results file: what its rows are, its columns, and the records that it is of."""

    file: str
    rows: Sequence[By]
    columns: Sequence[Column]
    where: Mapping[str, Any] = {}

    def __call__(self) -> str:
        """Return it as Markdown."""
        return self.of(results(f"{self.file}.jsonl"))

    def of(self, frame: pd.DataFrame) -> str:
        """Return the table of these records; rows without any are left out."""
        body = []
        values = (each(frame, by.field) for by in self.rows)
        for key in product(*values):
            fields = zip((by.field for by in self.rows), key, strict=True)
            own = {**dict(fields), **self.where}
            if rows(frame, **own):
                figures = []
                for column in self.columns:
                    records = results(f"{column.file}.jsonl") if column.file else frame
                    by_label = by_contender(records, **{**own, **column.where})
                    figures.append(cell(by_label, column.figure))
                says = (by.says(value) for by, value in zip(self.rows, key, strict=True))
                body.append([*says, *figures])
        return markdown([one.heading for one in (*self.rows, *self.columns)], body)


def count(value: float) -> str:
    """Return a number of processes."""
    return f"{value:.0f}"


def pause(mode: str) -> str:
    """Return how long calls of a mode wait for each other."""
    return "10 ms" if mode == "paused" else "none"


def threads(n: int) -> str:
    """Return "1 thread", "2 threads"."""
    return f"{n} thread{'s' * (n > 1)}"


# --- the post's table ---

POST = {"tensorflow": 3800, "tensorflow-xla": 3420, "stock-cudnn": 7400}  # words/s on a GTX 1080
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
        "stock-cudnn": (f"PyTorch, nn.LSTM: {library}", "nn.LSTM"),
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
            speed = "-" if step is None else f"{step.tokens / step.median:,.0f}"
            to_first = factor(of_case.get(FIRST, (None,))[0], step)
            row.append(speed if to_first == "-" else f"{speed} ({to_first})")
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


# --- rows of contenders that took turns ---

OURS_BESIDE = (f"ms {OURS}", f"ms {BASE}", f"x {BASE} {OURS}")
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
SAYS = {
    "inference": "forward, no gradient",
    "step": "forward and backward",
    "train": "training step",
}


def peers() -> str:
    """Return other systems on the small preset, and what each fuses."""
    by = by_contender(results("peers.jsonl"), mode="step", case="small")
    body = [
        [name(label), *cells_of(by, f"ms {label}", f"x {BASE} {label}"), fuses]
        for label, fuses in FUSES.items()
    ]
    return markdown(("system", "ms", "speed relative to nn.LSTM", "what it fuses"), body)


def bfloat16(*modes: str) -> str:
    """Return bfloat16 beside float32, each with nn.LSTM's."""
    body = []
    for mode, size in product(modes, SIZES):
        train = mode == "train"
        frame, base = results("steps.jsonl" if train else "native.jsonl"), "stock-cudnn"
        base = base if train else BASE
        wanted = f"ms {base}", f"ms {OURS}", f"x {base} {OURS}"
        by_type = (
            by_contender(frame, mode=mode, case=size, dtype=t) for t in ("bfloat16", "float32")
        )
        body.append(
            [f"{SAYS[mode]}, {size}", *(c for by in by_type for c in cells_of(by, *wanted))]
        )
    columns = product(("bfloat16", "float32"), ("nn.LSTM, ms", "native, ms", "ratio"))
    return markdown(("two threads", *map(": ".join, columns)), body)


def avx2() -> str:
    """Return ratios to nn.LSTM, with their intervals, where everyone is kept to AVX2."""
    body = []
    for mode in ("step", "inference", "train"):
        file, row = "steps-avx2.jsonl" if mode == "train" else "native-avx2.jsonl", [SAYS[mode]]
        for size in SIZES:
            by = by_contender(results(file), mode=mode, case=size, dtype="float32")
            row += [ms(by[OURS]), speedup(by.get(BASE) or by["stock-cudnn"], by[OURS]).text]
        body.append(row)
    columns = product(SIZES, ("native, ms", "nn.LSTM's speed"))
    return markdown(("AVX2 only", *map(": ".join, columns)), body)


def growth(frame: pd.DataFrame) -> str:
    """Return how time grows, in milliseconds, GF/s and microseconds a token."""
    body = []
    for case, n in dict.fromkeys((row.case, row.threads) for row in rows(frame)):
        by = by_contender(frame, case=case, threads=n)
        says = f"{case}, {threads(n)}" if case in SIZES else case
        wanted = f"ms {OURS}", f"GF/s {OURS}", f"us {OURS}", f"ms {BASE}", f"GF/s {BASE}"
        body.append([says, *cells_of(by, *wanted, f"x {BASE} {OURS}")])
    return markdown(
        ("", "native, ms", "GF/s", "us per token", "nn.LSTM, ms", "GF/s", "ratio"), body
    )


INFERENCE = (OURS, PREPARED, BASE, "onnxruntime", "openvino")


def calls(frame: pd.DataFrame) -> str:
    """Return forwards that keep nothing, and those of systems that only infer: p50 and p99."""
    body = []
    for dtype in each(frame, "dtype"):
        for case in each(frame, "case", dtype=dtype):
            by = by_contender(frame, case=case, dtype=dtype)
            times = cells_of(by, *(f"tail {label}" for label in INFERENCE))
            body.append([f"{dtype}, {case}", *times])
    return markdown(("p50 / p99, ms", *map(name, INFERENCE)), body)


BYTES = {
    "quantize_dynamic": "quantize_dynamic", "onnxruntime-int8": "ONNX Runtime",
    "native-int8": "quantize", "native-int8-weights": "weight_only",
}  # fmt: skip


def packed_perplexity() -> str:
    """Return a language model's perplexity with weights packed in each dtype."""
    found = tool("packed-perplexity.json")["test perplexity"]
    return markdown(("weights", *found), [["perplexity", *(f"{x:.3f}" for x in found.values())]])


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
    for dtype in each(frame, "dtype"):
        for case in each(frame, "case", dtype=dtype):
            by = by_contender(frame, case=case, dtype=dtype)
            best = min(row.median for label, row in by.items() if label not in (OURS, PREPARED))
            ours = by[PREPARED]
            found.append(
                Point(ours.cell, dtype, ours.flops, best / by[OURS].median, best / ours.median,
                    by[BASE].median / ours.median)
            )  # fmt: skip
    return found


def spread(speeds: Sequence[float]) -> str:
    """Return how many are at least 1, the median and the least."""
    ahead = sum(x >= 1 for x in speeds) / len(speeds)
    return f"{ahead:.0%}, {digits(statistics.median(speeds))}, {digits(min(speeds))}"


def grid(drawn: Sequence[Point]) -> str:
    """Return how often, and by how much, we are ahead of the best of the others, or behind it."""
    body = []
    for of in sorted({(p.cell, p.dtype) for p in drawn}, reverse=True):
        own = [p for p in drawn if (p.cell, p.dtype) == of]
        found = [spread([p.prepared for p in own]), spread([p.plain for p in own])]
        least = digits(min(p.beside_torch for p in own))
        body.append([f"{of[0].upper()}, {of[1]}", str(len(own)), *found, least])
    header = (
        "calls",
        "prepared: at least as fast, median, worst",
        "not prepared",
        "prepared / torch, worst",
    )
    return markdown(("", *header), body)


def intel(change: str, names: tuple[str, str] = ("before", "after")) -> str:
    """Return a change's CPU times before and after on an Intel Xeon, of `bench.pairs`."""
    body = []
    for line in (RESULTS / "intel.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["change"] != change:
            continue
        T, B, _, H, _ = record["shape"]
        what = record.get("weights", record["mode"])
        times = [digits(1e3 * record[name]) for name in ("before", "after")]
        spread = f"{record['low']:.2f} to {record['high']:.2f}"
        body.append([f"{what}, T={T}, B={B}, H={H}", *times, f"{record['ratio']:.2f} ({spread})"])
    return markdown(("CPU ms", *names, "ratio (95%)"), body)


@dataclass(frozen=True)
class Comparison:
    """A row of README's table: what it says, and the records that it is made of."""

    says: str
    file: str
    case: str
    mode: str = "step"
    dtype: str = "float32"
    beside: str = BASE
    ours: str = OURS


# One machine's: faster.jsonl has `native` with memory kept, and `lanes`.
COMPARISONS = (
    Comparison("small", "faster", "small"),
    Comparison("medium", "faster", "medium"),
    Comparison("large", "faster", "large"),
    Comparison("medium, inference", "faster", "medium", "inference"),
    Comparison("medium, bfloat16", "faster", "medium", dtype="bfloat16"),
    Comparison("medium, a whole training step", "post", "medium", "train", beside="stock-cudnn"),
    Comparison(
        "rows of unequal length, T=100, B=32, H=256", "faster", "uniform, lengths, T=100, H=256"
    ),
    Comparison(
        "two directions, T=100, B=32, H=256, inference",
        "faster", "bidirectional, T=100, H=256", "inference",
    ),
    Comparison(
        "backward, loss on the last step, T=300, B=20, H=256",
        "last", "LSTM, T=300, B=20, H=256, L=2, last", "backward",
    ),
    Comparison("one step, B=1, H=650", "short", "T=1, H=650", "inference"),
    Comparison(
        "the same, weights packed once",
        "short", "T=1, H=650", "inference", beside="onnxruntime", ours=PREPARED,
    ),
    Comparison(
        "one step, B=1, H=1500, weights packed once",
        "short", "T=1, H=1500", "inference", beside="onnxruntime", ours=PREPARED,
    ),
    Comparison(
        "the same in bfloat16",
        "short", "T=1, H=1500", "inference", "bfloat16", "openvino", PREPARED,
    ),
)  # fmt: skip


def compared() -> list[tuple[Comparison, Row, Row]]:
    """Return each comparison with its two records: the other system's, and ours."""
    pairs = []
    for row in COMPARISONS:
        frame = results(f"{row.file}.jsonl")
        most = max(each(frame, "threads", case=row.case))
        fields = {"case": row.case, "mode": row.mode, "dtype": row.dtype, "threads": most}
        by = by_contender(frame, **fields)
        pairs.append((row, by[row.beside], by[row.ours]))
    return pairs


def faster() -> str:
    """Return cases in which native is faster than another system, and in which it is not."""
    body = []
    for row, beside, ours in compared():
        system = "nn.LSTM" if row.beside in (BASE, "stock-cudnn") else name(row.beside)
        times = (tail(of).partition(" / ")[0] for of in (beside, ours))  # p50, as in `calls`
        body.append([row.says, system, *times, factor(beside, ours)])
    return markdown(
        ("forward and backward", "compared with", "ms", "native, ms", "native's speed"), body
    )


# --- `bench last` ---


def last() -> str:
    """Return a backward with a loss on all steps and on the last, of nn.LSTM, nn.GRU and ours."""
    frame, body = results("last.jsonl"), []
    whole = [case.removesuffix(", all") for case in each(frame, "case") if case.endswith(", all")]
    for case, threads in product(whole, (1, 2)):
        row = [case, str(threads)]
        for dtype, label in product(("float32", "bfloat16"), (BASE, OURS)):
            by = [
                by_contender(frame, case=f"{case}, {loss}", threads=threads, dtype=dtype)[label]
                for loss in ("all", "last")
            ]
            row.append(" -> ".join(map(ms, by)))
        body.append(row)
    header = [
        f"{name}, {dtype}" for dtype in ("float32", "bfloat16") for name in ("torch.nn", "native")
    ]
    return markdown(("backward, ms: loss on all steps -> on the last", "threads", *header), body)


def last_intel() -> str:
    """Return the same on an Intel Xeon before operators flushed, and with flags set by hand."""
    found = json.loads((RESULTS / "last-intel.json").read_text(encoding="utf-8"))
    names = ("nn.LSTM", "native", "nn.GRU", "native GRU")
    body = [
        [f"{row['call']}{how}"]
        + [" -> ".join(map(digits, row[name])) if name in row else "-" for name in names]
        for how, rows in (("", found["rows"]), (", flushed", found["flushed"]))
        for row in rows
    ]
    return markdown(("backward, ms: loss on all steps -> on the last", *names), body)


def last_xeon() -> str:
    """Return the same on an Intel Xeon, of operators that keep denormal numbers and that flush."""
    frame, body = results("last-xeon.jsonl"), []
    whole = [case.removesuffix(", all") for case in each(frame, "case") if case.endswith(", all")]
    for case in whole:
        row = [case]
        for kind, label in (("keep", BASE), ("keep", OURS), ("flush", OURS)):
            by = [
                by_contender(frame, case=f"{case}, {loss}", denormals=kind)[label]
                for loss in ("all", "last")
            ]
            row.append(" -> ".join(map(ms, by)))
        body.append(row)
    header = "torch.nn", "native, denormals kept", "native"
    return markdown(("backward, ms: loss on all steps -> on the last", *header), body)


# --- `bench custom` ---


def custom() -> str:
    """Return cells told as functions: paper, lines, and the speed beside a loop."""
    frame, body = results("custom-intel.jsonl"), []
    shapes = list(dict.fromkeys(case.partition(", ")[2] for case in each(frame, "case")))
    for cell in dict.fromkeys(case.partition(", ")[0] for case in each(frame, "case")):
        function = zoo.ALL[cell].function
        paper = (function.__doc__ or "").removeprefix("Follow ").removesuffix(".")
        text = inspect.getsource(function).splitlines()
        lines = len([line for line in text if line.strip() and '"""' not in line])
        row = [f"`{cell}`", paper, str(lines)]
        for case, mode in product(shapes, ("inference", "step")):
            by = by_contender(frame, case=f"{cell}, {case}", mode=mode)
            row.append(f"{speedup(by['loop'], by['ours']).value:.1f}")
        body.append(row)
    names = [f"{case}: {mode}" for case in shapes for mode in ("forward", "both")]
    return markdown(("cell", "from", "lines", *names), body)


def custom_compiled() -> str:
    """Return torch.compile of the loop beside the fused layer, its first call too."""
    frame, body = results("custom-compiled-intel.jsonl"), []
    for case in each(frame, "case"):
        for mode in ("inference", "step"):
            by = by_contender(frame, case=case, mode=mode)
            if "compile" in by:
                times = [ms(by[label]) for label in ("loop", "compile", "ours")]
                ratio = f"{speedup(by['compile'], by['ours']).value:.1f}"
                firsts = [digits(by[label].first) for label in ("compile", "ours")]
                way = "forward" if mode == "inference" else "both"
                body.append([case, way, *times, ratio, *firsts])
    header = (
        "cell", "", "loop, ms", "torch.compile, ms", "fused, ms", "compiled / fused",
        "first call, s: compiled", "fused",
    )  # fmt: skip
    return markdown(header, body)


def custom_source() -> str:
    """Return the C++ of one cell, as it is generated."""
    return f"```cpp\n{zoo.lltm.source()}```\n"


def custom_triton() -> str:
    """Return the Triton functions of one cell, as they are generated."""
    return f"```python\n{zoo.lltm.source('triton')}```\n"


def custom_explained() -> str:
    """Return what `explain` says of one cell."""
    return f"```python\n{zoo.lltm.explained()}```\n"


# --- `bench cells`, `samples` ---


def cells() -> str:
    """Return what each cell takes, and that beside the others' times in the same rounds."""
    body: dict[str, list[str]] = {}
    frame = results("cells.jsonl")
    for size in SIZES[:2]:
        plain = by_contender(frame, case=size, mode="plain")["ours"]
        for kind in each(frame, "mode", case=size):
            by = by_contender(frame, case=size, mode=kind)
            other = "torch" if kind == "gru" else "keras"
            row = [ms(by["ours"]), f"{1 / speedup(plain, by['ours']).value:.2f}"]
            row += cells_of(by, "x loop ours", f"x {other} ours")
            body.setdefault(kind, [f"`{kind}`"]).extend(row)
    columns = product(SIZES[:2], (", ms", ": of plain", ": its loop", ": Keras or nn.GRU"))
    return markdown(("forward and backward", *map("".join, columns)), body.values())


def per_sample() -> str:
    """Return gradients by sample: what each takes, and that in times of an ordinary backward."""
    says = {
        "one backward": "one backward, which leaves the sum",
        "Opacus, ours": "`fused_lstm.opacus.LSTM`",
        "torch.func": "`torch.func`, with its forward",
        "Opacus, DPLSTM": "Opacus's `DPLSTM`",
    }
    frame = results("samples.jsonl")
    cases, body = each(frame, "case"), [[words] for words in says.values()]
    for (label, row), case in product(zip(says, body, strict=True), cases):
        by = by_contender(frame, case=case)
        row += [ms(by[label]), f"{speedup(by[label], by['one backward']).value:.2f}"]
    columns = product(cases, (", ms", ": of one backward"))
    return markdown(("32 samples", *map("".join, columns)), body)


def slstm() -> str:
    """Return how long a package's sLSTM cell takes converted, and its own times in that.

    A field has a figure for each number of threads, "-" without a record.
    """
    frame, body = results("slstm.jsonl"), []
    threads = sorted(each(frame, "threads"))
    keys = {(row.package, *row.shape.values(), row.heads): row.case for row in rows(frame)}
    for _, case in sorted(keys.items(), key=lambda item: (item[0][0] != "xlstm", item[0])):
        fields = []
        for mode in ("inference", "step"):
            of = [by_contender(frame, case=case, threads=n, mode=mode) for n in threads]
            for wanted in ("ms native", "x eager native", "x compiled native"):
                fields.append(" / ".join(cell(by, wanted) for by in of))
        body.append([case, *("-" if set(field) <= set("- /") else field for field in fields)])
    columns = product(("forward", "and backward"), ("native, ms", "eager", "compiled"))
    return markdown(("cell", *map(": ".join, columns)), body)


def compiled_heads() -> str:
    """Return what a head of an sLSTM compiles to; figures are forward / backward."""
    frame = pd.DataFrame(tool("compiled-heads.json"))
    body = []
    for (arch, dtype, K), own in frame.groupby(["arch", "dtype", "K"], sort=False):
        columns = ("registers", "spills", "instructions", "us")
        figures = (" / ".join(f"{value:,}" for value in own[column]) for column in columns)
        words = {"tf32": "TF32", "bf16": "bf16"}[str(dtype)]
        published = FLASHRNN if (arch, dtype, K) == ("sm_90", "bf16", 768) else "-"
        programs = " / ".join(map(str, own["programs"].unique()))
        body.append([str(arch), words, str(K), programs, *figures, published])
    header = ("card", "dtype", "K", "programs", "registers", "spills", "instructions")
    return markdown((*header, "us", "FlashRNN, us"), body)


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


def tool(file: str) -> Any:
    """Return a JSON file of another tool in bench/results."""
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


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


def cell_perplexity() -> str:
    """Return six epochs of `small` with other cells."""
    body = []
    for run, says in CELLS.items():
        speed = f"{tool(f'cells/{run}/summary.json')['words_per_second']:,.0f}"
        body.append([says, *(f"{p:.2f}" for p in perplexities(f"cells/{run}")), speed])
    on = cpu(tool("cells/plain/summary.json")["processor"])
    header = (f"`small` on Penn Treebank, six epochs, perplexity ({on})", "train", "valid", "test")
    return markdown((*header, "words/s, one thread"), body)


def slstm_perplexity() -> str:
    """Return the validation text's perplexity by epochs, with an sLSTM beside nn.LSTM's cell."""
    runs, epochs, body = {"plain": "nn.LSTM's", "slstm": "sLSTM, 4 heads"}, range(1, 7), []
    for run, says in runs.items():
        log = pd.read_csv(RESULTS / "cells" / run / "log.csv")
        valid = log[log["split"] == "valid"].set_index("epoch")["perplexity"]
        body.append([says, *(f"{valid[n]:.1f}" if n in valid.index else "-" for n in epochs)])
    return markdown(("`small`, valid", *(f"epoch {n}" for n in epochs)), body)


# --- docs/gpu.md: files of the inspector, the emulated GPU and bench.gpu.host ---


def published(forward: float, both: float, steps: int = 1024) -> str:
    """Return us per step, forward / backward, of published ms of all steps."""
    return f"{1e3 * forward / steps:.2f} / {1e3 * (both - forward) / steps:.2f}"


# Pöppel, Beck and Hochreiter 2024 (FlashRNN, arXiv 2412.07752): ms on an H100 of an LSTM in
# float16, one head of 768 units, 16 rows, 1024 steps: forward; forward and backward.
CUDNN = {("sm_90", 768): published(2.01, 5.19)}
FLASHRNN = published(4.87, 13.61)


def compiled() -> str:
    """Return what a layer's launches compile to; figures are forward / backward."""
    survey = {version: pd.DataFrame(rows) for version, rows in tool("compiled.json").items()}
    shapes = survey["3.9"][["arch", "hidden", "dtype"]].drop_duplicates()
    body = []
    for arch, hidden, dtype in shapes.itertuples(index=False):
        of: dict[str, list[Row]] = {}
        for version, frame in survey.items():
            same = (frame.arch == arch) & (frame.hidden == hidden) & (frame.dtype == dtype)
            of[version] = list(frame[same].itertuples(index=False))

        def pair(says: str, versions: Sequence[str] = ("3.9",), of: dict = of) -> list[str]:
            return [
                " / ".join(says.format(r=r, more="" if r.whole else "> ") for r in of.get(v, []))
                for v in versions
            ]

        own = [
            " / ".join("alone" if row.alone else str(row.programs) for row in of["3.9"]),
            *pair("{r.resident} of {r.tiles}"),
        ]
        for says in ("{r.registers}", "{r.spills}", "{r.instructions}", "{r.syncs}"):
            own.append("; ".join(dict.fromkeys(pair(says, ("3.9", "3.6")))))
        own += pair("{more}{r.us:.2f}", ("3.9", "3.6", "before"))
        words = {"fp32": "TF32", "bf16": "bf16", "fp16": "fp16"}[dtype]
        body.append([arch, str(hidden), words, *own, CUDNN.get((arch, hidden), "-")])
    header = ("card", "H", "dtype", "programs", "tiles resident", "registers", "spills")
    header += ("instructions", "syncs", "us, 3.9", "us, 3.6", "us before", "cuDNN")
    return markdown(header, body)


def kernel() -> str:
    """Return the forward kernel's source, as one lane of a plain LSTM compiles it."""
    return f"```python\n{page.plain_forward()}```\n"


def emulated() -> str:
    """Return what ran on the PTX machine, of both architectures and all dtypes.

    Errors and findings are under Triton 3.9 / 3.6.
    """
    frames = [pd.DataFrame(tool(f"ptx-{version}.json")["cases"]) for version in ("3.9", "3.6")]
    body = []
    for kernels in frames[0].kernels.unique():
        of = [frame[frame.kernels == kernels] for frame in frames]
        shapes = {f"{own.shapes.sum():,}" for own in of}
        errors = (f"{own.error.max():.0e}" for own in of)
        found = (f"in {own.dirty.sum()} shapes" if own.dirty.sum() else "none" for own in of)
        body.append([kernels, *(" / ".join(field) for field in (sorted(shapes), errors, found))])
    header = "kernels", "shapes, sm_80 and sm_90", "largest error, of what is allowed", "findings"
    return markdown(header, body)


def faults() -> str:
    """Return what the PTX machine made of the faults, by what its report has."""
    body = []
    for says, own in pd.DataFrame(tool("ptx-faults.json")["faults"]).groupby("says", sort=False):
        body.append([str(says), "; ".join(own.fault), f"{own.found.sum()} of {own.trials.sum()}"])
    return markdown(("the report, or why it has none", "faults", "found in"), body)


def host() -> str:
    """Return what an eager call costs beside its kernels."""
    body = []
    for what, own in tool("host.json").items():
        count, views = sum(own["calls"].values()), own["calls"].get("views", 0)
        us = (f"{own[key]:.0f}" if key in own else "-" for key in ("us", "before"))
        body.append([what.replace(" ", ", "), str(count), str(count - views), *us])
    return markdown(("operator", "ATen's calls", "of these no views", "us", "us before"), body)


TAILS = [Column(name(label), f"worst {label}") for label in INFERENCE if label != "openvino"]
WAYS = {"inference": "forward", "step": "both"}


def tails(n: int) -> Table:
    """Return the table of one-step calls on this many threads, with busy processes and without."""
    rows = (
        By("p50 / p99 / worst, ms", "case"), By("pause", "mode", pause),
        By("busy processes", "neighbours", count),
    )  # fmt: skip
    return Table("tail", rows, TAILS, {"threads": n})


def lanes(both: bool) -> Table:
    """Return the table of two directions, or of rows of unequal length."""
    figures = (*OURS_BESIDE, *(() if both else (f"us {OURS}",)))
    headings = ("nn.LSTM", "ratio", "us per token")
    columns = [
        Column(heading, figure, {"mode": mode})
        for mode, says in (("inference", "forward, ms"), ("step", "forward and backward, ms"))
        for heading, figure in zip((says, *headings), figures, strict=False)
    ]
    case = By("bidirectional" if both else "rows", "case",
        lambda case: case.removeprefix("bidirectional, "))  # fmt: skip
    return Table("lanes", [case], columns, {"bidirectional": both})


def native(mode: str) -> Table:
    """Return the table of only the LSTM in a mode; in the last column memory is kept."""
    rows = [By(SAYS[mode], "case", "{}, ms".format)]
    columns = [
        *(Column(name(label), f"ms {label}") for label in RUNGS),
        Column("layers, GF/s", f"GF/s {OURS}"),
        Column("layers / nn.LSTM", f"x {BASE} {OURS}"),
        Column("kept", f"x {BASE} {OURS}", file="native-kept"),
    ]
    return Table("native", rows, columns, {"mode": mode, "dtype": "float32"})


DATA = {
    "native_step": native("step"),
    "native_forward": native("inference"),
    "native_training": Table(
        "steps", [By("training step, words/s", "case")],
        [
            Column("step loop", "words/s stock-loop-none"),
            Column("nn.LSTM", "words/s stock-cudnn"),
            Column("native", f"words/s {OURS}"),
            Column("/ nn.LSTM", f"x stock-cudnn {OURS}"),
            Column("kept", f"x stock-cudnn {OURS}", file="steps-kept"),
            Column("/ loop", f"x stock-loop-none {OURS}"),
            Column("kept", f"x stock-loop-none {OURS}", file="steps-kept"),
        ],
        {"dtype": "float32"},
    ),
    "busy": Table(
        "busy", [By("call", "case"), By("busy processes", "neighbours", count)],
        [Column(f"{says}: p50, ms" if kind == "p50" else "p99, ms", f"{kind} {label}")
            for label, says in ((OURS, "native"), (BASE, "nn.LSTM")) for kind in ("p50", "p99")],
    ),
    "tails": tails(2),
    "tails_one": tails(1),
    "tails_before": Table(
        "tail-before", [By("pause", "mode", pause), By("busy processes", "neighbours", count)],
        [Column(f"{name(label)}, {tree}", f"worst {label}", {"tree": tree})
            for label in (OURS, PREPARED) for tree in ("before", "after")],
    ),
    "lanes_bidirectional": lanes(True),
    "lanes_packed": lanes(False),
    "adopted": Table(
        "adopted", [By("ms: theirs → ours", "case")],
        [Column(f"{says}, {threads(n)}", "to theirs ours", {"mode": mode, "threads": n})
            for n in (1, 2) for mode, says in WAYS.items()],
    ),
    "int8": Table(
        "int8", [By("p50, ms", "case")],
        [Column("nn.LSTM, float32", f"p50 {BASE}"),
            *(Column(says, f"error {label}") for label, says in BYTES.items())],
    ),
}  # fmt: skip
TABLES: dict[str, Callable[[], str]] = DATA | {
    "training": lambda: training(results("post.jsonl")),
    "training_parts": lambda: training_parts(results("post.jsonl")),
    "faster": faster,
    "last": last,
    "custom": custom,
    "custom_compiled": custom_compiled,
    "custom_source": custom_source,
    "custom_triton": custom_triton,
    "custom_explained": custom_explained,
    "last_intel": last_intel,
    "last_xeon": last_xeon,
    "peers": peers,
    "cells": cells,
    "slstm": slstm,
    "compiled_heads": compiled_heads,
    "slstm_perplexity": slstm_perplexity,
    "per_sample": per_sample,
    "perplexity": partial(perplexity, "small"),
    "perplexity_medium": partial(perplexity, "medium"),
    "cell_perplexity": cell_perplexity,
    "native_bfloat16": partial(bfloat16, "inference", "step"),
    "native_autocast": partial(bfloat16, "train"),
    "native_avx2": avx2,
    "growth_threads": lambda: growth(results("threads.jsonl")),
    "growth_sizes": lambda: growth(results("scaling.jsonl")),
    "short": lambda: calls(results("short.jsonl")),
    "packed_perplexity": packed_perplexity,
    "grid": lambda: grid(points(results("grid.jsonl"))),
    "intel_ahead": partial(intel, "ahead"),
    "intel_bf16": partial(intel, "bf16"),
    "intel_tf32": partial(intel, "tf32", ("float32", "two terms")),
    "intel_prepared": partial(intel, "prepared"),
    "compiled": compiled,
    "kernel": kernel,
    "emulated": emulated,
    "faults": faults,
    "host": host,
}
