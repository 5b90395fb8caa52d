"""`python -m bench.tables [--check]`: the tables of README and docs, from results files.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is one of TABLES. --check
changes nothing and says which tables are not what their files give.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from fused_lstm.tools import sass

from . import answer
from .contenders import BASE, LOOP, NAMES
from .core import Record, load, speedup

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
OURS = "native-layers"
RUNGS = (LOOP, "native-pointwise", "native-steps", OURS, BASE)
SIZES = ("small", "medium", "large")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns of figures are set right, the first is words."""
    rows = list(rows)
    figures = any(cell[:1].isdigit() for row in rows for cell in row[1:])
    rule = ["---", *["---:" if figures else "---"] * (len(header) - 1)]
    lines = (
        "| " + " | ".join(c.replace("|", r"\|") for c in row) + " |"
        for row in (header, rule, *rows)
    )
    return "\n".join(lines) + "\n"


class Results:
    """Records by what they are of."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def where(self, **fields: Any) -> Results:
        """Return those with these fields, of `extra` too."""

        def has(record: Record, field: str, value: Any) -> bool:
            return getattr(record, field, record.extra.get(field)) == value

        timed = (r for r in self if not r.why)
        return Results(r for r in timed if all(has(r, f, v) for f, v in fields.items()))

    def of(self, **fields: Any) -> dict[str, Record]:
        """Return those with these fields by their contender."""
        return {r.contender: r for r in self.where(**fields)}

    @property
    def cases(self) -> list[str]:
        """Return the cases in the order of the file."""
        return list(dict.fromkeys(r.case for r in self if not r.why))

    def by(self, *fields: str) -> dict[Any, Record]:
        """Return them by a field, or by a tuple of them."""

        def key(record: Record) -> Any:
            values = tuple(getattr(record, f, record.extra.get(f)) for f in fields)
            return values if len(values) > 1 else values[0]

        return {key(record): record for record in self}


@cache
def results(file: str) -> Results:
    """Return the records of a file in bench/results."""
    return Results(load(RESULTS / file))


def read(file: str) -> Any:
    """Return a JSON file of another tool in bench/results."""
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def factor(base: Record | None, other: Record | None) -> str:
    """Return how many times as fast `other` is, "-" where either is missing."""
    return str(speedup(base, other)) if base and other and base.seconds and other.seconds else "-"


def name(label: str, device: str = "cpu") -> str:
    """Return what a reader calls a contender."""
    if label == BASE:
        return f"nn.LSTM ({'cuDNN' if device.startswith('cuda') else 'oneDNN'})"
    return NAMES.get(label, label.replace("-", ": ", 1))


def digits(value: float) -> str:
    """Return three digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def ms(record: Record) -> str:
    """Return its median in milliseconds."""
    return digits(1000 * record.median)


# --- the post's table ---

POST = {"tensorflow": 3800, "tensorflow-xla": 3420, "stock-cudnn": 7400}  # words/s on a GTX 1080
FIRST = "tensorflow"


def systems(device: str = "cpu") -> dict[str, tuple[str, str]]:
    """Return the rows of the post's table: label -> what it is, and that for a narrow figure."""
    ours = "triton" if device.startswith("cuda") else "native"
    library = "cuDNN" if ours == "triton" else "oneDNN"
    return {
        FIRST: ("TensorFlow, step loop", "TensorFlow loop"),
        "tensorflow-xla": ("the same under XLA", "TensorFlow XLA"),
        "keras": ("TensorFlow, Keras LSTM", "Keras LSTM"),
        "jax": ("JAX, lax.scan", "JAX scan"),
        "stock-cudnn": (f"PyTorch, nn.LSTM: {library}", "nn.LSTM"),
        "stock-loop-none": ("PyTorch, step loop", "PyTorch loop"),
        f"stock-{ours}-pointwise": (f"+ pointwise ({ours})", "+ pointwise"),
        f"stock-{ours}-hoisted": (f"+ hoisted ({ours})", "+ hoisted"),
        f"stock-{ours}-steps": (f"+ steps ({ours})", "+ steps"),
        f"stock-{ours}-layers": (f"+ layers ({ours})", "+ layers"),
        f"{ours}-layers": ("+ our loss and update", "+ our loss"),
        "cudnn": ("nn.LSTM, our loss and update", "nn.LSTM, our loss"),
    }


def lstm_seconds(record: Record, rest: Record | None) -> float | None:
    """Return the LSTM's part of a training step, in seconds.

    It was taken inside the step where there are times of that, else it is a step's time less that
    of one without its LSTM.
    """
    if "lstm_seconds" in record.extra:
        return statistics.median(record.extra["lstm_seconds"])
    return None if rest is None else max(record.median - rest.median, 0.0)


def words_per_second(record: Record) -> float:
    """Return the words that a second of training reads."""
    return record.extra["tokens"] / record.median


def training(records: Results) -> str:
    """Return words per second of training of all systems, x TensorFlow's step loop."""
    records = records.where(suite="post")
    cases = records.cases
    rows = []
    for label, (says, _) in systems().items():
        row, record = [says, f"{POST[label]:,}" if label in POST else "-"], None
        for case in cases:
            train = records.where(case=case, mode="train").by("contender")
            record = train.get(label)
            speed = "-" if record is None else f"{words_per_second(record):,.0f}"
            to_first = factor(train.get(FIRST), record)
            row.append(speed if to_first == "-" else f"{speed} ({to_first})")
        rest = records.where(case=cases[-1], mode="rest").by("contender").get(label)
        seconds = record and lstm_seconds(record, rest)
        row.append(f"{seconds / record.median:.0%}" if record and seconds else "-")
        rows += [row] if set(row[2:]) != {"-"} else []
    return markdown(("words per second of training", "the post, GTX 1080", *cases,
        f"LSTM's share, {cases[-1]}"), rows)  # fmt: skip


def training_parts(records: Results) -> str:
    """Return milliseconds of a training step: its LSTM, and the rest."""
    records, rows = records.where(suite="post"), []
    cases = records.cases
    for label, (says, _) in systems().items():
        row = [says]
        for case in cases:
            by_mode = records.where(case=case, contender=label).by("mode")
            lstm = lstm_seconds(by_mode["train"], by_mode.get("rest")) if by_mode else None
            if lstm is None:
                row += ["-", "-"]
            else:
                row += [digits(1e3 * lstm), digits(1e3 * (by_mode["train"].median - lstm))]
        rows += [row] if set(row[1:]) != {"-"} else []
    return markdown(("ms", *(f"{case}: {p}" for case in cases for p in ("LSTM", "the rest"))), rows)


# --- rows of contenders that took turns ---


def cell(of: dict[str, Record], wanted: str) -> str:
    """Return one figure, "-" without a record: "ms LABEL", "GF/s LABEL", "us LABEL" a token,
    "words/s LABEL", or "x A B", how many times as fast as A that B is."""
    kind, *labels = wanted.split()
    if any(label not in of for label in labels):
        return "-"
    record = of[labels[-1]]
    if kind == "x":
        return factor(of[labels[0]], record)
    if kind == "ms":
        return ms(record)
    per_second = record.extra["flops" if kind == "GF/s" else "tokens"] / record.median
    if kind == "us":
        return digits(1e6 / per_second)
    return f"{per_second / 1e9:.0f}" if kind == "GF/s" else f"{per_second:,.0f}"


def cells_of(of: dict[str, Record], *wanted: str) -> list[str]:
    """Return figures of one group of contenders."""
    return [cell(of, each) for each in wanted]


OURS_BESIDE = (f"ms {OURS}", f"ms {BASE}", f"x {BASE} {OURS}")


def alone() -> str:
    """Return medians of forward and backward at the three presets."""
    sized = [results("lstm.jsonl").of(mode="step", case=size) for size in SIZES]
    rows = [[name(label), *(cell(of, f"ms {label}") for of in sized)] for label in RUNGS]
    return markdown(("ms, forward and backward", *SIZES), rows)


FUSES = {
    "tensorflow": "nothing",
    "tensorflow-xla": "pointwise",
    LOOP: "nothing",
    "compile": "pointwise, and autograd's bookkeeping",
    "keras": "nothing: a while loop, two products a step; on a GPU it is cuDNN's",
    "jax": "the input product by hand, pointwise by XLA",
    BASE: "all three",
}


def peers() -> str:
    """Return other systems on the small preset, and what each fuses."""
    of = results("peers.jsonl").of(mode="step", case="small")
    rows = [
        [name(label), *cells_of(of, f"ms {label}", f"x {BASE} {label}"), fuses]
        for label, fuses in FUSES.items()
    ]
    return markdown(("system", "ms", "nn.LSTM's speed x", "what it fuses"), rows)


def lanes(both: bool) -> str:
    """Return two directions, or rows of unequal length, forward alone and with the backward."""
    records = results("lanes.jsonl").where(bidirectional=both)
    wanted = OURS_BESIDE if both else (*OURS_BESIDE, f"us {OURS}")
    rows = []
    for case in records.cases:
        pair = (records.of(case=case, mode=mode) for mode in ("inference", "step"))
        figures = [figure for of in pair for figure in cells_of(of, *wanted)]
        rows.append([case.removeprefix("bidirectional, "), *figures])
    columns = ("nn.LSTM", "ratio", "us a token")[: len(wanted) - 1]
    says = "bidirectional" if both else "rows"
    return markdown((says, "forward, ms", *columns, "forward and backward, ms", *columns), rows)


SAYS = {
    "inference": "forward, no gradient",
    "step": "forward and backward",
    "train": "training step",
}


def native(mode: str) -> str:
    """Return milliseconds of the LSTM alone, and what they are in nn.LSTM's, memory kept too."""
    rows = []
    for size in SIZES:
        fresh, kept = (
            results(file).of(mode=mode, case=size, dtype="float32")
            for file in ("native.jsonl", "native-kept.jsonl")
        )
        wanted = (*(f"ms {label}" for label in RUNGS), f"GF/s {OURS}", f"x {BASE} {OURS}")
        rows.append([f"{size}, ms", *cells_of(fresh, *wanted), cell(kept, f"x {BASE} {OURS}")])
    columns = ("layers, GF/s", "layers / nn.LSTM", "kept")
    return markdown((SAYS[mode], *map(name, RUNGS), *columns), rows)


STOCK = ("stock-loop-none", "stock-cudnn", OURS)


def native_training() -> str:
    """Return words per second of whole training steps."""
    rows = []
    for size in SIZES:
        fresh, kept = (
            results(file).of(case=size, dtype="float32")
            for file in ("steps.jsonl", "steps-kept.jsonl")
        )
        ratios = [cell(of, f"x {b} {OURS}") for b in STOCK[1::-1] for of in (fresh, kept)]
        rows.append([size, *cells_of(fresh, *(f"words/s {label}" for label in STOCK)), *ratios])
    header = ("training step, words/s", "step loop", "nn.LSTM", "native")
    return markdown((*header, "/ nn.LSTM", "kept", "/ loop", "kept"), rows)


def bfloat16(*modes: str) -> str:
    """Return bfloat16 beside float32, each with nn.LSTM's."""
    rows = []
    for mode, size in product(modes, SIZES):
        train = mode == "train"
        records = results("steps.jsonl" if train else "native.jsonl").where(mode=mode, case=size)
        base = "stock-cudnn" if train else BASE
        wanted = f"ms {base}", f"ms {OURS}", f"x {base} {OURS}"
        types = ("bfloat16", "float32")
        cells = [c for dtype in types for c in cells_of(records.of(dtype=dtype), *wanted)]
        rows.append([f"{SAYS[mode]}, {size}", *cells])
    columns = product(("bfloat16", "float32"), ("nn.LSTM, ms", "native, ms", "ratio"))
    return markdown(("two threads", *map(": ".join, columns)), rows)


def avx2() -> str:
    """Return ratios to nn.LSTM, with their intervals, where everyone is kept to AVX2."""
    rows = []
    for mode in ("step", "inference", "train"):
        row = [SAYS[mode]]
        for size in SIZES:
            file = "steps-avx2.jsonl" if mode == "train" else "native-avx2.jsonl"
            of = results(file).of(mode=mode, case=size, dtype="float32")
            row += [ms(of[OURS]), speedup(of.get(BASE) or of["stock-cudnn"], of[OURS]).text]
        rows.append(row)
    columns = product(SIZES, ("native, ms", "nn.LSTM's speed"))
    return markdown(("AVX2 only", *map(": ".join, columns)), rows)


def growth(file: str) -> str:
    """Return how time grows, in milliseconds, GF/s and microseconds a token."""
    rows, records = [], results(file)
    for case, threads in dict.fromkeys((r.case, r.threads) for r in records):
        of = records.of(case=case, threads=threads)
        says = f"{case}, {threads} thread{'s' * (threads > 1)}" if case in SIZES else case
        wanted = f"ms {OURS}", f"GF/s {OURS}", f"us {OURS}", f"ms {BASE}", f"GF/s {BASE}"
        rows.append([says, *cells_of(of, *wanted, f"x {BASE} {OURS}")])
    return markdown(("", "native, ms", "GF/s", "us a token", "nn.LSTM, ms", "GF/s", "ratio"), rows)


def calls(records: Results) -> str:
    """Return forwards that keep nothing beside those who only infer."""
    labels = (OURS, BASE, "onnxruntime", "openvino")
    wanted = (*(f"ms {label}" for label in labels), f"x {BASE} {OURS}")
    rows = [
        [f"{dtype}, {case}", *cells_of(records.of(case=case, dtype=dtype), *wanted)]
        for dtype in dict.fromkeys(r.dtype for r in records)
        for case in records.where(dtype=dtype).cases
    ]
    return markdown(("ms", *map(name, labels), "nn.LSTM / native"), rows)


# What README shows of them: file, the case's name, mode, dtype, and native's rival.
FASTER = {
    "small": ("native-kept.jsonl", "small", "step", "float32", BASE),
    "medium": ("native-kept.jsonl", "medium", "step", "float32", BASE),
    "large": ("native-kept.jsonl", "large", "step", "float32", BASE),
    "medium, inference": ("native-kept.jsonl", "medium", "inference", "float32", BASE),
    "medium, bfloat16": ("native.jsonl", "medium", "step", "bfloat16", BASE),
    "medium, a whole training step": (
        "steps-kept.jsonl", "medium", "train", "float32", "stock-cudnn",
    ),
    "rows of unequal length, T=100, B=32, H=256": (
        "lanes.jsonl", "uniform, lengths, T=100, H=256", "step", "float32", BASE,
    ),
    "two directions, T=100, B=32, H=512, inference": (
        "lanes.jsonl", "bidirectional, T=100, H=512", "inference", "float32", BASE,
    ),
    "one step, B=1, H=650": ("short.jsonl", "T=1, H=650", "inference", "float32", BASE),
    "one step, B=1, H=1500": ("short.jsonl", "T=1, H=1500", "inference", "float32", "onnxruntime"),
    "one step, B=1, H=1500, bfloat16": (
        "short.jsonl", "T=1, H=1500", "inference", "bfloat16", "openvino",
    ),
}  # fmt: skip


def faster() -> str:
    """Return cases in which native is faster than another system, and in which it is not."""
    rows = []
    for says, (file, case, mode, dtype, other) in FASTER.items():
        of = results(file).of(case=case, mode=mode, dtype=dtype)
        beside = "nn.LSTM" if other in (BASE, "stock-cudnn") else name(other)
        rows.append([says, beside, *cells_of(of, f"ms {other}", f"ms {OURS}", f"x {other} {OURS}")])
    return markdown(("forward and backward", "beside", "ms", "native, ms", "native's speed"), rows)


# --- `bench parts`, `products`, `accuracy`, `cells`, `samples` ---


def parts() -> str:
    """Return a training step by what its operators are for, in milliseconds."""
    records = results("parts.jsonl")
    columns = list(product(SIZES, (OURS, "stock-cudnn")))
    sums = [0.0] * len(columns)
    rows = []
    for part in dict.fromkeys(r.mode for r in records):
        times = [1e3 * records.of(mode=part, case=c)[label].median for c, label in columns]
        sums = [a + b for a, b in zip(sums, times, strict=True)]
        rows += [[part, *(f"{t:.1f}" for t in times)]] if max(times) >= 0.05 else []
    rows.append(["all", *(f"{total:.1f}" for total in sums)])
    header = [f"{size}: {'native' if label == OURS else 'stock'}" for size, label in columns]
    return markdown(("ms", *header), rows)


def products(file: str) -> str:
    """Return GF/s of each product by itself, and the share of the best that there can be."""
    rows: dict[str, list[str]] = {}
    header: dict[str, None] = {}
    for r in results(file).where(threads=1):
        best, rate = r.extra["best_gflops"], r.extra["flops"] / r.median / 1e9
        header[f"{r.contender}, H={r.extra['shape']['H']} (best {best:.0f})"] = None
        rows.setdefault(r.mode, [r.mode]).append(f"{rate:.0f} ({rate / best:.0%})")
    return markdown(("GF/s, one thread", *header), rows.values())


SAME = ("inference", "bias_hh_l0.grad", "bias_hh_l1.grad")  # as another row


def errors(what: str, about: str = "") -> str:
    """Return the error of each result, in every way to hold numbers; of products by their depth."""
    own = [r for r in results("accuracy.jsonl") if r.extra["of"] == what and about in ("", r.case)]
    ways = list(dict.fromkeys(r.contender for r in own))
    rows: dict[str, dict[str, str]] = {}
    for r in own:
        key = r.case if what == "product" else r.mode
        rows.setdefault(key, {})[r.contender] = scientific(r.extra["rms"])
    lines = [
        [key, *(row.get(way, "-") for way in ways)] for key, row in rows.items() if key not in SAME
    ]
    return markdown(("depth" if what == "product" else "error of", *ways), lines)


def scientific(error: float) -> str:
    """Return two digits: 2.3e-7."""
    digit, power = f"{error:.1e}".split("e")
    return f"{digit}e{int(power)}"


def cells() -> str:
    """Return what each cell takes, and that beside the others' times in the same rounds."""
    rows: dict[str, list[str]] = {}
    for size in SIZES[:2]:
        records = results("cells.jsonl").where(case=size)
        plain = records.of(mode="plain")["ours"]
        for cell_name in dict.fromkeys(r.mode for r in records):
            of = records.of(mode=cell_name)
            row = [ms(of["ours"]), f"{1 / speedup(plain, of['ours']).value:.2f}"]
            row.append(cell(of, "x loop ours"))
            row.append(cell(of, f"x {'torch' if cell_name == 'gru' else 'keras'} ours"))
            rows.setdefault(cell_name, [f"`{cell_name}`"]).extend(row)
    columns = product(SIZES[:2], (", ms", ": of plain", ": its loop", ": Keras or nn.GRU"))
    return markdown(("forward and backward", *map("".join, columns)), rows.values())


def per_sample() -> str:
    """Return gradients by sample: what each takes, and that in times of an ordinary backward."""
    says = {
        "one backward": "one backward, which leaves the sum",
        "Opacus, ours": "`fused_lstm.opacus.LSTM`",
        "torch.func": "`torch.func`, with its forward",
        "Opacus, DPLSTM": "Opacus's `DPLSTM`",
    }
    records = results("samples.jsonl")
    rows = [[words] for words in says.values()]
    for (label, row), case in product(zip(says, rows, strict=True), records.cases):
        of = records.of(case=case)
        row += [ms(of[label]), f"{speedup(of[label], of['one backward']).value:.2f}"]
    columns = product(records.cases, (", ms", ": of one backward"))
    return markdown(("32 samples", *map("".join, columns)), rows)


# --- perplexities ---

# preset -> perplexity of the training, validation and test text, as TensorFlow's tutorial has it.
PUBLISHED = {"small": (37.99, 121.39, 115.91), "medium": (48.45, 86.16, 82.07)}
TRAINED = {
    "small": {
        "small-1": "seed 1",
        "small-2": "seed 2",
        "small-3": "seed 3",
        "small-1-two-threads": "seed 1, two threads",
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
    summary = read(f"{run}/summary.json")
    return [summary[f"{split}_perplexity"] for split in ("train", "valid", "test")]


def perplexity(preset: str) -> str:
    """Return each run of a preset to its end, and of `small` the mean of three seeds."""
    rows = [["the reference (TensorFlow's tutorial)", *(f"{p:.2f}" for p in PUBLISHED[preset])]]
    found = {run: perplexities(run) for run in TRAINED[preset]}
    for run, says in TRAINED[preset].items():
        rows.append([says, *(f"{p:.2f}" for p in found[run])])
    if preset == "small":
        seeds = list(zip(*(found[f"small-{seed}"] for seed in (1, 2, 3)), strict=True))
        spread = (f"{statistics.mean(p):.2f} ± {statistics.stdev(p):.2f}" for p in seeds)
        rows.insert(4, ["mean of the three ± standard deviation", *spread])
    return markdown((f"`{preset}` on Penn Treebank, perplexity", "train", "valid", "test"), rows)


def cell_perplexity() -> str:
    """Return six epochs of `small` with other cells."""
    rows = []
    for run, says in CELLS.items():
        speed = f"{read(f'cells/{run}/summary.json')['words_per_second']:,.0f}"
        rows.append([says, *(f"{p:.2f}" for p in perplexities(f"cells/{run}")), speed])
    header = ("`small` on Penn Treebank, six epochs, perplexity", "train", "valid", "test")
    return markdown((*header, "words/s, one thread"), rows)


# --- docs/gpu.md: files of the inspector, the emulated GPU and bench.gpu.host ---


def compiled() -> str:
    """Return registers, memory and instructions of each kernel of half precision."""
    rows = []
    for kind in ("steps", "layers"):
        for row in read(f"inspect-{kind}.json"):
            plan, loop = row["plan"], row["loop"]
            wanted = row["arch"] in ("sm_80", "sm_90") and plan["dtype"] == "bf16"
            if not wanted or plan["kind"] != kind:
                continue
            cores = ", ".join(f"{loop[c]} {c}" for c in sass.TENSOR_CORE if c in loop)
            shared = f"{row['shared_memory'] / 1024:.0f} of {row['shared_memory_limit'] / 1024:.0f}"
            facts = [plan["hidden"], kind, plan["direction"], plan["programs"]]
            facts += [f"{plan['resident_fraction']:.0%}", row["registers"], shared]
            facts += [f"{loop['spills']} / {row['whole']['spills']}", loop["instructions"], cores]
            rows.append([row["arch"], *map(str, facts), f"{row['cost']['floor_us']:.2f}"])
    header = ("card", "H", "kernel", "direction", "programs", "resident", "registers")
    header += ("shared, KiB", "spills: loop / all", "instructions in the loop", "tensor cores")
    return markdown((*header, "floor, us a step"), rows)


def emulated() -> str:
    """Return what ran on the PTX machine, of both architectures, by kernel, mode and dtype."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in read("ptx.json")["cases"]:
        groups.setdefault((row["kernels"], row["mode"], row["dtype"]), []).append(row)
    rows = []
    for key, own in groups.items():
        shapes, schedules, dirty = (
            sum(r[n] for r in own) for n in ("shapes", "schedules", "dirty")
        )
        error = max(row["error"] for row in own)
        finding = f"in {dirty} shapes" if dirty else "none"
        rows.append([*key, f"{shapes:,}", f"{schedules:,}", f"{error:.0e}", finding])
    header = ("kernels", "mode", "dtype", "shapes, sm_80 and sm_90", "schedules")
    return markdown((*header, "largest error, of what is allowed", "findings"), rows)


def faults() -> str:
    """Return what the PTX machine made of each fault."""
    rows = [
        [row["fault"], f"{row['found']} of {row['trials']}", row["says"]]
        for row in read("ptx-faults.json")["faults"]
    ]
    header = ("fault", "found in", "what the report has, or why it cannot be found")
    return markdown(header, rows)


def host() -> str:
    """Return what an eager call costs beside its kernels."""
    rows = []
    for what, own in read("host.json").items():
        count, views = sum(own["calls"].values()), own["calls"]["views"]
        rows.append([what.replace(" ", ", "), str(count), str(count - views), f"{own['us']:.0f}"])
    return markdown(("operator", "ATen's calls", "of these no views", "us"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "training": lambda: training(results("post.jsonl")),
    "training_parts": lambda: training_parts(results("post.jsonl")),
    "alone": alone,
    "faster": faster,
    "peers": peers,
    "lanes_bidirectional": partial(lanes, True),
    "lanes_packed": partial(lanes, False),
    "cells": cells,
    "per_sample": per_sample,
    "perplexity": partial(perplexity, "small"),
    "perplexity_medium": partial(perplexity, "medium"),
    "cell_perplexity": cell_perplexity,
    "native_step": partial(native, "step"),
    "native_forward": partial(native, "inference"),
    "native_training": native_training,
    "native_bfloat16": partial(bfloat16, "inference", "step"),
    "native_autocast": partial(bfloat16, "train"),
    "native_avx2": avx2,
    "growth_threads": partial(growth, "threads.jsonl"),
    "growth_sizes": partial(growth, "scaling.jsonl"),
    "short": lambda: calls(results("short.jsonl")),
    "parts": parts,
    "products": partial(products, "products.jsonl"),
    "products_bfloat16": partial(products, "products-bf16.jsonl"),
    "errors_float32": partial(errors, "lstm", "float32"),
    "errors_rounded": partial(errors, "lstm", "rounded first"),
    "errors_softmax": partial(errors, "softmax", "medium"),
    "errors_products": partial(errors, "product"),
    "compiled": compiled,
    "emulated": emulated,
    "faults": faults,
    "host": host,
}


def made(text: str) -> str:
    """Return `text` with every marked table as its results file gives it."""
    makers = TABLES | answer.BLOCKS
    return MARKED.sub(lambda match: f"{match[1]}{makers[match[2]]()}{match[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or compare them; return the exit status."""
    check, wrong = "--check" in arguments, 0
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if (new := made(text)) != text:
            wrong += 1
            if not check:
                path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {'is not what its files give' if check else 'made'}")
    return int(check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
