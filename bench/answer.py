"""The answer in words, tables and figures, from the ladder's results file.

    python -m bench.answer            # write the figures and the blocks of README and docs/why.md
    python -m bench.answer --check    # exit 1 where one of these is not what the file gives

A block stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is one of BLOCKS. Sentences
with a measured number are blocks too, so that no number is written by hand.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from . import answer_figures as figures
from . import core, ladder, model
from .cases import Shape
from .core import Ratio, Record, speedup
from .model import KINDS, Counts, Moved, Span

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "ladder.jsonl"
PAGES = (ROOT / "README.md", ROOT / "docs" / "why.md")
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SAYS = {
    "loop": "nothing: a launch for each operation, five products a step",
    "pointwise": "a cell's pointwise operations are one launch",
    "hoisted": "products that need no order in time are made once, for all steps",
    "steps": "all steps are one launch, recurrent weights packed once",
    "layers": "all layers are one launch",
}
NAMES = {"loop": "step loop"} | {fuse: f"+ {fuse}" for fuse in ladder.LEVELS}


@cache
def groups() -> dict[tuple[str, str, int], dict[str, Record]]:
    """Return the file's records: case, dtype and threads -> contender -> record."""
    found: dict[tuple[str, str, int], dict[str, Record]] = {}
    for record in core.load(FILE):
        found.setdefault((record.case, record.dtype, record.threads), {})[record.contender] = record
    return found


def sizes() -> list[str]:
    """Return the cases that were measured in float32 on one thread."""
    return [case for case, dtype, threads in groups() if (dtype, threads) == ("float32", 1)]


def climbed(case: str, dtype: str = "float32", threads: int = 1, suffix: str = "") -> list[Record]:
    """Return the five rungs of a group, from the loop upwards."""
    return ladder.ladder_of(list(groups()[case, dtype, threads].values()), suffix)


def gains(rungs: Sequence[Record]) -> list[Ratio]:
    """Return how many times as fast each rung is as the one above it in the table."""
    return [speedup(below, rung) for below, rung in itertools.pairwise(rungs)]


def counts(record: Record) -> Counts:
    """Return what the record's step consists of."""
    return Counts.of_facts(dict(record.extra))


def ms(seconds: float) -> str:
    """Return milliseconds to three digits."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def megabytes(count: float) -> str:
    """Return bytes as MB."""
    return f"{count / 1e6:,.0f}" if count >= 9.95e6 or not count else f"{count / 1e6:.1f}"


def span(of: Span, unit: float = 1e3) -> str:
    """Return milliseconds, as a range where there is one."""
    low, high = (f"{unit * seconds:.0f}" if unit * seconds >= 9.5 else f"{unit * seconds:.1f}"
        for seconds in of)  # fmt: skip
    return low if low == high else f"{low} to {high}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def wrapped(text: str, width: int = 100) -> str:
    """Return a paragraph in lines."""
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) + 1 > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line]) + "\n"


def times(gain: Ratio) -> str:
    """Return a factor in words, or that none was seen."""
    return f"{gain.value:.2f} times as fast" if gain.clear else "no faster that could be told apart"


# --- the post's card ---


@cache
def post() -> dict[str, dict[str, Span]]:
    """Return where the post's two systems spent their milliseconds."""
    large = at_large()
    return model.post_step(large["loop"], large["hoisted"])


@cache
def at_large() -> dict[str, Counts]:
    """Return what large's rungs consist of, which medium's say: their T, B and L are the same."""
    return {
        rung.contender: model.resized(
            counts(rung), Shape(**rung.extra["shape"]), model.LARGE,
            "none" if rung.contender == "loop" else rung.contender, 4,
        )
        for rung in climbed("medium")
    }  # fmt: skip


def total(of: Iterable[Span]) -> Span:
    """Return the sum of spans."""
    of = list(of)
    return Span(sum(s.low for s in of), sum(s.high for s in of))


WEIGHTS = ("weights", "gradients of weights")


def weights_between() -> Span:
    """Return the seconds between the two systems that weights and their gradients explain."""
    between = model.explained(post())
    return total(between[kind] for kind in WEIGHTS)


def gap() -> float:
    """Return the seconds between the post's two systems, a step."""
    loop, cudnn = model.post_seconds().values()
    return loop - cudnn


# --- sentences ---


def answer() -> str:
    """Return README's answer: three questions."""
    rungs = climbed("medium")
    by_fuse = dict(zip(ladder.LEVELS, gains(rungs), strict=True))
    whole, between = speedup(rungs[0], rungs[-1]), model.explained(post())
    moved = [
        sum(getattr(counts(rung), kind).total for kind in ("weights", "gradients")) / 1e9
        for rung in (rungs[0], rungs[-1])
    ]
    most = [f"{of.value:.2f} is `{fuse}`" for fuse, of in by_fuse.items() if _counts(of)]
    least = [f"`{fuse}`" for fuse, of in by_fuse.items() if not _counts(of)]
    why = (
        "**Why is a fused LSTM faster?** It moves less. A loop over time steps reads all weights"
        " again at every step, and at every step writes the gradient of all of them and adds it to"
        " a sum; a fused LSTM takes what needs no order in time out of the loop, as one large"
        " product before it and one after it (`hoisted`), and keeps the other weights packed and"
        f" near while it steps (`steps`): {moved[1]:.2f} GB of weights and gradients a training"
        f" step of the medium model, against {moved[0]:.1f}."
    )
    here = (
        f"**By how much here?** {whole.value:.2f} times ({whole.low:.2f} to {whole.high:.2f}), on"
        f" one core of {machine(rungs[0])}: {ms(rungs[0].median)} ms become"
        f" {ms(rungs[-1].median)}. Of that factor {listed(most)}; of {listed(least)} no"
        " gain of 5% was seen."
    )
    card = (
        "**Was it 2x on the GTX 1080 for the same reason?** Mostly, by arithmetic: nobody measured"
        f" inside. Of the {1e3 * gap():.1f} ms a step that TensorFlow's loop took longer than"
        " cuDNN, reading weights and summing their gradients step by step account for"
        f" {span(weights_between())} ms, launches for {span(between['launches'])} and intermediate"
        f" results for {span(between['intermediate results'])}."
    )
    return "\n".join(map(wrapped, (why, here, card)))


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _counts(gain: Ratio) -> bool:
    """Return whether a factor is worth naming: it was seen, and is 5% at least."""
    return gain.clear and gain.value >= 1.05


def machine(record: Record) -> str:
    """Return the machine's name in a sentence."""
    name = record.machine.partition(" (")[0].removesuffix(" Processor")
    family = re.search(r"family (\d+), model (\d+)", record.machine)
    models = {"25 17": "Zen 4", "26 2": "Zen 5"}
    zen = models.get(" ".join(family.groups())) if family else None
    return f"an {name}" + (f" ({zen})" if zen else "")


def measured_on() -> str:
    """Return when and on what the ladder was measured, and how well the model does."""
    first = climbed("medium")[0]
    errors = [ladder.predicted(r) / r.median for case in sizes() for r in climbed(case)]
    limits = first.extra["limits"]
    busy = max(r.foreign for of in groups().values() for r in of.values())
    return wrapped(
        f"Measured on {first.date[:10]} with torch {first.versions['torch']} on {machine(first)},"
        f" one thread, commit {first.commit.rstrip('+')}; other work took at most {busy:.0%} of the"
        f" machine. In that run a core's products reached {limits['flops'] / 1e9:.0f} GF/s, a copy"
        f" {limits['bandwidth'] / 1e9:.1f} GB/s read and written, and a launch cost"
        f" {1e6 * limits['launch']:.1f} us. The model gives {min(errors):.2f} to"
        f" {max(errors):.2f} of the measured time over the {len(errors)} rungs of"
        f" {' and '.join(sizes())}."
    )


def post_said() -> str:
    """Return what arithmetic says of the post's card."""
    steps, between = post(), model.explained(post())
    loop, cudnn = (total(of.values()) for of in steps.values())
    took = list(model.post_seconds().values())
    found = total(between.values())
    return wrapped(
        f"The post's step took {1e3 * took[0]:.1f} ms in TensorFlow and {1e3 * took[1]:.1f} with"
        f" cuDNN. The model finds {span(loop)} and {span(cudnn)} of these, and {span(found)} of the"
        f" {1e3 * gap():.1f} between them. {span(weights_between())} ms are weights and their"
        f" gradients: hoisting. Launches, which fusing pointwise work saves, are"
        f" {span(between['launches'])}. What it does not find in either is what it leaves out: that"
        " no product runs at the card's peak, least of all one with 20 rows, and what TensorFlow's"
        " scheduler does between two launches."
    )


def isa_said() -> str:
    """Return what the instruction set is worth."""
    new, old = climbed("medium"), climbed("medium", suffix=", avx2")
    worth = [
        f"{NAMES[rung.contender]} {speedup(before, rung).text}"
        for rung, before in zip(new, old, strict=True)
    ]
    shipped = groups()["medium", "float32", 1][ladder.TORCH_LOOP]
    return wrapped(
        "The instruction set is a bar of its own. AVX-512 over AVX2 at medium, the same code in the"
        f" same rounds: {listed(worth)}. PyTorch's own loop takes {ms(shipped.median)} ms and ours"
        f" {ms(old[0].median)} on AVX2: the same launches, another product kernel, and memory for"
        f" each gradient that malloc hands out anew; {speedup(shipped, old[0]).text}."
    )


# --- tables ---


def ladder_table(case: str = "medium") -> str:
    """Return a case's rungs, five columns."""
    rungs = climbed(case)
    rows = []
    for below, rung in zip((None, *rungs), rungs, strict=False):
        found = counts(rung)
        moved = found.weights.total + found.gradients.total
        gain = "" if below is None else speedup(below, rung).text
        rows.append([NAMES[rung.contender], f"{found.launches:,}", megabytes(moved),
            f"{ms(ladder.predicted(rung))} / {ms(rung.median)}", gain])  # fmt: skip
    header = ("fused so far", "launches", "weights and their gradients, MB", "ms: model / measured",
        "times as fast as the row above (95%)")  # fmt: skip
    return table(header, rows)


def counts_table(case: str = "medium") -> str:
    """Return what each rung of a case moves, read and written."""
    rows = []
    for rung in climbed(case):
        found = counts(rung)
        moved = [f"{megabytes(of.read)} / {megabytes(of.written)}"
            for of in (getattr(found, kind) for kind in KINDS)]  # fmt: skip
        rows.append([NAMES[rung.contender], f"{found.launches:,}", *moved])
    header = ("MB a training step, read / written", "launches", "weights", "gradients of weights",
        "intermediate results")  # fmt: skip
    return table(header, rows)


def everywhere() -> str:
    """Return every group's factors: what each fusion is worth there."""
    rows = []
    for case, dtype, threads in groups():
        rungs = climbed(case, dtype, threads)
        isa = "bfloat16" if dtype == "bfloat16" else "AVX-512"
        sets = [(isa, rungs)]
        if older := climbed(case, dtype, threads, ", avx2"):
            sets.append(("AVX2", older))
        for name, of in sets:
            core_s = f"{threads} core" + "s" * (threads > 1)
            gained = [str(gain) if gain.clear else "-" for gain in gains(of)]
            rows.append([f"{case}, {name}, {core_s}", f"{ms(of[0].median)} → {ms(of[-1].median)}",
                " · ".join(gained), speedup(of[0], of[-1]).text])  # fmt: skip
    header = (
        "case",
        "ms: loop → all fused",
        "pointwise · hoisted · steps · layers",
        "in all (95%)",
    )
    return table(header, rows)


def beside() -> str:
    """Return the loop as PyTorch ships it and nn.LSTM beside the ladder's two ends."""
    rows, names = [], ("loop, ours", "loop, torch.mm", "all fused", "nn.LSTM")
    for (case, dtype, threads), of in groups().items():
        rungs = climbed(case, dtype, threads)
        shipped = of.get(ladder.TORCH_LOOP)
        cells = [ms(r.median) if r else "the same"
            for r in (rungs[0], shipped, rungs[-1], of[ladder.NN])]  # fmt: skip
        rows.append([f"{case}, {dtype}, {threads} core" + "s" * (threads > 1), *cells])
    return table(("ms", *names), rows)


def post_table() -> str:
    """Return the milliseconds of the post's two systems, kind by kind."""
    (_, loop), (_, cudnn) = post().items()
    between = model.explained(post())
    rows = [[kind, span(loop[kind]), span(cudnn[kind]), span(between[kind])] for kind in loop]
    rows.append(
        ["found by the model", *(span(total(of.values())) for of in (loop, cudnn, between))]
    )
    took = list(model.post_seconds().values())
    rows.append(["the post's step", *(f"{1e3 * s:.1f}" for s in (*took, gap()))])
    return table(("ms a step, large, float32, by arithmetic", *post(), "between them"), rows)


def h100() -> dict[str, dict[str, float]]:
    """Return the model's seconds of large's LSTM on an H100, bfloat16: rung -> kind -> s."""
    limits = model.H100
    found = {}
    for name, of in at_large().items():
        half = (Moved(*(n // 2 for n in getattr(of, kind))) for kind in KINDS)
        seconds = limits.seconds(Counts(of.launches, of.flop, *half))
        # A layer's weights and a step's results stay in L2, where they are read from at its rate.
        for kind in ("weights", "intermediates"):
            seconds[kind] *= limits.bandwidth / model.H100_L2
        found[name] = seconds
    return found


def h100_table() -> str:
    """Return the same as a table, ms."""
    rows = []
    for name, seconds in h100().items():
        moved = sum(seconds[kind] for kind in KINDS)
        rows.append([NAMES[name], *(f"{1e3 * s:.2f}" for s in (seconds["products"], moved,
            seconds["launches"], sum(seconds.values())))])  # fmt: skip
    header = (
        "ms, large, bfloat16, by arithmetic",
        "products at the peak",
        "bytes",
        "launches",
        "sum",
    )
    return table(header, rows)


def floors() -> str:
    """Return what a step inside a launch takes on an H100 at least, from the compiled kernels."""
    found = {}
    for fuse in ("steps", "layers"):
        for row in json.loads((RESULTS / f"inspect-{fuse}.json").read_text(encoding="utf-8")):
            plan = row["plan"]
            if row["device"] == "H100" and plan["dtype"] == "bf16":
                found[fuse, plan["hidden"], plan["direction"]] = row["cost"]["floor_us"]
    T, _, _, _, L = model.LARGE
    ways = ("forward", "backward")
    large = [found["steps", 1500, way] for way in ways]
    one, wave = (found[fuse, 650, "forward"] for fuse in ("steps", "layers"))
    return wrapped(
        f"{large[0]:.2f} us forward and {large[1]:.2f} back at H = 1500, where all of R stays in"
        f" shared memory: {T * L * sum(large) / 1e3:.2f} ms for the {T} steps of {L} layers, which"
        " comes on top of the products before and after. At H = 650 a step of one layer takes"
        f" {one:.2f} us at least and a wave of two layers {wave:.2f}: {T * L} steps in turn are"
        f" {T * L * one:.0f} us, {T + L - 1} waves {(T + L - 1) * wave:.0f}. At H = 1500 two layers"
        " do not fit on the chip at once, and `layers` launches one after the other."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "answer": answer,
    "answer_ladder": ladder_table,
    "answer_measured": measured_on,
    "answer_counts": counts_table,
    "answer_everywhere": everywhere,
    "answer_beside": beside,
    "answer_isa": isa_said,
    "answer_post": post_table,
    "answer_post_said": post_said,
    "answer_h100": h100_table,
    "answer_floors": floors,
}
FIGURES: dict[str, Callable[[], str]] = {
    "ladder.svg": lambda: figures.ladder({"medium": climbed("medium")}, NAMES),
    "ladders.svg": lambda: figures.ladder({case: climbed(case) for case in sizes()}, NAMES),
    "post-card.svg": lambda: figures.post(post(), model.post_seconds()),
}


def made(text: str) -> str:
    """Return a page with every block of BLOCKS as the results file gives it."""

    def block(match: re.Match) -> str:
        make = BLOCKS.get(match[2])
        return match[0] if make is None else f"{match[1]}{make()}{match[3]}"

    return MARKED.sub(block, text)


def outdated() -> list[tuple[Path, str]]:
    """Return files that are not what the results file gives, each with what it should be."""
    pages = [(path, made(path.read_text(encoding="utf-8"))) for path in PAGES]
    drawn = [(RESULTS / name, make()) for name, make in FIGURES.items()]
    return [
        (path, text)
        for path, text in pages + drawn
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str]) -> int:
    """Write pages and figures, or compare them; return the exit status."""
    check, wrong = "--check" in arguments, outdated()
    for path, text in wrong:
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'is not what its file gives' if check else 'made'}")
    return int(check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
