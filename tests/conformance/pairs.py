"""Choose few cases in which every two values that may stand together do stand together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

Axes = Mapping[str, Sequence]
May = Callable[[str, object, str, object], bool]
Cell = tuple[str, object]  # an axis and one of its values


def compatible(axes: Axes, may: May) -> dict[Cell, set[Cell]]:
    """Return which cells may stand beside each cell, in a case that has a value of every axis."""
    cells = list(dict.fromkeys((name, value) for name, values in axes.items() for value in values))
    bit = {cell: 1 << i for i, cell in enumerate(cells)}
    fits = dict.fromkeys(cells, 0)  # bits of cells
    for one, other in combinations(cells, 2):
        if one[0] != other[0] and may(*one, *other) and may(*other, *one):
            fits[one] |= bit[other]
            fits[other] |= bit[one]
    of_axis = {name: sum(bit[name, value] for value in {*axes[name]}) for name in axes}
    changed = True
    while changed:  # a third axis may have no value that stands beside both
        changed = False
        for one, other in combinations(cells, 2):
            both = fits[one] & fits[other]
            others = (of for name, of in of_axis.items() if name not in (one[0], other[0]))
            if fits[one] & bit[other] and not all(both & of for of in others):
                fits[one] &= ~bit[other]
                fits[other] &= ~bit[one]
                changed = True
    return {one: {other for other in cells if fits[one] & bit[other]} for one in cells}


def pairwise(lists: Sequence[Axes], may: May, seed: int = 0) -> list[dict[str, object]]:
    """Return cases that have every pair of values of two axes that `may` stand together.

    The choice is greedy and deterministic. A list's cases have only its values, and each has a pair
    that no case before has.

    Args:
        lists: axes by name, each with its values. Later lists have all values of earlier ones.
        may: (axis, value, other axis, its value) -> whether one case may have both; it is asked in
            both orders.
        seed: of the choice among values that are as good.
    """
    draw = random.Random(seed)
    cells = [(name, value) for name, values in lists[-1].items() for value in values]
    number = {cell: i for i, cell in enumerate(cells)}
    had = [0] * len(cells)  # bit j of had[i]: a case has cells i and j
    cases = []
    for axes in lists:
        beside = compatible(axes, may)
        fits = [sum(1 << number[other] for other in beside.get(cell, ())) for cell in cells]
        missing = [fits[i] & ~had[i] for i in range(len(cells))]
        options = {name: [number[name, value] for value in axes[name]] for name in axes}
        while any(missing):
            i = max(range(len(cells)), key=lambda i: missing[i].bit_count())
            j = draw.choice([j for j in range(len(cells)) if missing[i] >> j & 1])
            found = complete([i, j], cells, options, fits, missing, draw)
            for one, other in combinations(found or (i, j), 2):
                missing[one] &= ~(1 << other)
                missing[other] &= ~(1 << one)
            if found is not None:
                for one in found:
                    had[one] |= sum(1 << other for other in found)
                chosen = dict(cells[k] for k in found)
                cases.append({name: chosen[name] for name in axes})
    return cases


def complete(
    chosen: list[int],
    cells: Sequence[Cell],
    options: Mapping[str, list[int]],
    fits: Sequence[int],
    missing: Sequence[int],
    draw: random.Random,
) -> list[int] | None:
    """Choose a cell of every other axis, so that many pairs are missing ones; None: a dead end."""
    together, allowed = sum(1 << i for i in chosen), fits[chosen[0]] & fits[chosen[1]]
    left = [name for name in options if name not in {cells[i][0] for i in chosen}]
    while left:
        best, possible, most = "", [], -1
        for name in left:
            there = [i for i in options[name] if allowed >> i & 1]
            if not there:
                return None
            gain = max((missing[i] & together).bit_count() for i in there)
            if len(there) == 1 or gain > most:
                best, possible, most = name, there, gain
            if len(there) == 1:
                break
        gains = {
            i: ((missing[i] & together).bit_count(), (missing[i] & allowed).bit_count())
            for i in possible
        }
        largest = max(gains.values())
        pick = draw.choice([i for i in possible if gains[i] == largest])
        chosen = [*chosen, pick]
        left.remove(best)
        together |= 1 << pick
        allowed &= fits[pick]
    return chosen
