"""Recurrent weights in blocks: against the same weights with zeros between the blocks."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from fused_lstm import heads, native
from fused_lstm.integrations.gates import run_gates
from fused_lstm.spec import Spec
from heads import MAKE, results, state_of
from tolerance import GPU_NORM, assert_close, error_norm

DOUBLE = {"dtype": torch.float64}
HAVE_NATIVE = fused_lstm.available_engines("cpu")["native"] is None
native_only = pytest.mark.skipif(not HAVE_NATIVE, reason="native was not built")
ENGINES = ["loop", pytest.param("native", marks=native_only)]
CELLS = ["lstm", "gru", "rnn_tanh", "rnn_relu"]
CASES = {
    "plain": {},
    "no bias": {"bias": False},
    "bidirectional, lengths, resets": {"bidirectional": True},
}


def dense_twin(module: torch.nn.Module, make, **options):
    """A module of one head with the same weights, on engine loop."""
    twin = make(engine="loop", **options)
    weights = {k: heads.dense(v) if v.dim() == 3 else v for k, v in module.state_dict().items()}
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", CELLS)
def test_heads_are_blocks_of_a_dense_weight(cell, case, engine):
    torch.manual_seed(3)
    shape, options = (5, 18, 2), {**CASES[case], **DOUBLE}  # 18 = 3 heads of 6 units
    module = MAKE[cell](*shape, num_heads=3, engine=engine, **options)
    twin = dense_twin(module, lambda **o: MAKE[cell](*shape, **options, **o))
    x, state = torch.randn(7, 4, 5, **DOUBLE), state_of(module, 4)
    rows = {}
    if case.startswith("bidirectional"):
        rows = {"lengths": torch.tensor([7, 2, 5, 1]), "resets": torch.rand(7, 4) < 0.3}
    got, expected = results(module, x, state, **rows), results(twin, x, state, **rows)
    for name, value in got.items():
        wanted = expected[name]
        if value.dim() == 3 and name.startswith("weight_hh"):
            mask = heads.dense(torch.ones_like(value)) > 0
            value, wanted = heads.dense(value)[mask], wanted[mask]
        assert_close(value, wanted, name)


@native_only
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("H", "N", "B"), [(66, 2, 3), (40, 8, 9), (70, 1, 20)])
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_native_divides_heads_among_any_number_of_workers(cell, H, N, B, threads):
    """One on a worker, one on a part of a team, more than there are workers; odd sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(1)
        module = MAKE[cell](9, H, num_heads=N, engine="native", **DOUBLE)
        x, state = torch.randn(11, B, 9, **DOUBLE), state_of(module, B)
        got = results(module, x, state)
        with torch.no_grad():  # nothing kept for a backward
            inferred = module(x, state)[0]
        module.engine = "loop"
        for name, value in results(module, x, state).items():
            assert_close(got[name], value, name)
        assert_close(inferred, got["y"], "inferred")
    finally:
        torch.set_num_threads(before)


@native_only
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("T", "B", "H", "N"), [(4, 3, 66, 2), (1, 1, 7, 1), (16, 1, 520, 2)])
@pytest.mark.parametrize("cell", ["gru", "rnn_tanh", "slstm"])
def test_native_reads_weights_as_they_lie_for_few_rows(cell, T, B, H, N, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    module = MAKE[cell](3, H, num_heads=N, engine="native", **DOUBLE)
    x, state = torch.randn(T, B, 3, **DOUBLE), state_of(module, B)
    got = results(module, x, state)
    with torch.no_grad():
        inferred = module(x, state)[0]
    module.engine = "loop"
    expected = results(module, x, state)
    for name, value in expected.items():
        assert_close(got[name], value, name)
    assert_close(inferred, expected["y"], "inferred")


@native_only
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_native_in_every_dtype(cell, name):
    """By the error's norm: x's part of the gates is rounded to a half dtype before R h is added."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    torch.manual_seed(2)
    module = MAKE[cell](12, 40, 2, num_heads=2, engine="native", dtype=dtype)
    x = torch.randn(9, 5, 12).to(dtype)
    got = results(module, x)
    module.engine = "loop"
    exact = results(module.double(), x.double())
    errors = {part: error_norm(got[part], value) for part, value in exact.items()}
    assert max(errors.values()) < GPU_NORM[name], errors


@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_native_on_every_instruction_set(cell, every_isa):
    torch.manual_seed(2)
    module = MAKE[cell](5, 44, num_heads=2, engine="loop")
    x, state = torch.randn(6, 10, 5), state_of(module, 10)
    expected = results(module, x, state)
    module.engine = "native"
    assert native.OPS.isa() == every_isa
    for name, value in results(module, x, state).items():
        assert_close(value, expected[name], name)


@native_only
@pytest.mark.parametrize("cell", [*CELLS, "slstm"])
def test_the_second_derivative(cell):
    torch.manual_seed(5)
    module = MAKE[cell](2, 4, num_heads=2, bidirectional=True, engine="native", **DOUBLE)
    lengths, names = torch.tensor([2, 3]), [name for name, _ in module.named_parameters()]

    def function(x, *weights):
        weights = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(module, weights, (x,), {"lengths": lengths})[0]

    leaves = [
        t.detach().requires_grad_() for t in (torch.randn(3, 2, 2, **DOUBLE), *module.weights())
    ]
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@native_only
@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_the_second_derivative_by_the_last_states(cell):
    """Of c_n alone, whose gradient is an argument of the backward that is differentiated."""
    torch.manual_seed(5)
    module = MAKE[cell](2, 4, num_heads=2, engine="native", **DOUBLE)
    x = torch.randn(3, 2, 2, **DOUBLE).requires_grad_()
    by_x = torch.randn_like(x)

    def once(engine):
        module.engine = engine
        _, (_, c_n, *_) = module(x)
        weight = torch.linspace(-1, 1, c_n.numel(), **DOUBLE).view_as(c_n).requires_grad_()
        (dx,) = torch.autograd.grad((c_n * weight).sum(), x, create_graph=True)
        return torch.autograd.grad((dx * by_x).sum(), (x, weight, *module.parameters()))

    for found, expected in zip(once("native"), once("loop"), strict=True):
        assert_close(found, expected, "a second derivative")


@native_only
@pytest.mark.parametrize("cell", CELLS + ["slstm"])
def test_who_writes_over_y_does_not_change_the_gradients(cell):
    """y is computed again: the backward reads h, as it was."""
    torch.manual_seed(5)
    module = MAKE[cell](3, 8, num_heads=2, engine="native", **DOUBLE)
    x, grads = torch.randn(4, 2, 3, **DOUBLE), []
    for writes in (False, True):
        y, _ = module(x)
        loss = y.sum()
        if writes:
            with torch.no_grad():
                y.zero_()
        grads.append(torch.autograd.grad(loss, list(module.parameters())))
    for found, expected in zip(*reversed(grads), strict=True):
        assert_close(found, expected, "gradient")


@native_only
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_torch_compile_has_no_break_in_it(cell):
    torch.manual_seed(6)
    module = MAKE[cell](3, 8, 2, num_heads=2, bidirectional=True, engine="native")
    x, lengths = torch.randn(4, 3, 3), torch.tensor([4, 2, 3])
    expected = results(module, x, lengths=lengths)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    module.zero_grad()
    y, _ = compiled(x, lengths=lengths)
    assert_close(y, expected["y"], "y")
    y.sum().backward()
    grads = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module(x, lengths=lengths)[0].sum().backward()
    for n, (grad, parameter) in enumerate(zip(grads, module.parameters(), strict=True)):
        assert_close(grad, parameter.grad, f"gradient {n}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_recompute_streaming_and_states(cell, engine):
    torch.manual_seed(7)
    module = MAKE[cell](3, 8, 2, num_heads=2, engine=engine, **DOUBLE)
    x = torch.randn(7, 2, 3, **DOUBLE)
    expected = results(module, x)
    module.recompute = 3
    for name, value in results(module, x).items():
        assert_close(value, expected[name], name)
    module.recompute = None
    stream = fused_lstm.Streaming(module, 2)
    assert_close(torch.stack([stream(row) for row in x]), expected["y"], "streamed")
    last, states = map(as_tuple, module(x, return_states=True)[1:])
    streamed = as_tuple(stream.state)
    for name, part, of_steps, other in zip(module.spec.states, last, states, streamed, strict=True):
        assert_close(of_steps[:, -1], part, f"{name} after the last step")
        assert_close(other, part.detach(), f"{name} streamed")
    grads = []
    for one in (engine, "loop"):  # by a state inside
        module.engine = one
        inner = as_tuple(module(x, return_states=True)[2])[-1][:, 2]
        grads.append(torch.autograd.grad(inner.sin().sum(), list(module.parameters())))
    for n, (ours, theirs) in enumerate(zip(*grads, strict=True)):
        assert_close(ours, theirs, f"gradient {n} by a state inside")


def as_tuple(state) -> tuple[torch.Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


@native_only
def test_dropout_between_layers_is_the_references():
    torch.manual_seed(8)
    module = MAKE["slstm"](3, 8, 3, num_heads=2, dropout=0.5, engine="native", **DOUBLE)
    x = torch.randn(4, 3, 3, **DOUBLE)
    outputs = []
    for engine in ("native", "loop"):
        module.engine = engine
        torch.manual_seed(9)
        outputs.append(results(module, x))
    for name, value in outputs[0].items():
        assert_close(value, outputs[1][name], name)
    assert not torch.equal(module.eval()(x)[0], outputs[0]["y"])


def test_a_state_dict_goes_round_and_convert_keeps_it():
    module, other = (fused_lstm.LSTM(3, 8, num_heads=4) for _ in range(2))
    other.load_state_dict(module.state_dict())
    x = torch.randn(2, 3, 3)
    assert torch.equal(module(x)[0], other(x)[0])
    assert fused_lstm.convert(other, engine="loop").engine == "loop"
    assert_close(other(x)[0], module(x)[0], "y")
    with pytest.raises(ValueError, match="num_heads: got 4; expected 1"):
        fused_lstm.convert(other, back=True)


def test_the_function_takes_heads():
    torch.manual_seed(4)
    module = fused_lstm.LSTM(3, 8, num_heads=4, **DOUBLE)
    x, state = torch.randn(5, 2, 3, **DOUBLE), state_of(module, 2)
    y, _ = fused_lstm.lstm(x, state, module.weights(), cell=Spec(num_heads=4))
    assert_close(y, module(x, state)[0], "y")


# --- layouts ---


@pytest.mark.parametrize("layout", ["flashrnn", "dreamer", "xlstm"])
def test_another_librarys_weight(layout):
    shape = {"flashrnn": (4, 2, 3, 3), "dreamer": (2, 3, 12), "xlstm": (2, 3, 4, 3)}[layout]
    there = torch.randn(shape)
    weight = getattr(heads, f"from_{layout}")(there)
    h = torch.randn(5, 2, 3)  # [B, N, K]
    by_h = torch.einsum("bnk,njk->bnj", h, weight).unflatten(-1, (4, 3))  # [B, N, G, K]
    # As each of them says its own product.
    theirs = {
        "flashrnn": lambda: torch.einsum("gnjk,bnk->bngj", there, h),
        "dreamer": lambda: torch.einsum("nkj,bnk->bnj", there, h).unflatten(-1, (4, 3)),
        "xlstm": lambda: torch.einsum("nkgj,bnk->bngj", there, h),
    }[layout]()
    torch.testing.assert_close(theirs, by_h)


@native_only
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("N", "K"), [(1, 37), (3, 16), (2, 130)])
def test_native_takes_a_weight_whose_inputs_come_first(N, K, dtype, threads):
    """Compare a view of TiRex's or DreamerV3's weight with a copy: the bits are the same."""
    torch.set_num_threads(threads)
    gates, states = torch.randn(3, 2, 4 * N * K), torch.randn(4, 2, N * K)
    weight, bias = heads.from_dreamer(torch.randn(N, K, 4 * K)), torch.zeros(4 * N * K)
    gates, states, weight, bias = (t.to(dtype) for t in (gates, states, weight, bias))
    spec = Spec("slstm", num_heads=N)
    view = run_gates(spec, "native", gates, states, weight, bias)
    copy = run_gates(spec, "native", gates, states, weight.contiguous(), bias)
    assert all(torch.equal(a, b) for a, b in zip(view, copy, strict=True))


# --- what is refused ---


def test_what_is_refused():
    x, state = torch.randn(2, 2, 3), (torch.zeros(1, 2, 8),) * 2
    weights = fused_lstm.LSTM(3, 8).weights()
    divisor = "num_heads: got 3; expected a divisor of hidden_size 8"
    with pytest.raises(ValueError, match=divisor):
        fused_lstm.GRU(3, 8, num_heads=3)
    with pytest.raises(ValueError, match=divisor):
        fused_lstm.lstm(x, state, weights, cell=Spec(num_heads=3))
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"num_heads: got {wrong}; expected a divisor"):
            fused_lstm.LSTM(3, 8, num_heads=wrong)
    with pytest.raises(ValueError, match="num_heads: got 2 with layer_norm; expected 1"):
        fused_lstm.LSTM(3, 8, num_heads=2, layer_norm=True)
    with pytest.raises(ValueError, match="num_heads: got 2 with a projected h"):
        fused_lstm.LSTM(3, 8, num_heads=2, proj_size=4)
    with pytest.raises(ValueError, match="num_heads: got 2 with engine='cudnn', which does not"):
        fused_lstm.RNN(3, 8, num_heads=2, engine="cudnn")
    with pytest.raises(ValueError, match="num_heads: got 2 with fuse='pointwise'"):
        fused_lstm.LSTM(3, 8, num_heads=2, engine="native", fuse="pointwise")
    with pytest.raises(
        ValueError, match=r"weight_hh_l0: got shape \[32, 8\]; expected \[2, 16, 4\]"
    ):
        fused_lstm.lstm(x, state, weights, cell=Spec(num_heads=2))


@native_only
@pytest.mark.parametrize("name", ["c", "gates"])
def test_what_a_backward_does_not_read_is_checked_too(name):
    """An RNN's backward reads neither; a number alone has no heads to divide it by."""
    x, h0, weight = torch.randn(4, 2, 6), torch.randn(2, 6), torch.randn(2, 3, 3)
    y, *_ = native.OPS.recurrence(x, h0, h0, weight, None, "rnn_tanh", True)
    saved = {"c": torch.empty(0), "gates": torch.empty(0)}
    call = (y, None, None, h0, h0, weight, None, y)
    assert native.OPS.recurrence_backward(*call, *saved.values(), "rnn_tanh")[0].shape == x.shape
    saved[name] = torch.tensor(1.0)
    with pytest.raises(RuntimeError, match=rf"{name}: got shape \[\]; expected \[0\]"):
        native.OPS.recurrence_backward(*call, *saved.values(), "rnn_tanh")


@native_only
@pytest.mark.parametrize("shape", [(0, 4, 1), (2, 0, 0)], ids=str)
def test_weights_without_elements_are_refused(shape):
    with pytest.raises(ValueError, match=r"weight_hh: .*; expected \[N, 4K, K\], N and K not 0"):
        native.OPS.recurrence(
            torch.zeros(3, 2, 0), torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(shape), None,
            "lstm", False,
        )  # fmt: skip
