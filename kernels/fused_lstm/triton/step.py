"""A cell's step between two products, forward and backward: its parts, and what meets between them.

Names as in sweep.py; own is what added.load gives, whole what norm.py takes.
"""

from __future__ import annotations

import triton.language as tl

from . import norm, product
from .helper import helper


@helper
def forward(gates, acc, c, own, whole, mask, gates_at, CELL: tl.constexpr, PLAN: tl.constexpr):
    """Inputs' part of four gates, the product with w_hh, c -> activated gates, h, c_next."""
    if PLAN.HAS.NORM:
        gates = norm.add_product(gates, acc, whole, mask, gates_at, PLAN)
    else:
        gates = product.add_product(gates, acc, PLAN)
    gates, made, c = CELL.forward(gates, c, own, PLAN.HAS)
    if PLAN.HAS.NORM:
        made = norm.seen(made, whole, PLAN)
    return gates, CELL.output(gates, made), c


@helper
def backward(
    gates, c_prev, c, dh, dc, own, whole, at, mask, CELL: tl.constexpr, PLAN: tl.constexpr
):
    """Activated gates, c before and after, dh, dc -> gradients by the gates before activation, by
    their product with w_hh, and by c_prev.
    """
    made = CELL.made(gates, c_prev, c, own, PLAN.HAS)
    seen = made
    if PLAN.HAS.NORM:
        made, seen = norm.seen_again(made, whole, PLAN)
    do, dmade = CELL.output_backward(gates, seen, dh)
    if PLAN.HAS.NORM:
        dmade = norm.seen_backward(dmade, made, whole, at, mask, PLAN)
    gates, dc = CELL.backward(gates, c_prev, dc, do, dmade, own, PLAN.HAS)
    by_h = gates
    if PLAN.HAS.NORM:
        by_h = norm.product_backward(gates, whole, mask, PLAN)
    return gates, by_h, dc
