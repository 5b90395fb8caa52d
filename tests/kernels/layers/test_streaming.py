"""`Streaming`: rows that begin anew, tensors that are written to, checks, prepared weights."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch
from torch import nn

import fused_lstm
from cases import rungs

HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")
every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))


@every_rung
def test_a_row_begins_anew(engine, fuse):
    module = fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)
    stream, x = fused_lstm.Streaming(module, 2), torch.randn(2, 3)
    first = stream(x)
    before = [s.clone() for s in stream.state]
    stream.reset(torch.tensor([False, True]))
    for kept, state in zip(before, stream.state, strict=True):
        assert torch.equal(state[:, 0], kept[:, 0])
        assert not state[:, 1].any()
    assert torch.equal(stream(x)[1], first[1])
    stream.reset()
    assert torch.equal(stream(x), first)


@every_rung
def test_what_a_step_returned_stays_as_it_was(engine, fuse):
    stream = fused_lstm.Streaming(fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse))
    x = torch.randn(1, 3)
    first, (h, _) = stream(x), stream.state
    copies = first.clone(), h.clone()
    stream(x)
    assert torch.equal(first, copies[0])
    assert torch.equal(h, copies[1])


@every_rung
def test_a_weight_that_is_no_block_of_memory_may_change_too(engine, fuse):
    """A transposed weight, changed in place, as one that is contiguous may be."""
    module = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse)
    for name in ("weight_ih_l0", "weight_hh_l1"):
        transposed = getattr(module, name).detach().T.contiguous().T
        assert not transposed.is_contiguous()
        setattr(module, name, nn.Parameter(transposed))
    stream, x = fused_lstm.Streaming(module), torch.randn(1, 3)
    before = stream(x)
    with torch.no_grad():
        module.weight_ih_l0.mul_(2)
        module.weight_hh_l1.add_(1)
        expected = torch.stack([module(x[None].repeat(2, 1, 1))[0][n, 0] for n in range(2)])
    stream.reset()
    found = torch.cat([stream(x), stream(x)])
    assert not torch.equal(found[0], before[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_an_output_can_be_part_of_a_graph():
    """It is no inference tensor, which autograd refuses to keep."""
    y = fused_lstm.Streaming(fused_lstm.LSTM(3, 4))(torch.randn(1, 3))
    weight = torch.randn(4, requires_grad=True)
    (y @ weight).sum().backward()
    assert torch.equal(weight.grad, y[0])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3), r"x: got shape \[2, 3\], torch.float32 on cpu; expected \[1, 3\]"),
        (torch.zeros(1, 1, 3), r"x: got shape \[1, 1, 3\]"),
        (torch.zeros(1, 3).double(), "torch.float64 on cpu; expected"),
        (torch.zeros(1, 3, device="meta"), "on meta; expected"),
        (None, "x: got NoneType; expected a tensor"),
    ],
    ids=["batch", "rank", "dtype", "device", "type"],
)
def test_x_is_checked(x, message):
    stream = fused_lstm.Streaming(fused_lstm.LSTM(3, 4))
    with pytest.raises(ValueError, match=message):
        stream(x)


@pytest.mark.parametrize("prepared", [False, True], ids=["module", "prepared"])
@pytest.mark.parametrize("rows", [-1, 2.0, "x", True, None], ids=repr)
def test_the_batch_size_is_checked(rows, prepared):
    module = fused_lstm.LSTM(3, 4)
    with pytest.raises(ValueError, match=f"batch_size: got {rows!r}; expected a number of rows"):
        fused_lstm.Streaming(fused_lstm.prepare(module) if prepared else module, rows)


def test_what_cannot_stream():
    with pytest.raises(ValueError, match="module: got bidirectional=True; expected one"):
        fused_lstm.Streaming(fused_lstm.LSTM(3, 4, bidirectional=True))
    with pytest.raises(
        ValueError, match=r"module: got LSTM of torch.nn.modules.rnn; expected a fused_lstm.LSTM"
    ):
        fused_lstm.Streaming(nn.LSTM(3, 4))


@every_rung
def test_who_writes_to_a_state_does_not_change_what_reset_gives(engine, fuse):
    stream, x = (
        fused_lstm.Streaming(fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)),
        torch.ones(1, 3),
    )
    first = stream(x)
    stream.reset()
    for tensor in stream.state:
        tensor.fill_(7.0)
    stream.reset()
    assert torch.equal(stream(x), first)


BAD_ROWS = {
    "too few": torch.tensor([True]),
    "too many": torch.tensor([True, False, True]),
    "rank": torch.ones(2, 1, dtype=torch.bool),
    "dtype": torch.ones(2),
    "type": [True, False],
}


@pytest.mark.parametrize("rows", BAD_ROWS.values(), ids=BAD_ROWS)
def test_reset_checks_its_rows(rows):
    stream = fused_lstm.Streaming(fused_lstm.LSTM(3, 4), 2)
    stream(torch.ones(2, 3))
    before = [s.clone() for s in stream.state]
    with pytest.raises(ValueError, match="rows: got "):
        stream.reset(rows)
    assert all(map(torch.equal, stream.state, before))


# --- packed weights ---


@native_only
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_stream_of_prepared_weights_is_the_prepared_layer(kind, dtype):
    """Step by step as in one call; a state_dict that is loaded later takes effect."""
    prepared = fused_lstm.prepare(kind(5, 24, 2), dtype)
    stream, x = fused_lstm.Streaming(prepared, 3), torch.randn(6, 3, 5)
    for _ in range(2):
        expected, last = prepared(x)
        got = torch.stack([stream(row) for row in x])
        # Of int8 a step's x and h are rounded by their own largest element.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        state, last = (s if isinstance(s, tuple) else (s,) for s in (stream.state, last))
        torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-6)
        stream.reset()
        prepared.load_state_dict(kind(5, 24, 2).state_dict())


@native_only
def test_a_stream_of_prepared_weights_checks_as_others():
    with pytest.raises(ValueError, match="bidirectional=True; expected one direction"):
        fused_lstm.Streaming(fused_lstm.prepare(nn.LSTM(3, 4, bidirectional=True)))
    stream = fused_lstm.Streaming(fused_lstm.prepare(nn.LSTM(3, 4, proj_size=2)), 2)
    assert [tuple(s.shape) for s in stream.state] == [(1, 2, 2), (1, 2, 4)]
    with pytest.raises(ValueError, match=r"x: got shape \[2, 5\]"):
        stream(torch.randn(2, 5))


@native_only
@pytest.mark.parametrize("prepared", [False, True], ids=["module", "prepared"])
def test_a_whole_clip_in_one_call_lets_other_threads_run(prepared):
    """A call holds no GIL: a second Python thread goes on all the time."""
    module = fused_lstm.LSTM(64, 256, 2, engine="native").eval()
    module = fused_lstm.prepare(module) if prepared else module
    x, ticks, end = torch.randn(1500, 1, 64), [], threading.Event()

    def tick() -> None:
        while not end.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    with torch.no_grad():
        module(x[:2])
        thread = threading.Thread(target=tick)
        thread.start()
        begin = time.perf_counter()
        module(x)
        taken = time.perf_counter() - begin
        end.set()
        thread.join()
    during = [t for t in ticks if begin < t < begin + taken]
    assert taken > 0.02
    assert len(during) >= 5
    assert max(b - a for a, b in itertools.pairwise(during)) < taken / 2


def test_of_prepared_weights_under_another_default_dtype():
    if fused_lstm.available_engines("cpu")["native"] is not None:
        pytest.skip("prepared weights need the native engine")
    prepared, before = fused_lstm.prepare(nn.LSTM(3, 4)), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        stream = fused_lstm.Streaming(prepared, 2)
    finally:
        torch.set_default_dtype(before)
    x = torch.randn(3, 2, 3)
    torch.testing.assert_close(torch.stack([stream(row) for row in x]), prepared(x)[0])
