"""What the report says, in order, from the machine to what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import figures, style, table
from .compare import changes, differences, largest_ratio_change
from .contenders import BASE, LOOP
from .measured import Results, Row, find, gain
from .page import Block, Heading, Picture, Table, Text
from .work import MODES, SIZES


def pictures(blocks: Sequence[Block]) -> list[Picture]:
    """Those among the blocks that are files of their own."""
    return [block for block in blocks if isinstance(block, Picture)]


def tell(shown: Results, earlier: Sequence[Results]) -> tuple[str, list[Block]]:
    """The report's title and blocks."""
    title = f"Where the factor lies: LSTMs on {shown.machine['processor']}"
    blocks: list[Block] = [*_post(shown), *_machine(shown)]
    sections: list[tuple[str, str, Callable[[Results], list[Block]]]] = [
        ("The ladder", LADDER, _ladder),
        ("Forward, backward and inference", MODE, _modes),
        ("Other systems on the same work", PEERS, _peers),
        ("Where the time goes", TIME, _where),
        ("As the shape grows", SCALING, _scaling),
        ("How near the machine's limits", ROOFLINE, _roofline),
    ]
    for heading, says, section in sections:
        found = section(shown)
        if found:
            blocks += [Heading(heading), Text(says), *found]
    for before in earlier:
        blocks += _comparison(before, shown)
    return title, blocks + _not_measured(shown)


LADDER = (
    "Forward and backward of the LSTM alone, from the step loop through one fusion after another;"
    " the factor at a bar is its gain over the bar above it. The dashed line is nn.LSTM. All bars"
    " of a figure were timed in turn, round by round, after each answer had been checked against"
    " nn.LSTM's."
)
MODE = (
    "Inference keeps nothing for a backward pass; forward keeps it; backward is the gradient of"
    " input and weights alone; step is forward and backward. Peers run inference and step."
)
PEERS = (
    "Each library runs in a process of its own, on the same weights and input and with as many"
    " threads, and its outputs and gradients are checked against nn.LSTM's. The input products are"
    " in everybody's time."
)
TIME = (
    "By operator, from torch.profiler: products and pointwise work in launches of their own, both"
    " in one launch where they are fused, moving data, and what no launch accounts for: Python,"
    " autograd and the dispatcher. torch.compile's own kernels are not dispatched, so they are in"
    " that last part of its bar."
)
TRAINING = (
    "Words per second of training. The post timed its large model on a GPU; compare within a column"
    " only. All train the same model on the same words: embedding, dropout, two LSTM layers,"
    " dropout, softmax over 10,000 words, the preset's loss, the gradient clipped by its norm, SGD."
    " Before the timing three losses and the update of every weight are checked against float64."
    " The LSTM's share comes from timing a step without it, in the same rounds."
)
SCALING = (
    f"A step as one dimension grows from T={20}, B={20}, H={256}, L={2}; both axes are logarithmic,"
    " and the bars reach from the first quartile to the third."
)
ROOFLINE = (
    "Operations are the products'; bytes are the operands of all launches. A fused launch keeps its"
    " intermediate results to itself, which moves its point to the right. A point above the slope"
    " is served by caches, whose bandwidth is higher than that of the copy measured here;"
    " one above the flat roof has better products than torch.mm and oneDNN."
)


def _machine(results: Results) -> list[Block]:
    m = results.machine
    libraries = ", ".join(f"{name} {version}" for name, version in m["libraries"].items())
    rows = [
        ("processor", f"{m['processor']}, {m['memory_gib']} GiB, {m['isa']}"),
        ("threads", f"{m['threads']} on {m['cores']} cores"),
        ("system", f"{m['system']}, Python {m['python']}"),
        ("libraries", libraries),
        (
            "best product",
            f"{m['product_peak_gflops']:.0f} GF/s ({m['dtype']}, torch.mm or oneDNN, measured)",
        ),
        ("copy", f"{m['copy_bandwidth_gb_per_second']:.1f} GB/s read and written, measured"),
        ("date, commit", f"{results.date[:10]}, {results.commit[:10]}"),
    ]
    return [Heading("Machine"), Table(("", ""), rows)]


def _post(results: Results) -> list[Block]:
    """The post's table beside ours, and what it explains."""
    if not any(table.rows_of(results, size) for size in results.sizes("train")):
        return []
    caption = "A whole training step of the language model, the part of its LSTM apart."
    losses = [table.losses(results, size) for size in results.sizes("train")]
    return [
        Heading("The post's table beside ours"),
        Text(TRAINING),
        table.to_table(results),
        *map(Text, table.sentences(results)),
        *_picture("training", figures.training(results), caption),
        *losses,
    ]


def _ladder(results: Results) -> list[Block]:
    blocks: list[Block] = []
    for size in results.sizes("lstm"):
        rows = figures.rungs(results, size)
        blocks += _picture(f"ladder-{size}", figures.ladder(results, size), _says(rows, size))
    for size in results.sizes("lstm"):
        rows = figures.rungs(results, size)
        if rows:
            blocks.append(_table_of_rungs(rows, size))
    return blocks


def _says(rows: list[Row], size: str) -> str:
    loop, base = find(rows, LOOP), find(rows, BASE)
    own = [r for r in rows if r.is_own]
    if loop is None or base is None or not own:
        return f"The ladder at the {size} preset."
    return (
        f"{size.capitalize()} ({_shape(rows[0])}): nn.LSTM is {gain(loop, base):.2f}x as fast as"
        f" the loop, {own[-1].label} {gain(loop, own[-1]):.2f}x, which is"
        f" {gain(base, own[-1]):.2f}x nn.LSTM's speed."
    )


def _shape(row: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.info["shape"].items())


def _table_of_rungs(rows: list[Row], size: str) -> Table:
    base = find(rows, BASE)
    header = (
        "rung",
        "ms",
        "quartiles",
        "x nn.LSTM",
        "launches",
        "MB",
        "GF/s",
        "% of peak",
        "error",
    )
    lines = []
    for row in rows:
        q1, median, q3 = map(style.milliseconds, row.time)
        i = row.info
        moved = "-" if i.get("bytes") is None else f"{i['bytes'] / 1e6:,.1f}"
        lines.append(
            (
                style.name(row),
                median,
                f"{q1} to {q3}",
                f"{gain(base, row) or 0:.2f}",
                f"{i.get('launches', '-')}",
                moved,
                f"{i['gflops']:.0f}",
                f"{i['percent_of_product_peak']:.0f}",
                f"{i['max_error']:.0e}",
            )
        )
    return Table(header, lines, f"{size}: {_shape(rows[0])}, forward and backward")


def _modes(results: Results) -> list[Block]:
    """Milliseconds of every contender in every mode."""
    blocks: list[Block] = []
    for size in results.sizes("lstm"):
        rows = results.select("lstm", size=size)
        by_label = {r.label: r for r in rows}
        lines = []
        for label, row in by_label.items():
            found = [
                next((r for r in rows if (r.label, r.info["mode"]) == (label, m)), None)
                for m in MODES
            ]
            times = ["-" if r is None else style.milliseconds(r.time.median) for r in found]
            memory = max((r.info.get("peak_memory") or 0 for r in found if r), default=0)
            lines.append([style.name(row), *times, f"{memory / 1e6:,.1f}" if memory else "-"])
        header = ["", *(f"{mode}, ms" for mode in MODES), "memory, MB"]
        blocks.append(Table(header, lines, f"{size}: medians; memory is the most of any mode"))
    return blocks


def _peers(results: Results) -> list[Block]:
    caption = "All systems at the {} preset; the factor is the speed as a multiple of nn.LSTM's."
    return _each_size(results, "lstm", "peers", figures.peers, caption)


def _where(results: Results) -> list[Block]:
    caption = "Forward and backward at the {} preset, by kind of work."
    return _each_size(results, "lstm", "time", figures.where_time_goes, caption)


def _scaling(results: Results) -> list[Block]:
    return _picture(
        "scaling", figures.scaling(results), "Forward and backward, one dimension at a time."
    )


def _roofline(results: Results) -> list[Block]:
    caption = "Each engine's point at each preset, forward and backward."
    return _picture("roofline", figures.roofline(results), caption)


def _each_size(
    results: Results, suite: str, name: str, draw: Callable, caption: str
) -> list[Block]:
    blocks: list[Block] = []
    for size in results.sizes(suite):
        blocks += _picture(f"{name}-{size}", draw(results, size), caption.format(size))
    return blocks


def _picture(name: str, figure: object | None, caption: str) -> list[Block]:
    """No figure, no panel."""
    return [] if figure is None else [Picture(name, style.to_svg(figure, name), caption)]


def _comparison(before: Results, after: Results) -> list[Block]:
    found = changes(before, after)
    blocks: list[Block] = [Heading(f"{before.name} (before) and {after.name} (after)")]
    if not found:
        return [*blocks, Text("The two files have no case in common.")]
    blocks += [Text(f"Not the same: {line}.") for line in differences(before, after)]
    worst = largest_ratio_change(found)
    if worst is not None:
        blocks.append(
            Text(
                f"{len(found)} cases in both. The ratio against nn.LSTM that moved most is"
                f" {worst.after.label} in {worst.after.group}: {worst.ratio_before:.2f} before,"
                f" {worst.ratio_after:.2f} after, {100 * worst.ratio_change:.0f}% apart."
            )
        )
    lines = []
    for c in found:
        noise = f"{100 * c.before.noise:.0f}%, {100 * c.after.noise:.0f}%"
        verdict = ("faster" if c.factor > 1 else "slower") if c.beyond_noise else "within noise"
        lines.append(
            (
                f"{c.after.group}: {style.name(c.after)}",
                f"{style.milliseconds(c.before.time.median)}",
                f"{style.milliseconds(c.after.time.median)}",
                f"{c.factor:.2f}",
                noise,
                f"{c.ratio_before:.2f}",
                f"{c.ratio_after:.2f}",
                verdict,
            )
        )
    header = (
        "case",
        "before, ms",
        "after, ms",
        "x",
        "noise of each",
        "x nn.LSTM before",
        "after",
        "",
    )
    note = "Noise: half the distance of the quartiles. A change counts where quartile ranges part."
    return [*blocks, Table(header, lines, note)]


def _not_measured(results: Results) -> list[Block]:
    rows = sorted(results.not_measured.items())
    device = results.machine["device"]
    said = [] if device.startswith("cuda") else ["No GPU: nothing here says how fast a GPU is."]
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
