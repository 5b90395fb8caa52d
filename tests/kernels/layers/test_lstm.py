"""fused_lstm.LSTM against nn.LSTM: every engine, outputs, states and every gradient by name."""

from __future__ import annotations

import copy
import io
import re
import warnings
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fused_lstm
from bench import zoo
from cases import SHAPES, Shape, assert_same, make_pair, make_state, run, rungs
from tolerance import assert_close

SMALL = Shape(4, 3, 5, 6, 2)
every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs())
# torch.compile takes seconds a shape.
every_fast_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))


@pytest.mark.slow  # its compiler takes long, and what it compiles is the loop
@pytest.mark.parametrize("shape", [SHAPES[0], SMALL], ids=str)
def test_compile_agrees_with_nn_lstm(shape):
    theirs, ours = make_pair(shape, "compile", None, torch.float32)
    x, state = torch.randn(shape.T, shape.B, shape.I), make_state(shape, torch.float32)
    assert_same(run(ours, x, state), run(theirs, x, state))


@every_fast_rung
def test_dropout_is_between_layers_and_in_training_only(engine, fuse):
    theirs, ours = make_pair(SMALL, engine, fuse, torch.float64, dropout=1.0)
    x = torch.randn(SMALL.T, SMALL.B, SMALL.I, dtype=torch.float64)
    ours.eval(), theirs.eval()
    assert_close(ours(x)[0], theirs(x)[0], "eval: no dropout")
    # With all of it dropped, the upper layer sees zeros: its output no longer depends on x.
    ours.train(), theirs.train()
    assert_close(ours(x)[0], theirs(x)[0], "train: all dropped")
    assert_close(ours(x)[0], ours(x + 1)[0], "train: y depends on x")


@every_fast_rung
def test_dropout_keeps_the_expected_share_and_follows_the_seed(engine, fuse):
    shape = Shape(2, 16, 3, 32, 2)
    _, ours = make_pair(shape, engine, fuse, torch.float32, dropout=0.4)
    with torch.no_grad():  # the upper layer shows its input: i, o and f wide open, g = h / 100
        for p in ours.parameters():
            p.mul_(1e-3)
        eye = torch.eye(shape.H)
        ours.weight_ih_l1[2 * shape.H : 3 * shape.H] = eye
        ours.bias_ih_l0.fill_(1.0)
    x = torch.randn(1, shape.B, shape.I)
    torch.manual_seed(5)
    first = ours(x)[0]
    share = (first.abs() < 0.02).float().mean().item()
    assert 0.3 < share < 0.5, f"dropped {share:.2f} of the lower layer's output; expected 0.4"
    assert not torch.equal(first, ours(x)[0]), "two calls drew one mask"
    torch.manual_seed(5)
    assert torch.equal(first, ours(x)[0]), "one seed drew two masks"


@every_rung
def test_state_dict_goes_both_ways(engine, fuse):
    theirs, ours = make_pair(SMALL, engine, fuse, torch.float32)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    fresh = nn.LSTM(SMALL.I, SMALL.H, SMALL.L)
    fresh.load_state_dict(ours.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_initialisation_is_nn_lstms():
    torch.manual_seed(3)
    ours = fused_lstm.LSTM(4, 5, 2)
    torch.manual_seed(3)
    for name, value in nn.LSTM(4, 5, 2).state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_a_module_survives_copying_and_saving():
    ours = fused_lstm.LSTM(3, 4, engine="loop")
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    x = torch.randn(2, 2, 3)
    for twin in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert twin.engine == "loop"
        assert torch.equal(twin(x)[0], ours(x)[0])
    assert "engine='loop'" in repr(ours)


@every_fast_rung
def test_double_moves_the_weights(engine, fuse):
    theirs, ours = make_pair(SMALL, engine, fuse, torch.float32)
    x = torch.randn(SMALL.T, SMALL.B, SMALL.I)
    ours(x)  # what an engine may have kept of float32 weights is of no use afterwards
    assert_same(run(ours.double(), x.double(), None), run(theirs.double(), x.double(), None))


class Kept(TorchDispatchMode):
    """How many elements an engine's operator `lstm` has made for a backward."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if re.fullmatch("fused_lstm_.*::lstm", function._schema.name):
            self.elements = sum(tensor.numel() for tensor in found[3:])
        return found


@pytest.mark.parametrize("how", ["no_grad", "inference", "frozen"])
@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("loop", "compile", "cudnn", but=("pointwise", "hoisted"))
)
def test_who_needs_no_gradient_keeps_nothing_for_one(engine, fuse, how):
    _, ours = make_pair(SMALL, engine, fuse, torch.float64)
    x = torch.randn(SMALL.T, SMALL.B, SMALL.I, dtype=torch.float64)
    with Kept() as kept:
        y, _ = ours(x)
    assert kept.elements >= 5 * SMALL.L * y.numel(), "gates and cell states"
    ours.requires_grad_(how != "frozen")
    context = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(how, nullcontext)
    with context(), Kept() as kept:
        quiet, _ = ours(x)
    assert kept.elements == 0
    assert torch.equal(quiet, y)


@every_rung
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
def test_an_empty_batch_gives_empty_tensors(batch_first, engine, fuse):
    theirs, ours = make_pair(SMALL, engine, fuse, torch.float32, batch_first=batch_first)
    x = torch.randn((0, 4, SMALL.I) if batch_first else (4, 0, SMALL.I))
    for state in (None, (torch.randn(SMALL.L, 0, SMALL.H),) * 2):
        found, expected = run(ours, x, state), run(theirs, x, state)
        assert_same(found, expected)
        assert not found["weight_ih_l0.grad"].any()


def nested(x: torch.Tensor, **options) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls them a prototype
        return torch.nested.nested_tensor(list(x), **options)


BAD = {
    "input-rank": (lambda x, h, c: (x[None], (h, c)), r"input: got shape \[1, 4, 3, 5\]"),
    "input-size": (lambda x, h, c: (x[..., :2], (h, c)), r"input: .* with I = 5"),
    "input-type": (lambda x, h, c: (x.tolist(), (h, c)), r"input: got list; expected a tensor"),
    "no-steps": (lambda x, h, c: (x[:0], (h, c)), r"x: got shape \[0, 3, 5\]"),
    "dtype": (
        lambda x, h, c: (x.double(), (h, c)),
        r"x: got torch.float64; expected torch.float32, the weights'",
    ),
    "state-dtype": (lambda x, h, c: (x, (h.double(), c)), r"h_0: got torch.float64; expected"),
    "integers": (lambda x, h, c: (x.long(), (h, c)), r"x: got torch.int64; expected one"),
    "sparse": (lambda x, h, c: (x.to_sparse(), (h, c)), r"input: got .*sparse_coo.*; expected"),
    "mkldnn": (lambda x, h, c: (x.to_mkldnn(), (h, c)), r"input: got .*mkldnn.*; expected"),
    "nested": (lambda x, h, c: (nested(x), (h, c)), r"input: got .*nested.*; expected"),
    "jagged": (
        lambda x, h, c: (nested(x, layout=torch.jagged), (h, c)),
        r"input: got .*nested.*; expected",
    ),
    "sparse-state": (lambda x, h, c: (x, (h.to_sparse(), c)), r"h_0: got .*sparse_coo.*; expected"),
    "no-c": (lambda x, h, c: (x, (h, None)), r"c_0: got NoneType; expected a tensor"),
    "no-h": (lambda x, h, c: (x, (None, c)), r"h_0: got NoneType; expected a tensor"),
    "state-pair": (lambda x, h, c: (x, h), r"hx: got Tensor; expected a pair"),
    "state-rank": (lambda x, h, c: (x, (h[0], c)), r"h_0: got shape \[3, 6\]; expected \[2, 3, 6"),
    "h-batch": (
        lambda x, h, c: (x, (h[:, :2], c)),
        r"h_0: got shape \[2, 2, 6\]; .* \[2, 3",
    ),
    "c-layers": (lambda x, h, c: (x, (h, c[:1])), r"c_0: got shape \[1, 3, 6\]; expected \[2, 3"),
    "device": (
        lambda x, h, c: (x.to("meta"), (h, c)),
        r"cannot run on 'meta'|x: got device meta; expected cpu, the weights'",
    ),
}


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", top=True))
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input_names_the_argument(spoil, message, engine, fuse):
    ours = fused_lstm.LSTM(SMALL.I, SMALL.H, SMALL.L, engine=engine, fuse=fuse)
    x, state = torch.randn(SMALL.T, SMALL.B, SMALL.I), make_state(SMALL, torch.float32)
    with pytest.raises((ValueError, RuntimeError), match=message):
        ours(*spoil(x, *state))


LENGTHS, RESETS = torch.tensor([4, 3, 1, 4]), torch.zeros(4, 4, dtype=torch.bool)
BAD_ROWS = {
    "sparse-lengths": ({"lengths": LENGTHS.to_sparse()}, "lengths: got a torch.sparse_coo tensor;"),
    "meta-lengths": ({"lengths": LENGTHS.to("meta")}, "lengths: got device meta; expected one"),
    "sparse-resets": ({"resets": RESETS.to_sparse()}, "resets: got a torch.sparse_coo tensor;"),
    "nested-resets": ({"resets": nested(RESETS)}, "resets: got a nested tensor; expected"),
    "meta-resets": ({"resets": RESETS.to("meta")}, "resets: got device meta; expected cpu, x's"),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("engine", ["native", "loop"])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_lengths_and_resets_are_named(name, engine, batch_first):
    rows, message = BAD_ROWS[name]
    module = fused_lstm.LSTM(3, 4, engine=engine, batch_first=batch_first)
    with pytest.raises(ValueError, match=re.escape(message)):
        module(torch.randn(4, 4, 3), **rows)


INT = torch.tensor
BAD_PACKED = {
    "none": ((None,), "batch_sizes: got NoneType; expected a tensor"),
    "list": (([3, 2],), "batch_sizes: got list; expected a tensor"),
    "dtype": ((INT([3, 2], dtype=torch.int32),), "batch_sizes: got torch.int32 on cpu; expected"),
    "rank": ((INT([[3, 2]]),), "batch_sizes: got shape [1, 2]; expected [T], T not 0"),
    "empty": ((INT([], dtype=torch.int64),), "batch_sizes: got shape [0]; expected [T], T not 0"),
    "rising": ((INT([2, 3]),), "batch_sizes: got [2, 3]; expected falling numbers"),
    "negative": ((INT([7, -2]),), "batch_sizes: got [7, -2]; expected falling numbers"),
    "sum": ((INT([4, 3]),), "batch_sizes: got 7 rows; expected input's, 5"),
    "range": ((INT([3, 2]), INT([0, 1, 7]), INT([0, 1, 7])), "sorted_indices: got [0, 1, 7] with"),
    "below": ((INT([3, 2]), INT([0, 1, -1]), INT([0, 1, 2])), "sorted_indices: got [0, 1, -1]"),
    "twice": ((INT([3, 2]), INT([0, 1, 1]), INT([0, 1, 1])), "sorted_indices: got [0, 1, 1] with"),
    "other": ((INT([3, 2]), INT([1, 2, 0]), INT([1, 2, 0])), "with unsorted_indices [1, 2, 0]"),
    "few": ((INT([3, 2]), INT([1, 0]), INT([1, 0])), "sorted_indices: got shape [2]; expected [3]"),
    "one": ((INT([3, 2]), None, INT([1, 0, 2])), "sorted_indices: got NoneType; expected a tensor"),
}


@pytest.mark.parametrize("with_state", [False, True], ids=["", "state"])
@pytest.mark.parametrize("engine", ["native", "loop"])
@pytest.mark.parametrize("name", BAD_PACKED)
def test_a_bad_packed_sequence_is_named(name, engine, with_state):
    fields, message = BAD_PACKED[name]
    whole = torch.nn.utils.rnn.pack_sequence(
        [torch.randn(2, 3), torch.randn(2, 3), torch.ones(1, 3)]
    )
    fields = dict(zip(whole._fields[1:], fields, strict=False))
    state = (torch.zeros(1, 3, 4),) * 2 if with_state else None
    with pytest.raises(ValueError, match=re.escape(message)):
        fused_lstm.LSTM(3, 4, engine=engine)(whole._replace(**fields), state)


LAYERS = {
    "LSTM": fused_lstm.LSTM, "GRU": fused_lstm.GRU, "RNN": fused_lstm.RNN,
    "SLSTM": fused_lstm.SLSTM, "Recurrent": partial(fused_lstm.Recurrent, zoo.lltm),
}  # fmt: skip


@pytest.mark.parametrize("value", ["x", 2, None], ids=repr)
@pytest.mark.parametrize("name", LAYERS)
def test_bidirectional_is_true_or_false(name, value):
    with pytest.raises(ValueError, match=f"bidirectional: got {value!r}; expected True or False"):
        LAYERS[name](3, 4, bidirectional=value)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l1", "bias_hh_l0", "h_0", "c_0"])
@pytest.mark.parametrize("kind", [fused_lstm.LSTM, fused_lstm.GRU])
def test_what_lies_on_meta_is_an_error(kind, name, grad):
    """A tensor without numbers beside those that have some: as with nn.LSTM, no result."""
    module, x = kind(5, 6, 2), torch.randn(4, 3, 5)
    states = {"h_0": torch.zeros(2, 3, 6), "c_0": torch.zeros(2, 3, 6)}
    if name in states:
        states[name] = states[name].to("meta")
    else:
        setattr(module, name, torch.nn.Parameter(getattr(module, name).to("meta")))
    if kind is fused_lstm.GRU:
        if name == "c_0":
            pytest.skip("a GRU has no c")
        hx = states["h_0"]
    else:
        hx = tuple(states.values())
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(ValueError, match=f"{name}: got device meta; expected cpu"),
    ):
        module(x, hx)


@pytest.mark.parametrize("name", ["sparse", "mkldnn", "nested", "jagged", "no-c", "no-h"])
def test_the_functional_form_names_a_bad_tensor(name):
    spoil, message = BAD[name]
    weights = list(fused_lstm.LSTM(SMALL.I, SMALL.H, SMALL.L).parameters())
    x, state = torch.randn(SMALL.T, SMALL.B, SMALL.I), make_state(SMALL, torch.float32)
    with pytest.raises(ValueError, match=message.replace("input", "(x|input)")):
        fused_lstm.lstm(*spoil(x, *state), weights, engine="loop")


def test_functional_form_checks_its_weights():
    x, state = torch.randn(4, 3, 5), make_state(SMALL, torch.float32)
    weights = list(fused_lstm.LSTM(SMALL.I, SMALL.H, SMALL.L).parameters())
    y, _ = fused_lstm.lstm(x, state, weights, engine="loop")
    assert y.shape == (4, 3, 6)
    with pytest.raises(ValueError, match=r"h_0: got 2 states for 7 weights"):
        fused_lstm.lstm(x, state, weights[:-1])
    with pytest.raises(ValueError, match=r"weight_ih_l1: got shape \[24, 5\]; expected \[24, 6\]"):
        fused_lstm.lstm(x, state, [*weights[:4], weights[0], *weights[5:]])


@pytest.mark.parametrize(("engine", "fuse"), rungs(slow=("compile", "triton-layers")))
def test_training_steps_give_the_same_losses(engine, fuse):
    theirs, ours = make_pair(SMALL, engine, fuse, torch.float64)
    x, target = torch.randn(SMALL.T, SMALL.B, SMALL.I).double(), torch.randn(4, 3, 6).double()
    losses = {}
    for name, module in {"theirs": theirs, "ours": ours}.items():
        optimizer, losses[name] = torch.optim.SGD(module.parameters(), lr=0.5), []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (module(x)[0] - target).square().mean()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.detach())
    assert losses["theirs"][-1] < losses["theirs"][0], "nothing was learned"
    assert_close(torch.stack(losses["ours"]), torch.stack(losses["theirs"]), "losses")


@every_fast_rung
def test_extreme_gates_are_finite_and_right(engine, fuse):
    theirs, ours = make_pair(SMALL, engine, fuse, torch.float32)
    x = torch.randn(SMALL.T, SMALL.B, SMALL.I).sign() * 1e4
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.copy_(q.sign() * 0.5)
            p.copy_(q)
    assert_same(run(ours, x, None), run(theirs, x, None))
