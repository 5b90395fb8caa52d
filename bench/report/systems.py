"""The post's own table: what it said in 2017, who stands for its rows here, and what that explains.

Words per second of training one language model. TensorFlow's step loop is 1 in every column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .markup import Table
from .results import LEVELS, Results, Row, find, gain

POST = {"tensorflow": 3800, "tensorflow-xla": 3420, "stock-cudnn": 7400}  # on a GTX 1080
FIRST = "tensorflow"


class Line(NamedTuple):
    """A row: the training contender with this label."""

    label: str
    says: str
    short: str  # for a figure that is read on a phone
    post: str = "not in it"
    ratio: str = ""


def own_engine(device: str) -> str:
    """Whose three fusions stand in the table."""
    return "triton" if device.startswith("cuda") else "native"


def lines(device: str) -> list[Line]:
    """All rows, from the top."""
    own, cuda = own_engine(device), device.startswith("cuda")
    keras = "cuDNN" if cuda else "a while loop"
    library = "cuDNN" if cuda else "oneDNN"
    found = [
        Line("tensorflow", "TensorFlow, step loop", "TF step loop"),
        Line("tensorflow-xla", "the same under XLA", "TF XLA"),
        Line("keras", f"TensorFlow, Keras LSTM: {keras}", "TF Keras", "not given"),
        Line("jax", "JAX, lax.scan", "JAX scan"),
        Line("stock-cudnn", f"PyTorch, nn.LSTM: {library}", "nn.LSTM"),
        Line("stock-loop-none", "PyTorch, step loop", "step loop"),
        Line(f"stock-{own}-pointwise", f"  + pointwise ({own})", "+ pointwise"),
        Line(f"stock-{own}-steps", f"  + steps ({own})", "+ steps"),
        Line(f"stock-{own}-layers", f"  + layers ({own})", "+ layers"),
        Line(f"{own}-layers", "  + our loss and update", "+ our loss"),
        Line("cudnn", "nn.LSTM, our loss and update", "nn.LSTM, ours"),
    ]
    for number, line in enumerate(found):
        if (speed := POST.get(line.label)) is not None:
            ratio = f"{speed / POST[FIRST]:.2f}"
            found[number] = line._replace(post=f"{speed:,}", ratio=ratio)
    return found


def why_missing(results: Results, label: str, size: str) -> str:
    """Why a cell is empty."""
    known = results.not_measured
    return known.get(f"{label}, {size}") or known.get(label) or "not in this run"


def rows_of(results: Results, size: str) -> dict[str, Row]:
    """The rows of the table that were measured at a size, by label, in the table's order.

    A file of an earlier version has steps whose LSTM was not taken apart: they are not in it.
    """
    measured = results.select("train", size=size)
    measured = [row for row in measured if "seconds_without_lstm" in row.info]
    found = {line.label: find(measured, line.label) for line in lines(results.machine["device"])}
    return {label: row for label, row in found.items() if row is not None}


def lstm_seconds(row: Row) -> float:
    """Of a training step: what it takes beyond one without its LSTM."""
    return max(row.time.median - row.info["seconds_without_lstm"], 0.0)


def cells(results: Results, label: str, size: str) -> tuple[str, str, str] | None:
    """Words per second, the ratio to TensorFlow's step loop and the LSTM's share; None: no row."""
    rows = rows_of(results, size)
    if (row := rows.get(label)) is None:
        return None
    ratio = f"{gain(rows[FIRST], row):.2f}" if FIRST in rows else "-"
    share = f"{100 * lstm_seconds(row) / row.time.median:.0f}%"
    return f"{row.info['tokens_per_second']:,.0f}", ratio, share


def to_table(results: Results) -> Table:
    """For a page: every cell filled, or a reason in it."""
    sizes = results.sizes("train")
    header = ["words per second of training", "the post, GTX 1080", "its ratio"]
    for size in sizes:
        header += [size, f"{size}, ratio", f"{size}, LSTM's share"]
    found = []
    for line in lines(results.machine["device"]):
        row = [line.says.strip(), line.post, line.ratio or "-"]
        for size in sizes:
            row += cells(results, line.label, size) or (
                why_missing(results, line.label, size), "-", "-",
            )  # fmt: skip
        found.append(row)
    return Table(header, found)


def to_text(results: Results) -> str:
    """For a terminal; a spread is half the distance of the quartiles."""
    sizes = results.sizes("train")
    top = f"{'':38}{'the post':>9}{'x TF':>6}"
    top += "".join(f"{size + ', words/s':>21}{'x TF':>7}{'LSTM':>6}" for size in sizes)
    found = [top]
    for line in lines(results.machine["device"]):
        parts = [_part(results, line.label, size) for size in sizes]
        said = "".join(dict.fromkeys(parts))  # a reason that is every size's, once
        found.append(f"{line.says:<38}{line.post:>9}{line.ratio:>6}{said}".rstrip())
    return "\n".join(found)


def _part(results: Results, label: str, size: str) -> str:
    taken = cells(results, label, size)
    if taken is None:
        return f"   {why_missing(results, label, size):<31}"
    noise = f"±{100 * rows_of(results, size)[label].noise:.0f}%"
    return f"{taken[0]:>15}{noise:>6}{taken[1]:>7}{taken[2]:>6}"


def losses(results: Results, size: str) -> Table:
    """What all computed before they were timed: six digits, side by side."""
    says = {line.label: line.says.strip() for line in lines(results.machine["device"])}
    found = []
    for label, row in rows_of(results, size).items():
        shown = [f"{loss:.5f}" for loss in row.info["losses"]]
        found.append([says[label], *shown, f"{row.info['max_error']:.0e}"])
    header = (f"loss, {size}", "step 1", "step 2", "step 3", "largest error of an update")
    return Table(header, found)


def explained(results: Results, size: str) -> str | None:
    """What the factor between the post's ends is made of here; None where an end is missing."""
    rows, own = rows_of(results, size), own_engine(results.machine["device"])
    first, post = rows.get(FIRST), rows.get("stock-cudnn")
    if first is None or post is None:
        return None
    whole, fast = first.time.median, post.time.median
    a, b = lstm_seconds(first), lstm_seconds(post)
    parts = [1000 * seconds for seconds in (whole, a, b, whole - a, fast - b)]
    said = (
        f"{size}: PyTorch with nn.LSTM trains {whole / fast:.2f}x as fast as TensorFlow's step loop"
        " (the post: 1.95). Of TensorFlow's {:.0f} ms a step {:.0f} are its LSTM, where nn.LSTM"
        " takes {:.0f}: that alone makes"
        f" {whole / (whole - a + b):.2f}x. The rest, softmax, loss and update, is"
        " {:.0f} ms there and {:.0f} in PyTorch."
    )
    return said.format(*parts) + _rungs(rows, own)


def _rungs(rows: dict[str, Row], own: str) -> str:
    """What each fusion adds to the step loop, in one program."""
    ladder = ["stock-loop-none", *(f"stock-{own}-{fuse}" for fuse in LEVELS[1:])]
    ladder.append(f"{own}-layers")
    if any(label not in rows for label in ladder):
        return ""
    names = ("pointwise", "steps", "layers", "our loss and update")
    pairs = zip(names, ladder, ladder[1:], strict=False)
    gains = ", ".join(f"{name} {gain(rows[a], rows[b]):.2f}x" for name, a, b in pairs)
    loop, top = rows[ladder[0]], rows[ladder[-1]]
    return (
        f" In PyTorch, whose own step loop is {gain(rows[FIRST], loop):.2f}x TensorFlow's, the"
        f" fusions add one after the other: {gains}; together {gain(loop, top):.2f}x."
    )


def sentences(results: Results) -> Sequence[str]:
    """One for each size that has all it takes."""
    return [said for size in results.sizes("train") if (said := explained(results, size))]
