"""The model of a step: what it counts is what runs, and its times are what it counts."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench import ladder, model
from bench.cases import Case, Shape, make_problem
from bench.contenders import Contender
from bench.model import Limits, Span

# No size is another's: a tensor's shape says what it is.
SHAPE = Shape(5, 3, 11, 7, 2)
WEIGHTS = {(28, 11), (28, 7), (28, 18), (28, 14)}  # W, R, and both side by side, of either layer


class Watched(model.Traffic):
    """Adds up the bytes of operands that are shaped like weights, however they are turned."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.gradients = [0, 0], [0, 0]
        self.made: set[int] = set()  # ids of gradients; they are kept, so that no id comes twice
        self.kept: list[torch.Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if not model.works(function):
            return result
        tensors = [t for t in model.tensors((args, kwargs)) if is_weight(t)]
        for tensor in tensors:
            of = self.gradients if self._is_gradient(tensor) else self.weights
            of[0] += tensor.nbytes
        is_cat = function._schema.name == "aten::cat"
        for tensor in model.tensors(result):
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


def climber(fuse: str) -> ladder.Climber:
    engine = {"none": "loop", "hoisted": "loop"}.get(fuse, "native")
    rung = ladder.Rung(fuse, Contender(fuse, engine, fuse))
    return ladder.Climber(rung, make_problem(Case("odd", SHAPE)))


@pytest.mark.parametrize("fuse", ["none", "pointwise", "hoisted", "steps"])
def test_the_formulas_of_weights_are_what_a_step_moves(fuse):
    if fuse in ("pointwise", "steps"):
        needs_native()
    runner = climber(fuse)
    runner.step()
    with Watched() as seen:
        runner.step()
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
        problem = make_problem(Case("odd", SHAPE._replace(T=T)))
        runner = ladder.Climber(ladder.Rung("loop", Contender("loop", "loop", "none")), problem)
        runner.step()
        return model.traffic(runner.step).launches

    first, second, third = launches(4), launches(5), launches(6)
    assert third - second == second - first > 2 * 11  # two layers, eleven forward alone


def test_nothing_is_lost_between_the_kinds():
    runner = climber("hoisted")
    runner.step()
    seen = model.traffic(runner.step)
    found = model.counts(runner.step, SHAPE, "hoisted", 4)
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


def test_the_posts_difference_is_mostly_weights():
    """The arithmetic of the post's card, from counts of a step that are made here."""
    counted = {}
    for fuse in ("none", "hoisted"):
        launches, flop = 2100 if fuse == "none" else 280, model.LARGE.flops("step")
        rest = {"intermediates_read": 0, "intermediates_written": 0}
        rest |= {"launches": launches, "flop": flop}
        counted[fuse] = model.weight_bytes(model.LARGE, fuse, 4) | rest
    steps = model.post_step(counted["none"], counted["hoisted"])
    between = model.explained(steps)
    # 36 MB of R and of W, 320 GB/s, 70 steps: 2 reads, a write, and 1 to 3 of the sum's passes.
    once = 72e6 / 320e9
    least = 70 * once * (2 + 1 + 1) + 2 * once - (70 * once + 2 * once + 2 * once)
    assert between["weights"].low + between["gradients of weights"].low == pytest.approx(
        least, rel=0.03
    )
    assert between["launches"] == Span(pytest.approx(2e-6 * 1810), pytest.approx(10e-6 * 1810))
    assert sum(model.POST_SECONDS.values()) == pytest.approx(700 / 3800 + 700 / 7400)


def test_limits_are_this_machines():
    needs_native()
    limits = model.measure_limits(torch.float32)
    a = torch.randn(256, 256)
    seconds = min(model._seconds(partial(torch.mm, a, a)) for _ in range(5))
    assert limits.flops > 2 * 256**3 / seconds / 3  # of the same order as a product's rate
    assert 1e8 < limits.bandwidth < 1e13
    assert 1e-8 < limits.launch < 1e-3
