"""What the report says, in order, from the answer to what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from ..alone import MODES, SIZES
from ..contenders import BASE, LOOP
from . import figures, style, systems
from .compare import comparison
from .markup import Block, Heading, Picture, Table, Text
from .results import Results, Row, find, gain


def pictures(blocks: Sequence[Block]) -> list[Picture]:
    """Those among the blocks that are files of their own."""
    return [block for block in blocks if isinstance(block, Picture)]


def tell(shown: Results, earlier: Sequence[Results]) -> tuple[str, list[Block]]:
    """The report's title and blocks."""
    title = f"Why is a fused LSTM faster? {shown.machine['processor']}"
    blocks: list[Block] = [Text(" ".join(answer(shown))), *(_post(shown) or _first_ladder(shown))]
    sections: list[tuple[str, str, Callable[[Results], list[Block]]]] = [
        ("The ladder: what each fusion removes", LADDER, _ladder),
        ("Other systems on the same work", PEERS, _peers),
        ("Where the time goes", TIME, _where),
        ("Forward, backward and inference", MODE, _modes),
        ("As the shape grows", SCALING, _scaling),
        ("How near the machine's limits", ROOFLINE, _roofline),
        ("What was checked before a training step was timed", CHECKED, _losses),
    ]
    for heading, says, section in sections:
        if found := section(shown):
            blocks += [Heading(heading), Text(says), *found]
    blocks += _machine(shown)
    for before in earlier:
        blocks += comparison(before, shown)
    return title, blocks + _not_measured(shown)


LADDER = (
    "A rung is one way to run the same LSTM, forward and backward, each with one fusion more than"
    " the rung above it: the step loop launches every operation by itself; `pointwise` makes all of"
    " a cell's pointwise operations one launch; `steps` makes all time steps of a layer one launch"
    " (a persistent one: it stays, its weights with it, until the last step); `layers` makes all"
    " layers one launch, in which a layer works on a step while the layer below it works on the"
    " next (a wave). The factor at a bar is to the bar above it, the dashed line is nn.LSTM. An"
    " operand is what a launch reads or writes: what a fused launch keeps to itself is none."
)
PEERS = (
    "Each library runs in a process of its own, on the same weights and input and with as many"
    " threads, and its outputs and gradients are checked against nn.LSTM's. The input products are"
    " in everybody's time."
)
TIME = (
    "By operator, from torch.profiler: products and pointwise work in launches of their own, both"
    " in one launch where they are fused, moving data, and overhead, which is what the same run"
    " took beyond its launches: Python, autograd and the dispatcher. torch.compile's own kernels"
    " are not dispatched, so they are in that last part of its bar."
)
MODE = (
    "Inference keeps nothing for a backward pass; forward keeps what the backward will read, the"
    " kept memory; backward is the gradient of input and weights alone; step is forward and"
    " backward. Peers run inference and step."
)
TRAINING = (
    "Words per second of training. The post timed its large model on a GPU; compare within a column"
    " only. All train the same model on the same words: embedding, dropout, two LSTM layers,"
    " dropout, softmax over 10,000 words, the preset's loss, the gradient clipped by its norm, SGD."
    " The LSTM's share comes from timing a step without it, in the same rounds."
)
CHECKED = (
    "The losses of the first three steps, which are to agree with the post's program in float64 to"
    " a unit of the sixth digit, and the largest error of any weight's update, relative to the"
    " largest number in it. The error of PyTorch's rows is that of its norm of the gradient."
)
SCALING = "A step as one dimension grows from T=20, B=20, H=256, L=2; both axes are logarithmic."
SCALING += " The bars reach from the first quartile to the third."
ROOFLINE = (
    "Operations are the products'; bytes are the operands of all launches. A fused launch keeps its"
    " intermediate results to itself, which moves its point to the right. A point above the slope"
    " is served by caches, whose bandwidth is higher than that of the copy measured here;"
    " one above the flat roof has better products than torch.mm and oneDNN."
)


# --- the answer ---


def answer(results: Results) -> list[str]:
    """Three sentences: the factor here, which fusion makes it, and what that is worth."""
    size = _answering(results)
    rows = results.ladder(size)
    loop, base, own = find(rows, LOOP), find(rows, BASE), [r for r in rows if r.is_own]
    said = []
    trained = systems.rows_of(results, size or next(iter(results.sizes("train")), ""))
    if (slow := trained.get(systems.FIRST)) and (fast := trained.get("stock-cudnn")):
        said.append(
            f"On this machine PyTorch with nn.LSTM trains the {slow.info['size']} language model"
            f" {gain(slow, fast):.2f} times as fast as TensorFlow's step loop (the post's GTX 1080:"
            " 1.95), and runs the LSTM in it"
            f" {systems.lstm_seconds(slow) / systems.lstm_seconds(fast):.2f} times as fast."
        )
    elif loop and base:
        said.append(
            f"On this machine nn.LSTM runs forward and backward {gain(loop, base):.2f} times as"
            f" fast as a step loop of the same LSTM ({size}, {loop.shape})."
        )
    if loop and base and own:
        steps = [(gain(a, b), a, b) for a, b in zip([loop, *own], own, strict=False)]
        most, above, rung = max(steps, key=lambda step: step[0])
        said.append(
            f"Most of what fusing is worth comes from `{rung.info['fuse']}`, which turns"
            f" {above.info.get('launches', '?')} launches into {rung.info.get('launches', '?')} and"
            f" is {most:.2f} times as fast as the rung above it."
        )
        said.append(
            f"With all three fusions the loop becomes {gain(loop, own[-1]):.2f} times as fast,"
            f" which is {gain(base, own[-1]):.2f} times nn.LSTM's speed on the LSTM alone."
        )
    return said or ["This run does not have what an answer takes: the step loop beside nn.LSTM."]


def _answering(results: Results) -> str:
    """The preset that answers: medium, where it was timed."""
    return next((s for s in ("medium", "large", "small") if s in results.sizes("lstm")), "")


def _first_ladder(results: Results) -> list[Block]:
    """The picture of a run without training steps."""
    size = _answering(results)
    caption = "The step loop, one fusion after another, and nn.LSTM (dashed)."
    return _picture("answer", figures.ladder(results, size), caption)


def _post(results: Results) -> list[Block]:
    """The post's table beside ours, and what it explains."""
    sizes = results.sizes("train")
    if not any(systems.rows_of(results, size) for size in sizes):
        return []
    caption = "A whole training step of the language model, the part of its LSTM apart."
    return [
        *_picture("training", figures.training(results), caption),
        Heading("The post's table beside ours"),
        Text(TRAINING),
        systems.to_table(results),
        *map(Text, systems.sentences(results)),
    ]


# --- sections ---


def _ladder(results: Results) -> list[Block]:
    sizes = [size for size in results.sizes("lstm") if results.ladder(size)]
    blocks: list[Block] = []
    trained = results.sizes("train", lambda r: "seconds_without_lstm" in r.info)
    on_top = None if trained else _answering(results)
    for size in sizes:
        if size == on_top:
            continue
        caption = f"The ladder at the {size} preset, {results.ladder(size)[0].shape}."
        blocks += _picture(f"ladder-{size}", figures.ladder(results, size), caption)
    return blocks + [_table_of_rungs(results.ladder(size), size) for size in sizes]


def _table_of_rungs(rows: list[Row], size: str) -> Table:
    header = ("rung", "ms", "quartiles", "x nn.LSTM", "launches", "operands, MB")
    header += ("removed: launches", "MB", "GF/s", "% of peak", "error")
    base, lines, above = find(rows, BASE), [], None
    for row in rows:
        q1, median, q3 = map(style.milliseconds, row.time)
        i, removed = row.info, ["-", "-"]
        if row.is_own and above is not None and None not in (i.get("bytes"), above.get("bytes")):
            removed = [f"{above['launches'] - i['launches']:,}"]
            removed.append(f"{(above['bytes'] - i['bytes']) / 1e6:,.1f}")
        moved = "-" if i.get("bytes") is None else f"{i['bytes'] / 1e6:,.1f}"
        line = [style.name(row), median, f"{q1} to {q3}", f"{gain(base, row) or 0:.2f}"]
        line += [f"{i.get('launches', '-')}", moved, *removed, f"{i['gflops']:.0f}"]
        lines.append([*line, f"{i['percent_of_product_peak']:.0f}", f"{i['max_error']:.0e}"])
        above = None if row.label == BASE else i
    return Table(header, lines, f"{size}: {rows[0].shape}, forward and backward")


def _modes(results: Results) -> list[Block]:
    """Milliseconds of every contender in every mode."""
    blocks: list[Block] = []
    for size in results.sizes("lstm"):
        rows = results.select("lstm", size=size)
        lines = []
        for label, row in {r.label: r for r in rows}.items():
            found = {r.info["mode"]: r for r in rows if r.label == label}
            times = [style.milliseconds(found[m].time.median) if m in found else "-" for m in MODES]
            memory = max(r.info.get("peak_memory") or 0 for r in found.values())
            lines.append([style.name(row), *times, f"{memory / 1e6:,.1f}" if memory else "-"])
        header = ["", *(f"{mode}, ms" for mode in MODES), "memory, MB"]
        blocks.append(Table(header, lines, f"{size}: medians; memory is the most of any mode"))
    return blocks


def _peers(results: Results) -> list[Block]:
    caption = "All systems at the {} preset; the factor is the speed as a multiple of nn.LSTM's."
    return _each_size(results, "peers", figures.peers, caption)


def _where(results: Results) -> list[Block]:
    caption = "Forward and backward at the {} preset, by kind of work."
    return _each_size(results, "time", figures.where_time_goes, caption)


def _each_size(results: Results, name: str, draw: Callable, caption: str) -> list[Block]:
    sizes = results.sizes("lstm")
    drawn = (_picture(f"{name}-{s}", draw(results, s), caption.format(s)) for s in sizes)
    return [block for blocks in drawn for block in blocks]


def _scaling(results: Results) -> list[Block]:
    caption = "Forward and backward, one dimension at a time."
    return _picture("scaling", figures.scaling(results), caption)


def _roofline(results: Results) -> list[Block]:
    caption = "Each engine's point at each preset, forward and backward."
    return _picture("roofline", figures.roofline(results), caption)


def _losses(results: Results) -> list[Block]:
    found = [systems.losses(results, size) for size in results.sizes("train")]
    return [table for table in found if table.rows]


def _picture(name: str, figure: Figure | None, caption: str) -> list[Block]:
    """No figure, no panel."""
    return [] if figure is None else [Picture(name, style.to_svg(figure, name), caption)]


def _machine(results: Results) -> list[Block]:
    m = results.machine
    libraries = ", ".join(f"{name} {version}" for name, version in m["libraries"].items())
    rows = [
        ("processor", f"{m['processor']}, {m['memory_gib']} GiB, {m['isa']}"),
        ("threads", f"{m['threads']} on {m['cores']} cores"),
        ("system", f"{m['system']}, Python {m['python']}"),
        ("libraries", libraries),
        ("date, commit", f"{results.date[:10]}, {results.commit[:10]}"),
    ]
    if "product_peak_gflops" in m:
        gflops, copy = m["product_peak_gflops"], m["copy_bandwidth_gb_per_second"]
        said = f"{gflops:.0f} GF/s ({m['dtype']}, torch.mm or oneDNN, measured)"
        rows[3:3] = [("best product", said)]
        rows[4:4] = [("copy", f"{copy:.1f} GB/s read and written, measured")]
    return [Heading("Machine"), Table(("", ""), rows)]


def _not_measured(results: Results) -> list[Block]:
    rows = sorted(results.not_measured.items())
    said = [] if results.on_gpu else ["No GPU: nothing here says how fast a GPU is."]
    asked = results.sizes("lstm")
    if absent := [size for size in SIZES if size not in asked]:
        said.append(f"Presets that this run left out: {', '.join(absent)}.")
    for size in asked:
        there = {r.label for r in results.select("lstm", size=size, mode="step")}
        anywhere = {r.label for r in results.rows if r.info["suite"] == "lstm"}
        if gone := sorted(anywhere - there):
            said.append(f"At the {size} preset not in this run: {', '.join(gone)}.")
    said.append(f"Only {results.machine['dtype']}, and one LSTM at a time: no batch of models.")
    blocks: list[Block] = [Heading("What was not measured"), Text(" ".join(said))]
    return blocks + ([Table(("contender", "why not"), rows)] if rows else [])
