"""Recognizes nn.LSTM's, nn.GRU's and nn.RNN's cells in a lowered step, by their values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any, NamedTuple

import torch

from ..call.spec import CELLS, Spec
from ..cells.gates import Gates


class Stock(NamedTuple):
    """A cell of the library's: its Spec, and our gates in the order of its rows."""

    spec: Spec
    layout: Gates


def stock_of(low: Any) -> Stock | None:
    """Return the library's cell that computes what a lowered step does, or None."""
    by = low.layout
    plain = low.has_r and not (low.inputs or low.products or low.vectors or low.extra)
    if not plain or low.units is not None:
        return None
    kinds = len(by.summed), len(by.of_x), len(by.of_h), len(low.order)
    of = {(4, 0, 0, 1): ["lstm"], (2, 1, 1, 1): ["gru"], (1, 0, 0, 0): ["rnn_tanh", "rnn_relu"]}
    if kinds[3] == 1 and (low.cell.is_h != (kinds[0] == 2)):
        return None
    rng = torch.Generator().manual_seed(0)
    draw = lambda: 2 * torch.randn(64, low.H, generator=rng, dtype=torch.float64)  # noqa: E731
    values, states = [draw() for _ in by.columns], [draw() for _ in low.order]
    expected = low.cell.step(values, states, [], None)
    for name in of.get(kinds, []):
        for order in orders(by):
            named = dict(zip(by.columns, values, strict=True))
            kind = CELLS[name].cell
            parts = [named[c] for c in order]
            got = kind.step(parts, states, [], None)
            if all(
                torch.allclose(a, b, rtol=1e-12, atol=1e-12)
                for a, b in zip((expected[0], *expected[1]), (got[0], *got[1]), strict=True)
            ):
                names = [by.names[k] for kind_of, k in order if kind_of == "gate"]
                names += [by.names[k] for kind_of, k in order if kind_of == "x"]
                names += [by.names[k] for kind_of, k in order if kind_of == "h"]
                if names != list(by.names) and low.is_one_weight():
                    return None  # to change the order would copy the weights at each call
                return Stock(Spec(name), Gates(tuple(names), by.x_only, by.h_only))
    return None


def orders(by: Gates) -> Iterator[list]:
    """Yield the columns of gates, as the engines have them, with sums in every order."""
    h = [c for c in by.columns if c[0] == "h"]
    x = [c for c in by.columns if c[0] == "x"]
    for sums in permutations([c for c in by.columns if c[0] == "gate"]):
        yield [*h, *sums, *x]
