"""The benchmark of both directions and of rows of unequal length."""

from __future__ import annotations

import pytest
import torch

from bench.alone import (
    FORMS,
    SENTENCES,
    SPREADS,
    Case,
    Local,
    Shape,
    expected,
    lengths_of,
    make_problem,
)
from bench.contenders import NN_LSTM, highest
from bench.measure.check import WrongAnswer, require_right
from bench.race import line_up
from bench.suite import time_alone
from tolerance import assert_close

SHAPE = Shape(7, 5, 6, 8, 2)
CPU = torch.device("cpu")
NATIVE = [c for c in highest() if c.engine == "native"]


@pytest.mark.parametrize("spread", SPREADS)
def test_lengths(spread):
    found = lengths_of(spread, 40, 1000, torch.Generator().manual_seed(0))
    assert (int(found.min()) >= 1, int(found.max())) == (True, 40)
    mean = {"equal": 40, "uniform": 20.5, "sentences": 20.5}[spread]
    assert abs(found.double().mean() - mean) < 1.5


def test_sentences_are_penn_treebanks(ptb):
    words = [len(line.split()) for line in (ptb / "ptb.train.txt").read_text().splitlines()]
    assert tuple(torch.tensor(words).bincount().tolist()[1:]) == SENTENCES


def test_rows_are_padded_to_the_longest():
    work = make_problem(Case(SHAPE._replace(T=82), spread="sentences", form="packed"), CPU)
    assert len(work.x) == len(work.dy) == int(work.lengths.max()) < 82


def test_a_tokens_time_stands_beside_another(monkeypatch):
    """Packed beside as many in equal rows, `lengths=` beside pack, run, pad; in one run."""
    ragged = Case(SHAPE, False, "uniform", "packed")
    race = line_up(make_problem(ragged, CPU), NATIVE)
    tokens = race.work.tokens
    equal = Case(SHAPE._replace(T=round(tokens / 5)), False, "equal", "packed")
    assert ragged.beside(tokens) == equal
    assert ragged._replace(form="lengths").beside(tokens) == ragged._replace(form="padded")
    assert equal.beside(tokens) is Case(SHAPE, True).beside(tokens) is None

    def timed(runner, mode):  # as if a token of the ragged rows took twice as long
        return lambda: runner.problem.tokens * (2.0 if runner.case == ragged else 1.0)

    monkeypatch.setattr(Local, "timed", timed)
    group = time_alone(race, "step", 0, least=2, most=2)
    facts = {"beside": str(equal), "token_to_beside": pytest.approx(2)}
    assert group.facts == {NATIVE[0].label: facts}
    assert group.samples == {NATIVE[0].label: [2.0 * tokens] * 2}
    race.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_native_computes_what_nn_lstm_does_in_every_form(form, bidirectional):
    spread = "equal" if form == "dense" else "uniform"
    work = make_problem(Case(SHAPE, bidirectional, spread, form), CPU)
    race = line_up(work, NATIVE)
    assert race.failed == {}
    assert len(race.time("step", 0, least=2, most=2)[NATIVE[0].label]) == 2
    assert work.tokens == int(work.lengths.sum())
    directions, read = 1 + bidirectional, SHAPE.I + (1 + bidirectional) * SHAPE.H  # by two layers
    per_token = directions * 2 * 4 * SHAPE.H * (read + 2 * SHAPE.H)
    assert work.flops("step") == 3 * per_token * work.tokens
    race.close()


def test_all_forms_are_one_problem():
    """nn.LSTM on padded rows, packed inside the call, gives what it gives on packed ones."""
    packed, padded = (make_problem(Case(SHAPE, True, "uniform", f), CPU) for f in FORMS[1:3])
    assert torch.equal(packed.lengths, padded.lengths)
    a, b = expected(packed), expected(padded)
    for name in ("h_n", "c_n", "weight_hh_l0.grad", "bias_ih_l1_reverse.grad"):
        assert_close(a[name], b[name], name)


def test_a_wrong_answer_is_refused():
    work = make_problem(Case(SHAPE, True), CPU)
    runner = Local(NN_LSTM, work)
    with torch.no_grad():
        runner.module.weight_hh_l1_reverse.mul_(0.9)
    with pytest.raises(WrongAnswer, match="differs from the reference's"):
        require_right("slow", runner.answer(), expected(work))
