"""Tables of docs/gpu.md and docs/cells.md: files of the inspector, the emulated GPU and host.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from fused_lstm.tools import page
from fused_lstm.triton import devices

from ..tables import Listing, Row, markdown, tool

CARDS = Listing(
    lambda: [*devices.DEVICES.values(), *devices.AMD.values()],
    {
        "card": lambda card: card.name,
        "architecture": lambda card: card.gfx or f"sm_{card.arch}",
        "shared memory of a program": lambda card: f"{card.smem // 1024} KiB",
        "L2": lambda card: f"{card.l2 / 1e6:.0f} MB",
    },
)


def published(forward: float, both: float, steps: int = 1024) -> str:
    """Return us per step, forward / backward, of published ms of all steps."""
    return f"{1e3 * forward / steps:.2f} / {1e3 * (both - forward) / steps:.2f}"


# Pöppel, Beck and Hochreiter 2024 (FlashRNN, arXiv 2412.07752): ms on an H100 of an LSTM in
# float16, one head of 768 units, 16 rows, 1024 steps: forward; forward and backward.
CUDNN = {("sm_90", 768): published(2.01, 5.19)}
FLASHRNN = published(4.87, 13.61)
DTYPES = {"fp32": "TF32", "tf32": "TF32", "bf16": "bf16", "fp16": "fp16"}


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
        body.append([arch, str(hidden), DTYPES[dtype], *own, CUDNN.get((arch, hidden), "-")])
    header = ("card", "H", "dtype", "programs", "tiles resident", "registers", "spills")
    header += ("instructions", "syncs", "us, 3.9", "us, 3.6", "us before", "cuDNN")
    return markdown(header, body)


def both(field: str) -> Callable[[Any], str]:
    """Return the format of a figure of forward / backward."""
    return lambda head: " / ".join(f"{value:,}" for value in head[1][field])


# The compiled kernels of a head of an sLSTM.
COMPILED_HEADS = Listing(
    lambda: pd.DataFrame(tool("compiled-heads.json")).groupby(["arch", "dtype", "K"], sort=False),
    {
        "card": lambda head: head[0][0],
        "dtype": lambda head: DTYPES[head[0][1]],
        "K": lambda head: str(head[0][2]),
        "programs": lambda head: " / ".join(map(str, head[1]["programs"].unique())),
        **{field: both(field) for field in ("registers", "spills", "instructions", "us")},
        "FlashRNN, us": lambda head: FLASHRNN if head[0] == ("sm_90", "bf16", 768) else "-",
    },
)


def emulated() -> list[list[pd.DataFrame]]:
    """Return the cases of each family of kernels on the PTX machine, under Triton 3.9 and 3.6."""
    frames = [pd.DataFrame(tool(f"ptx-{version}.json")["cases"]) for version in ("3.9", "3.6")]
    return [[f[f.kernels == kernels] for f in frames] for kernels in frames[0].kernels.unique()]


EMULATED = Listing(
    emulated,
    {
        "kernels": lambda runs: runs[0].kernels.iloc[0],
        "shapes, sm_80 and sm_90": lambda runs: " / ".join(
            dict.fromkeys(f"{run.shapes.sum():,}" for run in runs)),
        "largest error / allowed": lambda runs: " / ".join(
            f"{run.error.max():.0e}" for run in runs),
        "findings": lambda runs: " / ".join(
            f"in {run.dirty.sum()} shapes" if run.dirty.sum() else "none" for run in runs),
    },
)  # fmt: skip
FAULTS = Listing(  # put into kernels, by what the PTX machine reports
    lambda: pd.DataFrame(tool("ptx-faults.json")["faults"]).groupby("says", sort=False),
    {
        "the report": lambda group: str(group[0]),
        "faults": lambda group: "; ".join(group[1].fault),
        "found in": lambda group: f"{group[1].found.sum()} of {group[1].trials.sum()}",
    },
)
HOST = Listing(  # what an eager call costs in addition to its kernels
    lambda: tool("host.json").items(),
    {
        "operator": lambda call: call[0].replace(" ", ", "),
        "ATen's calls": lambda call: str(sum(call[1]["calls"].values())),
        "not views": lambda call: str(
            sum(n for kind, n in call[1]["calls"].items() if kind != "views")),
        "us": lambda call: f"{call[1]['us']:.0f}" if "us" in call[1] else "-",
        "us before": lambda call: f"{call[1]['before']:.0f}" if "before" in call[1] else "-",
    },
)  # fmt: skip


TABLES: dict[str, Callable[[], str]] = {
    "cards": CARDS,
    "compiled": compiled,
    "compiled_heads": COMPILED_HEADS,
    "kernel": lambda: f"```python\n{page.plain('forward')}```\n",
    "emulated": EMULATED,
    "faults": FAULTS,
    "host": HOST,
}
