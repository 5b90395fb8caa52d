"""Count what a reader meets on the way of one call: `python -m bench.walk`.

Counted are the library's own Python files and functions of a second call, since the first one plans
and compiles. An entry is a change from one file to another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

import fused_lstm
from fused_lstm import zoo

HERE = str(Path(fused_lstm.__file__).parent)


class Walk(NamedTuple):
    """Count what a call enters."""

    files: int
    functions: int
    calls: int
    entries: int


def walk(call: Callable[[], Any]) -> Walk:
    """Return what the second of two calls enters."""
    call()
    entered: list[tuple[str, str]] = []

    def seen(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(HERE) and code.co_name[0] != "<":
            entered.append((code.co_filename, code.co_qualname))

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    files = [file for file, _ in entered]
    entries = sum(a != b for a, b in pairwise(files))
    return Walk(len(set(files)), len(set(entered)), len(entered), entries)


def training(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """Return a forward call of which autograd records the gradients."""
    return lambda: module(x)


def calls() -> dict[str, Callable[[], Any]]:
    """Return the calls that are walked, by name."""
    x, step = torch.randn(3, 2, 8), torch.randn(1, 1, 8)
    prepared = fused_lstm.prepare(torch.nn.LSTM(8, 8))
    stream = fused_lstm.Streaming(fused_lstm.LSTM(8, 8, engine="native"))
    inference = fused_lstm.LSTM(8, 8, engine="native")
    return {
        "LSTM of two layers, gradients": training(fused_lstm.LSTM(8, 8, 2, engine="native"), x),
        "LSTM, one step, inference": lambda: without_gradients(inference, step),
        "a cell of one's own, gradients": training(
            fused_lstm.Recurrent(zoo.gru_reset_before, 8, 8, engine="native"), x
        ),
        "sLSTM of two heads, gradients": training(
            fused_lstm.SLSTM(8, 8, num_heads=2, engine="native"), x
        ),
        "prepared, one step": lambda: prepared(step),
        "Streaming, one step": lambda: stream(step[0]),
    }


@torch.no_grad()
def without_gradients(module: torch.nn.Module, x: torch.Tensor) -> Any:
    """Call a module in inference."""
    return module(x)


def main() -> None:
    """Print a line for each call."""
    print(f"{'call':36} files functions calls entries")
    for name, call in calls().items():
        found = walk(call)
        print(f"{name:36} {found.files:5} {found.functions:9} {found.calls:5} {found.entries:7}")


if __name__ == "__main__":
    main()
