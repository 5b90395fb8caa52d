"""fused_lstm.tools.page: source without the branches that constants do not take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fused_lstm.tools import page

SOURCE = """
def other(PLAN):
    pass


def kernel(x, PLAN):
    y = x + (2 * x if PLAN.TWICE else 0)
    if PLAN.FIRST:
        # said before
        y += 1
    elif PLAN.SECOND and not PLAN.FIRST:
        y += 2
    else:
        y += 3
    if x > 0 and PLAN.FIRST:
        if not PLAN.TWICE:
            y -= 1
    return y
"""

WHAT_IS_LEFT = {
    (False, False, False): ["y = x", "y += 3", "if x > 0 and PLAN.FIRST:", "    y -= 1"],
    (True, False, False): [
        "y = x + 2 * x", "y += 3", "if x > 0 and PLAN.FIRST:", "    pass",
    ],
    (False, True, True): [
        "y = x", "# said before", "y += 1", "if x > 0 and PLAN.FIRST:", "    y -= 1",
    ],
    (False, False, True): ["y = x", "y += 2", "if x > 0 and PLAN.FIRST:", "    y -= 1"],
}  # fmt: skip


@pytest.mark.parametrize("constants", WHAT_IS_LEFT, ids=str)
def test_what_is_left(constants):
    plan = SimpleNamespace(**dict(zip(("TWICE", "FIRST", "SECOND"), constants, strict=True)))
    _, *lines, last = page.specialised(SOURCE, "kernel", plan).splitlines()
    assert [line.removeprefix("    ") for line in lines] == WHAT_IS_LEFT[constants]
    assert last == "    return y"


def test_the_forward_is_a_page():
    text = page.plain("forward")
    assert "PLAN.CHAIN" not in text
    assert len(text.splitlines()) < 50
    assert text.index("product_of_h(") < text.index("CELL.step(") < text.index("hand_out(")


def test_the_backward_is_a_page():
    text = page.plain("backward")
    assert "PLAN.CHAIN" not in text
    assert len(text.splitlines()) < 60
    assert text.index("stored(") < text.index("dh_of(") < text.index("CELL.backward(")
    assert text.index("CELL.backward(") < text.index("send(")
