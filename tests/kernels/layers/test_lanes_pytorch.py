"""What PyTorch tests its own nn.LSTM with and for, and what a wrong argument is told."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import fused_lstm
from cases import assert_agree_on_pytorchs_inputs, rungs
from lanes import Case, make_inputs, make_modules
from tolerance import assert_close

every_top = pytest.mark.parametrize(("engine", "fuse"), rungs("compile", top=True))

# --- PyTorch's own inputs ---


# Triton's interpreter takes up to half a minute for 32 inputs, whose kinds are test_lanes.py's.
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", slow=("triton",)))
@pytest.mark.parametrize(
    ("dtype", "training"),
    [(torch.float64, True), (torch.float32, False)],
    ids=["float64-train", "float32-eval"],
)
def test_pytorchs_own_inputs(dtype, training, engine, fuse):
    of = nn.LSTM, fused_lstm.LSTM, dtype, training
    assert assert_agree_on_pytorchs_inputs(*of, engine, fuse) == 32


# --- what PyTorch's own tests of nn.LSTM check beyond values ---


@every_top
def test_packed_input_is_the_same_batch_first_or_not(engine, fuse):
    """batch_first is about padded tensors: a PackedSequence has neither order."""
    options = {"bidirectional": True, "engine": engine, "fuse": fuse}
    first, second = (fused_lstm.LSTM(3, 4, batch_first=b, **options) for b in (False, True))
    second.load_state_dict(first.state_dict())
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    (a, state_a), (b, state_b) = first(packed), second(packed)
    for found, wanted in zip((b.data, *state_b), (a.data, *state_a), strict=True):
        assert torch.equal(found, wanted)


@every_top
def test_a_packed_result_has_its_inputs_indices(engine, fuse):
    sequences = [torch.randn(2, 3), torch.randn(4, 3), torch.randn(3, 3)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    y, _ = fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)(packed)
    assert type(y) is PackedSequence
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(y, name), getattr(packed, name)), name


STATES = {
    "h-lanes": ((3, 3, 2), (4, 3, 5), r"h_0: got shape \[3, 3, 2\]; expected \[4, 3, 2\]"),
    "h-size": ((4, 3, 5), (4, 3, 5), r"h_0: got shape \[4, 3, 5\]; expected \[4, 3, 2\]"),
    "c-size": ((4, 3, 2), (4, 3, 2), r"c_0: got shape \[4, 3, 2\]; expected \[4, 3, 5\]"),
    "h-batch": ((4, 2, 2), (4, 3, 5), r"h_0: got shape \[4, 2, 2\]; expected \[4, 3, 2\]"),
    "both-batch": ((4, 2, 2), (4, 2, 5), r"h_0: got shape \[4, 2, 2\]; expected \[4, 3, 2\]"),
    "c-batch": ((4, 3, 2), (4, 1, 5), r"c_0: got shape \[4, 1, 5\]; expected \[4, 3, 5\]"),
    "c-rank": ((4, 3, 2), (4, 5), r"c_0: got shape \[4, 5\]; expected \[4, 3, 5\]"),
}


@pytest.mark.parametrize(  # the check is above all engines, and PyTorch has its own
    ("engine", "fuse"), rungs("compile", "loop", "triton", top=True)
)
@pytest.mark.parametrize("kind", ["plain", "packed", "batch-first"])
@pytest.mark.parametrize(("h", "c", "message"), STATES.values(), ids=STATES)
def test_states_of_wrong_shape(h, c, message, kind, engine, fuse):
    options = {"proj_size": 2, "bidirectional": True, "batch_first": kind == "batch-first"}
    module = fused_lstm.LSTM(3, 5, 2, engine=engine, fuse=fuse, **options)
    x = torch.randn((3, 4, 3) if kind == "batch-first" else (4, 3, 3))
    if kind == "packed":
        x = pack_padded_sequence(x, torch.tensor([4, 4, 4]))
    with pytest.raises(ValueError, match=message):
        module(x, (torch.zeros(h), torch.zeros(c)))


@every_top
def test_states_that_are_not_contiguous(engine, fuse):
    theirs, ours = make_modules(Case(bidirectional=True, proj_size=2), engine, fuse, torch.float64)
    given = make_inputs(Case(bidirectional=True, proj_size=2), torch.float64)
    strided = (torch.stack([t, t], -1)[..., 0] for t in given[1:3])
    transposed = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in given[1:3])
    y, _ = theirs(given.x, given[1:3])
    for state in (tuple(strided), tuple(transposed)):
        assert not any(t.is_contiguous() for t in state)
        assert_close(ours(given.x, state)[0], y, "y")


@every_top
def test_weights_are_shared(engine, fuse):
    """One Parameter in both directions, and in two modules: its gradient is the sum."""
    found = []
    for make in (nn.LSTM, lambda *a, **k: fused_lstm.LSTM(*a, engine=engine, fuse=fuse, **k)):
        torch.manual_seed(5)
        first = make(3, 4, bidirectional=True, dtype=torch.float64)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            setattr(first, name + "_reverse", getattr(first, name))
        second = copy.deepcopy(first)
        second.weight_hh_l0 = first.weight_hh_l0
        x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 2, 3)
        (first(x)[0].sin() + second(x)[0].cos()).sum().backward()
        found.append([p.grad for p in (*first.parameters(), *second.parameters())])
    assert len(found[0]) == len(found[1])
    for actual, wanted in zip(*reversed(found), strict=True):
        assert_close(actual, wanted, "gradient")


@every_top
def test_cudnns_weight_format(engine, fuse):
    """flatten_parameters, and weights that are views of one buffer, as it makes them on a GPU."""
    theirs, ours = make_modules(Case(bidirectional=True), engine, fuse, torch.float64)
    given = make_inputs(Case(bidirectional=True), torch.float64)
    flat = torch.cat([p.detach().flatten() for p in ours.parameters()])
    at = 0
    for p in ours.parameters():
        p.data = flat[at : at + p.numel()].view(p.shape)
        at += p.numel()
    ours.flatten_parameters()
    ours.double()
    assert_close(ours(given.x)[0], theirs(given.x)[0], "y")


# --- errors ---

NOT_LENGTHS = {
    "rank": (torch.ones(3, 1, dtype=torch.int64), r"lengths: got shape \[3, 1\]; expected \[3\]"),
    "size": (torch.ones(2, dtype=torch.int64), r"lengths: got shape \[2\]; expected \[3\]"),
    "dtype": (torch.ones(3), r"lengths: got torch.float32; expected torch.int64"),
    "type": ([1, 2, 3], r"lengths: got list; expected a tensor"),
    "zero": (torch.tensor([4, 0, 1]), r"lengths: got 0; expected 1 to T = 4"),
    "long": (torch.tensor([4, 5, 1]), r"lengths: got 5; expected 1 to T = 4"),
}


@pytest.mark.parametrize(("lengths", "message"), NOT_LENGTHS.values(), ids=NOT_LENGTHS)
@every_top
def test_lengths_that_are_none(lengths, message, engine, fuse):
    module = fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)
    with pytest.raises(ValueError, match=message):
        module(torch.randn(4, 3, 3), None, lengths)


NOT_RESETS = {
    "shape": (torch.zeros(3, 4, dtype=torch.bool), r"resets: got shape .*; expected \[4, 3\]"),
    "dtype": (torch.zeros(4, 3), r"resets: got torch.float32; expected torch.bool"),
    "device": (
        torch.zeros(4, 3, dtype=torch.bool, device="meta"),
        r"resets: got device meta; expected",
    ),
    "type": ([True], r"resets: got list; expected a tensor"),
}


@pytest.mark.parametrize(("resets", "message"), NOT_RESETS.values(), ids=NOT_RESETS)
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True))
def test_resets_that_are_none(resets, message, engine, fuse):
    module = fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)
    with pytest.raises(ValueError, match=message):
        module(torch.randn(4, 3, 3), None, None, resets)


@every_top
def test_a_packed_sequence_has_its_lengths(engine, fuse):
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    module = fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)
    with pytest.raises(
        ValueError, match="lengths: got a tensor; expected None with a PackedSequence"
    ):
        module(packed, None, torch.tensor([4, 2]))
    with pytest.raises(ValueError, match=r"resets: got shape \[4, 2\]; expected \[6\]"):
        module(packed, None, None, torch.zeros(4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"input: got shape \[6, 3\]; expected packed \[N, I\]"):
        fused_lstm.LSTM(5, 4, engine=engine, fuse=fuse)(packed)
