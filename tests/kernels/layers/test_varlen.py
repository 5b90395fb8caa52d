"""Padded rows to packed ones and back: by PyTorch alone, in a graph, and by the C++ engine."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_lstm
from cases import CPU, needs_native
from fused_lstm import native
from fused_lstm.call import rows as module

LENGTHS = [[5, 2, 3, 5], [1], [4, 4], [2, 7, 7, 1, 3]]


@pytest.fixture(params=["torch", "graph", pytest.param("native", marks=needs_native)])
def how(request, monkeypatch):
    monkeypatch.setattr(module, "can_run", lambda *_: request.param == "native")
    monkeypatch.setattr(module, "in_a_graph", lambda: request.param == "graph")


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
def test_packs_as_pytorch_does(how, lengths, batch_first):
    """Its values and gradients; what it adds behind the last row is read and written by nobody."""
    B, T, lengths = len(lengths), max(lengths), torch.tensor(lengths)
    x = torch.randn(B, T, 3).transpose(0, 1) if batch_first else torch.randn(T, B, 3)
    x, dy = x.requires_grad_(), torch.randn(T, B, 3)
    wanted = pack_padded_sequence(x, lengths, enforce_sorted=False)
    packed = module.of_lengths(T, B, lengths, CPU, batch_first)
    assert torch.equal(packed.batch_sizes, wanted.batch_sizes)
    state = torch.randn(2, B, 4)
    by_length = torch.equal(lengths[packed.order], lengths.sort(descending=True).values)
    assert by_length
    assert torch.equal(packed.unsort(packed.sort(state)), state)
    rows, N = packed.pack(x), int(lengths.sum())
    assert torch.equal(rows[:N], x.flatten(0, 1)[packed_places(lengths, packed.order)])
    y = torch.cat([rows[:N], torch.zeros(len(rows) - N, 3)])
    padded = packed.unpack(y)
    live = (torch.arange(T)[:, None] < lengths)[..., None]
    assert torch.equal(padded, torch.where(live, x, 0.0))
    assert padded.transpose(0, 1).is_contiguous() if batch_first else padded.is_contiguous()
    (grad,) = torch.autograd.grad(padded, x, dy)
    assert torch.equal(grad, torch.where(live, dy, 0.0))
    assert torch.equal(pad_packed_sequence(wanted)[0], padded)


def packed_places(lengths, order):
    """The padded row t * B + b of each packed one."""
    return torch.tensor([t * len(order) + b for t in range(int(lengths.max()))
                         for b in order.tolist() if t < lengths[b]])  # fmt: skip


@needs_native
def test_its_operators_check_what_they_are_given():
    x = torch.randn(3, 2)
    for error, message, operator, arguments in (
        (ValueError, r"lengths: got 5; expected 1 to T = 4", "packing", ([1, 5], 4, False)),
        (ValueError, r"lengths: got 0; expected 1 to T = 4", "packing", ([0, 3], 4, False)),
        (ValueError, r"lengths: got dtype Float; expected Long", "packing", ([1.0], 4, False)),
        (IndexError, r"index: got 3 at 1; expected a number in \[0, 3\)", "gather", ([0, 3],)),
        (IndexError, r"index: got -1 at 0; expected a number in \[0, 3\)", "gather", ([-1],)),
        (ValueError, r"index: got dtype Float; expected Long", "gather", ([1.0],)),
    ):
        tensor, *others = arguments
        given = [torch.tensor(tensor), *others]
        with pytest.raises(RuntimeError, match=f"^{error.__name__}: {message}"):
            getattr(native.OPS, operator)(*([x] if operator == "gather" else []), *given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@needs_native
def test_gather_takes_any_rows(dtype):
    for shape in ((7, 300), (7, 2, 3), (7,), (7, 0)):
        x, index = torch.randn(shape).to(dtype), torch.randint(7, (500,))
        assert torch.equal(native.OPS.gather(x, index), x[index])
    x = torch.randn(9, 6).to(dtype).T  # not contiguous
    assert torch.equal(native.OPS.gather(x, torch.tensor([5, 5, 0])), x[[5, 5, 0]])
    assert native.OPS.gather(x[:0], index[:0]).shape == (0, 9)


def test_batch_first_is_the_same_rows():
    module = fused_lstm.LSTM(3, 4, batch_first=True, engine="loop")
    other = fused_lstm.LSTM(3, 4, engine="loop")
    other.load_state_dict(module.state_dict())
    x, lengths = torch.randn(4, 5, 3), torch.tensor([5, 2, 3, 5])
    y, state = module(x, lengths=lengths)
    wanted, wanted_state = other(x.transpose(0, 1), lengths=lengths)
    assert torch.equal(y, wanted.transpose(0, 1))
    assert all(map(torch.equal, state, wanted_state))
