"""The benchmark of both directions and of rows of unequal length."""

from __future__ import annotations

import pytest
import torch

from bench.check import WrongAnswer, require_right
from bench.contenders import BASE, highest
from bench.lanes import FORMS, SPREADS, Case, Tagger, expected, lengths_of, make_sentences
from bench.race import line_up
from bench.work import Shape

SHAPE = Shape(7, 5, 6, 8, 2)
CPU = torch.device("cpu")


@pytest.mark.parametrize("spread", SPREADS)
def test_lengths(spread):
    found = lengths_of(spread, 40, 1000, torch.Generator().manual_seed(0))
    assert (int(found.min()) >= 1, int(found.max())) == (True, 40)
    mean = {"equal": 40, "uniform": 20.5, "sentences": 14}[spread]
    assert abs(found.double().mean() - mean) < 1.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_native_computes_what_nn_lstm_does_in_every_form(form, bidirectional):
    spread = "equal" if form == "dense" else "uniform"
    work = make_sentences(Case(SHAPE, bidirectional, spread, form), CPU)
    native = next(c for c in highest() if c.engine == "native")
    race = line_up(work, [native])
    assert race.failed == {}
    assert len(race.time("step", 0, least=2, most=2)[native.label]) == 2
    assert work.tokens == int(work.lengths.sum())
    race.close()


def test_all_forms_are_one_problem():
    """nn.LSTM on padded rows, packed inside the call, gives what it gives on packed ones."""
    packed, padded = (make_sentences(Case(SHAPE, True, "uniform", f), CPU) for f in FORMS[1:])
    assert torch.equal(packed.lengths, padded.lengths)
    a, b = expected(packed), expected(padded)
    for name in ("h_n", "c_n", "weight_hh_l0.grad", "bias_ih_l1_reverse.grad"):
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_a_wrong_answer_is_refused():
    work = make_sentences(Case(SHAPE, True), CPU)
    runner = Tagger(next(c for c in highest() if c.label == BASE), work)
    with torch.no_grad():
        runner.module.weight_hh_l1_reverse.mul_(0.9)
    with pytest.raises(WrongAnswer, match="differs from the reference's"):
        require_right("slow", runner.answer(), expected(work))
