"""`return_states=True`: the state of every layer after every step, and the gradients by it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fused_lstm
from cases import rungs
from tolerance import assert_close

DOUBLE = {"dtype": torch.float64}
every_rung = pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))
OPTIONS = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "projected": {"proj_size": 2},
    "batch_first": {"batch_first": True},
    "layer_norm": {"layer_norm": True},
    "zoneout": {"zoneout": 0.3},
}


def one_step_at_a_time(module: fused_lstm.LSTM, x: torch.Tensor):
    """h [L, T, B, P] and c [L, T, B, H] of one direction, by calls of one step, time first."""
    state, steps = None, []
    for row in x:
        _, state = module(row[None], state)
        steps.append(state)
    return [torch.stack(part, 1) for part in zip(*steps, strict=True)]


def gradients(outputs, leaves):
    loss = sum((o * torch.linspace(-1, 1, o.numel(), **DOUBLE).cos().view_as(o)).sum()
               for o in outputs)  # fmt: skip
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("option", ["plain", "projected", "layer_norm", "zoneout"])
@pytest.mark.parametrize(
    ("engine", "fuse"),
    rungs("compile", "cudnn", slow=("triton-pointwise", "triton-hoisted", "triton-steps")),
)
def test_they_are_those_of_calls_of_one_step(option, engine, fuse):
    if fuse in ("pointwise", "hoisted") and option in ("layer_norm", "zoneout"):
        pytest.skip("has nn.LSTM's cell alone")
    module = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse, **OPTIONS[option], **DOUBLE)
    module.eval()
    x = torch.randn(5, 2, 3, **DOUBLE).requires_grad_()
    leaves = [x, *module.parameters()]
    y, (h_n, c_n), (h, c) = module(x, return_states=True)
    wanted = one_step_at_a_time(module, x)
    for name, found, value in zip("hc", (h, c), wanted, strict=True):
        assert_close(found.detach(), value.detach(), name)
    assert_close(h[-1].detach(), y.detach(), "y")
    assert_close(h[:, -1].detach(), h_n.detach(), "h_n")
    assert_close(c[:, -1].detach(), c_n.detach(), "c_n")
    names = ["x", *(name for name, _ in module.named_parameters())]
    for name, one, other in zip(
        names,
        gradients((y, h, c), leaves),
        gradients((wanted[0][-1], *wanted), leaves),
        strict=True,
    ):
        assert_close(one, other, f"gradient by {name}")


@every_rung
def test_without_gradients_they_are_the_same(engine, fuse):
    module = fused_lstm.LSTM(3, 4, 2, bidirectional=True, engine=engine, fuse=fuse, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE)
    wanted = module(x, return_states=True)[2]
    with torch.no_grad():
        found = module(x, return_states=True)[2]
    for name, one, other in zip("hc", found, wanted, strict=True):
        assert_close(one, other.detach(), name)


@every_rung
def test_a_direction_ends_where_h_n_is_and_layouts(engine, fuse):
    options = {"engine": engine, "fuse": fuse, **DOUBLE}
    module = fused_lstm.LSTM(3, 4, 2, bidirectional=True, **options)
    x = torch.randn(5, 2, 3, **DOUBLE)
    y, (h_n, c_n), (h, c) = module(x, return_states=True)
    for lane in range(4):
        t = 0 if lane % 2 else -1
        assert_close(h[lane, t].detach(), h_n[lane].detach(), "h_n")
        assert_close(c[lane, t].detach(), c_n[lane].detach(), "c_n")
    assert_close(torch.cat([h[2], h[3]], -1).detach(), y.detach(), "y")
    module.batch_first = True
    _, _, turned = module(x.transpose(0, 1), return_states=True)
    assert_close(turned[1].detach(), c.transpose(1, 2).detach(), "batch first")
    module.batch_first = False
    _, _, alone = module(x[:, 1], return_states=True)
    assert alone[0].shape == (4, 5, 4)
    assert_close(alone[1].detach(), c[:, :, 1].detach(), "unbatched")


@every_rung
def test_rows_of_unequal_length(engine, fuse):
    module = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse, **DOUBLE)
    x, lengths = torch.randn(5, 3, 3, **DOUBLE), torch.tensor([2, 5, 3])
    _, _, (h, c) = module(x, lengths=lengths, return_states=True)
    for b, n in enumerate(lengths):
        _, _, wanted = module(x[:n, b : b + 1], return_states=True)
        assert_close(h[:, :n, b].detach(), wanted[0][:, :, 0].detach(), "h")
        assert_close(c[:, :n, b].detach(), wanted[1][:, :, 0].detach(), "c")
        assert not h[:, n:, b].any()
        assert not c[:, n:, b].any()
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, _, states = module(packed, return_states=True)
    as_y = nn.utils.rnn.PackedSequence(states[1][1], *y[1:])
    assert_close(pad_packed_sequence(as_y)[0].detach(), c[1].detach(), "c, packed")


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True, slow=("triton",)))
def test_a_grus_state_is_h_alone_and_a_graph(engine, fuse):
    module = fused_lstm.GRU(3, 4, 2, engine=engine, fuse=fuse, **DOUBLE)
    x = torch.randn(5, 2, 3, **DOUBLE)
    y, h_n, h = module(x, return_states=True)
    assert h.shape == (2, 5, 2, 4)
    assert_close(h[1].detach(), y.detach(), "y")
    assert_close(h[:, -1].detach(), h_n.detach(), "h_n")

    def loss(x):
        return module(x, return_states=True)[2].sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(f(x), list(module.parameters())) for f in (loss, compiled)]
    for n, (a, b) in enumerate(zip(*grads, strict=True)):
        assert_close(b, a, f"gradient {n}")


@pytest.mark.parametrize("options", [{}, {"num_heads": 2}], ids=str)
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn", top=True, slow=("triton",)))
def test_an_rnns_state_is_its_output(engine, fuse, nonlinearity, options):
    module = fused_lstm.RNN(
        3, 4, 2, nonlinearity, engine=engine, fuse=fuse, **options, **DOUBLE
    )  # fmt: skip
    x = torch.randn(5, 2, 3, **DOUBLE)
    y, h_n, h = module(x, return_states=True)
    assert h.shape == (2, 5, 2, 4)
    assert_close(h[1].detach(), y.detach(), "y")
    assert_close(h[:, -1].detach(), h_n.detach(), "h_n")
    start = torch.zeros(2, 2, 4, **DOUBLE)
    _, _, (alone, twice) = fused_lstm.lstm(
        x, (start, start), module.weights(), engine=engine, fuse=fuse, cell=module.spec,
        return_states=True,
    )  # fmt: skip
    assert torch.equal(alone, h)
    assert torch.equal(twice, h)
    leaves = list(module.parameters())
    by_state = torch.autograd.grad(h.sin().sum(), leaves)
    below = fused_lstm.RNN(3, 4, 1, nonlinearity, engine="loop", **options, **DOUBLE)
    above = fused_lstm.RNN(4, 4, 1, nonlinearity, engine="loop", **options, **DOUBLE)
    for layer, half in ((below, leaves[: len(leaves) // 2]), (above, leaves[len(leaves) // 2 :])):
        for p, value in zip(layer.parameters(), half, strict=True):
            p.data = value.detach().clone()
    first = below(x)[0]
    loss = first.sin().sum() + above(first)[0].sin().sum()
    wanted = torch.autograd.grad(loss, [*below.parameters(), *above.parameters()])
    for n, (a, b) in enumerate(zip(by_state, wanted, strict=True)):
        assert_close(a, b, f"gradient {n}")


def test_second_derivatives_and_errors():
    module = fused_lstm.LSTM(2, 3, engine="loop", **DOUBLE)
    x = torch.randn(3, 2, 2, **DOUBLE).requires_grad_()
    for engine in ("loop", "native"):
        if fused_lstm.available_engines("cpu")[engine] is None:
            module.engine = engine
            run = lambda x: module(x, return_states=True)[2]  # noqa: E731
            assert torch.autograd.gradcheck(run, x)
            assert torch.autograd.gradgradcheck(run, x)
    module.engine = "cudnn"
    with pytest.raises(ValueError, match="return_states: got True with engine='cudnn'"):
        module(x, return_states=True)
    module.engine, module.recompute = "loop", 2
    with pytest.raises(ValueError, match="return_states: got True with recompute"):
        module(x, return_states=True)
