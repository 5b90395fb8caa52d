"""Timed plans, in place of the plans that arithmetic chose, and a card's measured constants.

Where FUSED_LSTM_TUNED names a file that `python -m fused_lstm.tools.tune` has written, a shape's
first call looks there: by the card, Triton's version and these kernels' source. A shape without a
timed plan has one by arithmetic, on the constants that were measured on the card. Under
torch.use_deterministic_algorithms nothing is looked up, since plans differ in the order of sums.

The file is what to share: no checkpoint holds these plans, and no rank sends them to another. Ranks
that are to agree read one file; a run that is to resume on the same plans keeps it beside its
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .devices import Device
from .plan import Plan

VARIABLE = "FUSED_LSTM_TUNED"
TIMED = "timed"  # with which the reason of a timed plan begins
# What a timed plan may have another value of.
FIELDS = (
    "programs", "rows", "units", "own", "split", "row_groups", "warps", "block_b", "batch_blocks",
    "block_k", "chunks", "resident", "resident_ih", "ahead", "stages", "hold", "k_parts", "alone",
    "phase",
)  # fmt: skip
SHAPE = (
    "kind", "direction", "mode", "hidden", "batch", "layers", "projected", "dtype", "precision",
    "norm", "gates", "inner", "inside",
)  # fmt: skip


@cache
def place(name: str) -> str:
    """Return the key of a card's plans: another Triton or source has plans of its own."""
    import triton

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{name}, Triton {triton.__version__}, source {digest.hexdigest()[:12]}"


def key(plan: Plan) -> str:
    """Return the key of a shape's plan."""
    return " ".join(str(getattr(plan, name)) for name in SHAPE)


CONSTANTS = "constants"  # the key of what was measured of a card
MEASURED = "barrier_us", "l2_rate"  # the fields of Device that are


@cache
def table(path: str) -> dict[str, Any]:
    """Return a file's plans: place -> key -> fields."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _of_card(device: Device) -> dict[str, Any]:
    """Return what a file has of this card, or nothing."""
    path = os.environ.get(VARIABLE)
    if not path or torch.are_deterministic_algorithms_enabled():
        return {}
    return table(path).get(place(device.name), {})


def measured(device: Device) -> Device:
    """Return the card with the constants that were measured on it, where a file has them."""
    return replace(device, **_of_card(device).get(CONSTANTS, {}))


def of(chosen: Plan, device: Device) -> Plan:
    """Return the timed plan of the same shape, or the chosen one where there is none."""
    fields = _of_card(device).get(key(chosen))
    if fields is None:
        return chosen
    return replace(chosen, **fields["plan"], why=(f"{TIMED}: {fields['us']:.2f} us a step",))


def is_timed(plan: Plan) -> bool:
    """Return whether a plan is one that `of` has taken from a file."""
    return plan.why[0].startswith(TIMED)


def keep(path: Path, plan: Plan, device: Device, us: float) -> None:
    """Write a shape's timed plan into a file, and keep the file's other plans."""
    fields = {name: value for name, value in asdict(plan).items() if name in FIELDS}
    _write(path, device, key(plan), {"us": us, "plan": fields})


def keep_constants(path: Path, device: Device, found: dict[str, float]) -> None:
    """Write what measure.measured found on a card into a file, and keep the file's plans."""
    _write(path, device, CONSTANTS, {name: found[name] for name in MEASURED})


def _write(path: Path, device: Device, key: str, value: dict[str, Any]) -> None:
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows.setdefault(place(device.name), {})[key] = value
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table.cache_clear()
