"""The model of a step: what it counts is what runs, and its times are what it counts."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench import arithmetic, core, fusions, model
from bench.cases import Case, Shape
from bench.contenders import Contender
from bench.layers import make_problem
from bench.model import Limits
from fused_lstm.loops import ladder

# No size is another's: a tensor's shape says what it is.
SHAPE = Shape(5, 3, 11, 7, 2)
WEIGHTS = {(28, 11), (28, 7), (28, 18), (28, 14)}  # W, R, and both side by side, of either layer


class Watched(ladder.Traffic):
    """Adds up the bytes of operands that are shaped like weights, however they are turned."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.gradients = [0, 0], [0, 0]
        self.made: set[int] = set()  # ids of gradients; they are kept, so that no id comes twice
        self.kept: list[torch.Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if not ladder.works(function):
            return result
        tensors = [t for t in ladder.tensors((args, kwargs)) if is_weight(t)]
        for tensor in tensors:
            of = self.gradients if self._is_gradient(tensor) else self.weights
            of[0] += tensor.nbytes
        is_cat = function._schema.name == "aten::cat"
        for tensor in ladder.tensors(result):
            if is_weight(tensor):
                (self.weights if is_cat else self.gradients)[1] += tensor.nbytes
                if not is_cat:
                    self.made.add(tensor.untyped_storage().data_ptr())
                    self.kept.append(tensor)
        return result

    def _is_gradient(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.made


def is_weight(tensor: torch.Tensor) -> bool:
    return tuple(tensor.shape) in WEIGHTS or tuple(tensor.shape[::-1]) in WEIGHTS


def step_of(fuse: str, shape: Shape = SHAPE) -> core.Run:
    """Return a training step at a level, run once."""
    engine = {"none": "loop", "hoisted": "loop"}.get(fuse, "native")
    rung = fusions.Rung(fuse, Contender(fuse, engine, fuse))
    step = fusions.rung_call(rung, make_problem(Case("odd", shape))).modes["step"]
    step()
    return step


@pytest.mark.parametrize("fuse", ["none", "pointwise", "hoisted", "steps"])
def test_the_formulas_of_weights_are_what_a_step_moves(fuse):
    if fuse in ("pointwise", "steps"):
        needs_native()
    step = step_of(fuse)
    with Watched() as seen:
        step()
    assert model.weight_bytes(SHAPE, fuse, 4) == {
        "weights_read": seen.weights[0], "weights_written": seen.weights[1],
        "gradients_read": seen.gradients[0], "gradients_written": seen.gradients[1],
    }  # fmt: skip


def needs_native() -> None:
    from fused_lstm import native

    if (why := native.missing(torch.device("cpu"))) is not None:
        pytest.skip(f"native: {why}")


def test_a_step_of_the_loop_launches_as_much_at_every_step():
    def launches(T: int) -> int:
        return ladder.traffic(step_of("none", SHAPE._replace(T=T))).launches

    first, second, third = launches(4), launches(5), launches(6)
    assert third - second == second - first > 2 * 11  # two layers, eleven forward alone


def test_nothing_is_lost_between_the_kinds():
    step = step_of("hoisted")
    seen = ladder.traffic(step)
    found = model.counts(step, SHAPE, "hoisted", 4)
    assert sum(found[f"{kind}_read"] for kind in model.KINDS) == seen.read
    assert model.moved(found, *model.KINDS) == seen.read + seen.written


def test_a_time_is_products_and_bytes_and_launches():
    of = {"launches": 10, "flop": 2000, "weights_read": 30, "weights_written": 10,
        "gradients_read": 0, "gradients_written": 5, "intermediates_read": 2,
        "intermediates_written": 3}  # fmt: skip
    parts = Limits(1000.0, 10.0, 0.5).seconds(of)
    assert parts == {
        "products": 2.0, "weights": 4.0, "gradients": 0.5, "intermediates": 0.5, "launches": 5.0,
    }  # fmt: skip


def post_terms() -> dict[str, arithmetic.Term]:
    """Return the terms of the post's two steps, from counts that are made here."""
    counted = {}
    for fuse in ("none", "hoisted"):
        rest = {"intermediates_read": 9e8 if fuse == "none" else 7e8, "intermediates_written": 0}
        rest |= {"launches": 2170, "flop": 0}
        counted[fuse] = model.weight_bytes(arithmetic.LARGE, fuse, 4) | rest
    return {term.name: term for term in arithmetic.post_terms(counted["none"], counted["hoisted"])}


def test_the_posts_arithmetic_term_by_term():
    """Each amount written out: T = 35, B = 20, H = I = 1500, 2 layers, 10,000 words."""
    amounts = {name: list(term.amounts.values()) for name, term in post_terms().items()}
    each = 2 * 4 * 1500 * 1500 * 4  # bytes of W, and of R, of both layers
    assert amounts["products of the LSTM"][0].low == 6 * 35 * 20 * 4 * 1500 * 3000 * 2
    assert amounts["products of the softmax layer"][1].high == 6 * 35 * 20 * 1500 * 10_000
    # Both weights are joined once, and read at each of 35 steps, twice.
    assert amounts["weights"][0] == (2 * each * 72, 2 * each * 72)
    # R at each step, twice; W twice, or at 18 pairs of steps, twice.
    assert amounts["weights"][1] == (each * (70 + 2), each * (70 + 36))
    # 35 are written, 35 read, the sum of 3 written, and 4 times 8 more added to it.
    assert amounts["gradients of weights"][0].low == 2 * each * (35 + 35 + 1 + 4 * 2)
    assert amounts["gradients of weights"][1].low == 2 * each
    parameters = 2 * 15e6 + 2 * each / 4
    logits = 35 * 20 * 10_000
    assert amounts["softmax, clipping, update"][0] == tuple(
        4 * (3 * 15e6 + 6 * parameters + passes * logits) for passes in (6, 10)
    )
    assert [span.low for span in amounts["launches"]] == [2170, 4 * 70 + 10]


@pytest.mark.parametrize(("T", "sums"), [(2, 5), (8, 17), (9, 19), (16, 35), (35, 79)])
def test_gradients_are_added_eight_at_a_time(T, sums):
    """T are written and read; a first sum of at most nine, then eight more each time."""
    assert arithmetic.added_up(T) == sums


def test_the_posts_two_steps():
    """Sums at both ends, and what is between the systems under one assumption for both."""
    terms = list(post_terms().values())
    for who in arithmetic.POST_WORDS:
        flop = sum(t.amounts[who].low for t in terms if t.kind == "flop") / 8.87e12
        least, most = (
            sum(t.amounts[who][end] for t in terms if t.kind == "bytes") / 320e9 for end in (0, 1)
        )
        (starts,) = (t.amounts[who].low for t in terms if t.kind == "launches")
        low, high = arithmetic.post_span(terms, who)
        assert low == pytest.approx(max(flop, least))
        assert high == pytest.approx(flop + most / 0.7 + 10e-6 * starts)
        assert high < arithmetic.POST_SECONDS[who]  # the model leaves something over of each
    each = [arithmetic.terms_between([term]) for term in terms]
    whole = arithmetic.terms_between(terms)
    assert sum(span.low for span in each) <= whole.low <= whole.high
    assert whole.high <= sum(span.high for span in each)
    assert sum(arithmetic.POST_SECONDS.values()) == pytest.approx(700 / 3800 + 700 / 7400)


def test_limits_are_this_machines():
    needs_native()
    a, parts = torch.randn(256, 256), []
    for _ in range(5):  # where other work has the cores, one of the two may be slow
        limits = model.measure_limits(torch.float32)
        seconds = min(ladder.seconds_of(partial(torch.mm, a, a)) for _ in range(5))
        parts.append(limits.flops * seconds / 2 / 256**3)
        if parts[-1] > 1 / 3:  # of the same order as a product's rate
            break
    assert max(parts) > 1 / 3
    assert 1e8 < limits.bandwidth < 1e13
    assert 1e-8 < limits.launch < 1e-3
