"""Prepared weights: each instruction set gives what the formula gives, and none is stale."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import re
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence

import fresh
import fused_lstm
from cases import cells_in_turn
from fused_lstm import native, zoo
from fused_lstm.inference import prepare
from fused_lstm.inference.prepare import MANY_ROWS, Prepared, pack, to_int8, unpack

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., K] weight' [M, K], of bytes with a scale for each row of either."""
    values, scale = to_int8(weight)
    by = x.abs().amax(-1, keepdim=True) / 127
    steps = (x / torch.where(by > 0, by, 1.0)).round()
    return (steps.double() @ values.double().T).float() * (by * scale)


def layer(x: Tensor, weights: list[Tensor], cell: str, P: int) -> Tensor:
    """y [T, B, P] of one layer in one direction, from a state of zero."""
    w_ih, w_hh, b_ih, b_hh, *w_hr = weights
    H = w_hh.shape[0] // (3 if cell == "gru" else 4)
    by_x, h, c, y = times(x, w_ih) + b_ih, x.new_zeros(x.shape[1], P), x.new_zeros(1, H), []
    for step in by_x:
        by_h = times(h, w_hh) + b_hh
        if cell == "gru":
            r, z = torch.sigmoid(step + by_h)[:, : 2 * H].chunk(2, 1)
            n = torch.tanh(step[:, 2 * H :] + r * by_h[:, 2 * H :])
            h = n + z * (h - n)
        else:
            i, f, g, o = (step + by_h).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        if w_hr:
            h = times(h, w_hr[0])
        y.append(h)
    return torch.stack(y)


def by_formula(module: nn.Module, x: Tensor, cell: str) -> Tensor:
    """y of all layers and directions of a module of torch.nn."""
    weights, D = list(module.all_weights), 1 + module.bidirectional
    P = module.proj_size or module.hidden_size
    for first in range(0, len(weights), D):
        parts = [layer(x, weights[first], cell, P)]
        if D == 2:
            parts.append(layer(x.flip(0), weights[first + 1], cell, P).flip(0))
        x = torch.cat(parts, -1)
    return x


CASES = {
    "lstm": (nn.LSTM, {"num_layers": 2}),
    "lstm both ways": (nn.LSTM, {"bidirectional": True, "num_layers": 2}),
    "lstm projected": (nn.LSTM, {"proj_size": 7}),
    "gru": (nn.GRU, {"num_layers": 2}),
    "gru both ways": (nn.GRU, {"bidirectional": True}),
}


def layers_of(case: str, I: int, H: int) -> nn.Module:
    """Return a case's layers, of 7 units more where h is projected."""
    kind, options = CASES[case]
    return kind(I, H + options.get("proj_size", 0), **options)


# With 20 rows and more a tile of a matrix unit has two registers of them.
SIZES = [(1, 1, 3, 5), (6, 9, 21, 37), (3, 2, 70, 130), (2, 39, 33, 20)]
WHOLE = (8, 34, 17, 16)  # steps that make their input products too
ENDING = (8, 34, 17, 27)  # likewise, with a block whose last vectors exist in part or not at all


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("T", "B", "I", "H"), SIZES)
def test_it_is_the_formula(every_isa, case, T, B, I, H, threads):
    """Where h differs in its last bit a byte may fall the other way: by 1 / 127 of a weight."""
    torch.set_num_threads(threads)
    module, x = layers_of(case, I, H), torch.randn(T, B, I)
    with torch.no_grad():
        expected = by_formula(module, x, "gru" if isinstance(module, nn.GRU) else "lstm")
    wrong = (fused_lstm.quantize(module)(x)[0] - expected).abs()
    assert wrong.max() < 4e-3
    assert wrong.median() < 1e-6


UNIT_SIZES = [(1, 4, 64, 32), (2, 16, 33, 17), (2, 20, 70, 45), (3, 39, 5, 130)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("T", "B", "I", "H"), UNIT_SIZES)
def test_bytes_of_a_matrix_unit_have_the_vectors_sums(case, T, B, I, H, threads):
    """Sums of bytes are exact, whoever makes them."""
    if "amx" not in native.OPS.isa_names():
        pytest.skip("this CPU has no AMX")
    torch.set_num_threads(threads)
    module, x, found = fused_lstm.quantize(layers_of(case, I, H)), torch.randn(T, B, I), {}
    try:
        for isa in ("amx", "avx512"):
            native.OPS.use_isa(isa)
            found[isa] = module(x)[0]
    finally:
        native.OPS.use_isa("")
    assert torch.equal(found["amx"], found["avx512"])


@pytest.mark.parametrize("weight", [float("inf"), float("nan")], ids=str)
def test_a_weight_that_is_not_finite_stays_in_its_unit(every_isa, weight):
    """Check that what a matrix unit reads behind a column is no weight of another unit."""
    module = nn.LSTM(33, 40)
    with torch.no_grad():
        module.weight_ih_l0[20, 0] = weight  # the second block's
    y = fused_lstm.prepare(module, torch.bfloat16)(torch.randn(1, 20, 33))[0]
    assert y[..., 20].isnan().all() == (weight != weight)
    assert y[..., [unit for unit in range(40) if unit != 20]].isfinite().all()


# Of outputs below 1: float32's rounding, and bfloat16's of weights and of h.
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("T", "B", "I", "H"), [*SIZES, WHOLE, ENDING])
def test_it_is_the_layer(every_isa, case, dtype, T, B, I, H, threads):
    torch.set_num_threads(threads)
    module, x = layers_of(case, I, H), torch.randn(T, B, I)
    with torch.no_grad():
        y, state = module(x)
    found, last = fused_lstm.prepare(module, dtype)(x)
    torch.testing.assert_close(found, y, rtol=0, atol=CLOSE[dtype])
    for a, b in zip(
        last if isinstance(last, tuple) else (last,),
        state if isinstance(state, tuple) else (state,), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=0, atol=2 * CLOSE[dtype])


@pytest.mark.parametrize("apart", [False, True], ids=["gates together", "gates apart"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("T", "B", "I", "H"), [(4, 1, 21, 37), (3, 2, 33, 20), WHOLE, ENDING])
def test_weights_are_read_as_another_cpu_packed_them(isa, monkeypatch, case, apart, T, B, I, H):
    monkeypatch.setattr(prepare, "GATES_TOGETHER", () if apart else (isa,))
    module, x = layers_of(case, I, H), torch.randn(T, B, I)
    prepared = fused_lstm.prepare(copy.deepcopy(module))
    assert {weight.dim() for weight in prepared.weights} == ({1, 2} if apart else {1})
    with torch.no_grad():
        expected = module(x)[0]
    torch.testing.assert_close(prepared(x)[0], expected, rtol=0, atol=CLOSE[torch.float32])
    for name, weight in prepared.state_dict().items():
        assert torch.equal(weight, getattr(module, name))


def test_weights_that_are_packed_in_two_ways_are_refused(monkeypatch):
    found = []
    for together in ((), native.OPS.isa_names()):
        monkeypatch.setattr(prepare, "GATES_TOGETHER", together)
        found.append(fused_lstm.prepare(nn.LSTM(3, 20)))
    found[0].weights[1] = found[1].weights[1]
    with pytest.raises(ValueError, match=r"weights\[1\]: got shape \[2560\]; expected \[8, 320\]"):
        found[0](torch.zeros(1, 1, 3))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("T", "B", "I", "H"), SIZES)
def test_weights_alone_are_rounded(isa, case, T, B, I, H, threads):
    torch.set_num_threads(threads)
    module, x = layers_of(case, I, H), torch.randn(T, B, I)
    found, _ = fused_lstm.quantize(module, weight_only=True)(x)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() == 2:
                rounded, scale = to_int8(weight)
                weight.copy_(rounded * scale[:, None])
        torch.testing.assert_close(found, module(x)[0], rtol=0, atol=CLOSE[torch.float32])


@pytest.mark.parametrize("dtype", [*CLOSE, torch.int8], ids=str)
def test_many_rows_are_divided_too(dtype):
    """Threads share the rows of 16 units, which are one block; the sums are the same."""
    module = fused_lstm.prepare(nn.LSTM(9, 16, num_layers=2, bidirectional=True), dtype)
    x, outputs = torch.randn(4, 150, 9), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        outputs.append(module(x)[0])
    assert torch.equal(*outputs)


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_layers_that_run_a_step_apart_are_those_that_run_in_turns(kind, layers):
    """Layers, 2 or 4 of them, are one thread's each, where a step is large enough to divide."""
    module = fused_lstm.prepare(kind(30, 70, num_layers=layers))
    for steps in (1, 2, 9):
        x, found = torch.randn(steps, 6, 30), []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y, last = module(x)
            found.append([y, *(last if isinstance(last, tuple) else (last,))])
        assert all(map(torch.equal, *found))


@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_a_packed_matrix_is_the_matrix(dtype, gates):
    for units, depth in ((1, 1), (16, 8), (37, 21)):
        weight = torch.randn(gates * units, depth) * 40
        scale = torch.rand(gates * units) if dtype == torch.int8 else None
        weight = weight.to(dtype)
        back, scales = unpack(pack(weight, gates, scale), gates, units, depth)
        assert torch.equal(back, weight)
        assert scale is None or torch.equal(scales, scale)
        if dtype == torch.float32:
            back, _ = unpack(pack(weight, gates, apart=True), gates, units, depth)
            assert torch.equal(back, weight)


def test_rows_and_columns_of_weights():
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-254.0, 127.0, 1.0]])
    values, scale = to_int8(weight)
    assert values.tolist() == [[64, -127, 32], [0, 0, 0], [-127, 64, 0]]
    assert scale.tolist() == pytest.approx([2 / 127, 0.0, 2.0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_little_is_lost(kind, dtype):
    module = kind(64, 96, 2, dtype=dtype)
    x = torch.randn(20, 5, 64, dtype=dtype)
    with torch.no_grad():
        expected = module(x)[0]
    y = fused_lstm.quantize(module)(x)[0]
    assert y.dtype == dtype
    assert (y - expected).abs().max() < 0.02


@pytest.mark.parametrize("kind", [fused_lstm.LSTM, fused_lstm.GRU])
def test_layouts_lengths_and_resets(kind):
    """A row is what it is alone, from where it begins to where it ends."""
    module = kind(11, 13, 2, batch_first=True, bidirectional=True)
    quantized = fused_lstm.quantize(module)
    x, lengths = torch.randn(3, 7, 11), torch.tensor([4, 7, 2])
    y, state = quantized(x, lengths=lengths)
    states = state if isinstance(state, tuple) else (state,)
    for b, T in enumerate(lengths.tolist()):
        alone, last = quantized(x[b : b + 1, :T])
        torch.testing.assert_close(y[b, :T], alone[0])
        assert y[b, T:].abs().max() == 0 if T < 7 else True
        for found, expected in zip(states, last if len(states) == 2 else (last,), strict=True):
            torch.testing.assert_close(found[:, b], expected[:, 0])
    packed, _ = quantized(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    assert packed.data.shape == (13, 26)
    resets = torch.zeros(3, 7, dtype=torch.bool)
    resets[1, 3] = True
    y = quantized(x, resets=resets)[0]
    torch.testing.assert_close(y[1, 3:], quantized(x[1:2, 3:])[0][0])
    torch.testing.assert_close(y[1, :3], quantized(x[1:2, :3])[0][0])
    torch.testing.assert_close(quantized(x[0])[0], quantized(x[:1])[0][0])  # unbatched


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("T", [1, WHOLE[0]])
@pytest.mark.parametrize("kind", [fused_lstm.LSTM, fused_lstm.GRU])
def test_rows_end_in_whole_steps(kind, isa, T, dtype):
    _, B, I, H = WHOLE
    module, x = kind(I, H, 2, bidirectional=True).eval(), torch.randn(T, B, I)
    lengths = torch.arange(B) % T + 1
    with torch.no_grad():
        expected = module(x, lengths=lengths)[0]
    found = fused_lstm.prepare(module, dtype)(x, lengths=lengths)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE[dtype])


def test_what_is_not_finite_stays_in_its_row():
    quantized, x = fused_lstm.quantize(nn.LSTM(3, 4)), torch.randn(2, 3, 3)
    expected = quantized(x)[0]
    x[1, 1, 2] = float("nan")
    x[1, 2, 0] = float("inf")
    y = quantized(x)[0]
    assert y[1, 1:].isnan().all()
    assert torch.equal(y[0], expected[0])
    assert torch.equal(y[1, 0], expected[1, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "proj_size": 2}], ids=str)
def test_a_state_dict_has_it_all(dtype, options):
    modules = [nn.LSTM(5, 6, 2, **options) for _ in range(2)]
    first, second = (fused_lstm.prepare(module, dtype) for module in modules)
    x = torch.randn(4, 2, 5)
    before = second(x)[0]
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x)[0], first(x)[0])
    assert not torch.equal(second(x)[0], before)
    assert second.state_dict()["weight_hh_l1"].dtype == dtype
    second.load_state_dict(modules[1].state_dict())  # the replaced layer's
    assert torch.equal(second(x)[0], before)


def test_a_state_dict_loads_into_the_layer_it_replaced():
    module = nn.LSTM(5, 6, 2)
    other = nn.LSTM(5, 6, 2)
    other.load_state_dict(fused_lstm.prepare(module).state_dict())
    assert all(map(torch.equal, module.parameters(), other.parameters()))


def test_a_state_dict_of_int8_is_small():
    module = nn.LSTM(50, 60, 2)
    of_float = sum(p.nbytes for p in module.parameters())
    small = fused_lstm.quantize(module).state_dict()
    assert sum(t.nbytes for t in small.values()) < 0.35 * of_float


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_state_dict_of_int8_loads_into_floats(dtype):
    first, x = fused_lstm.quantize(nn.LSTM(5, 6), weight_only=True), torch.randn(4, 2, 5)
    second = fused_lstm.prepare(nn.LSTM(5, 6), dtype)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(x)[0], first(x)[0], rtol=0, atol=CLOSE[dtype])
    assert second.state_dict()["weight_hh_l0"].dtype == dtype


class OfTheUsers(nn.LSTM):
    pass


def test_a_subclass_and_a_parametrization_are_left():
    """Their forward, or their weights, may be other than those that would be packed."""
    normed = torch.nn.utils.parametrizations.weight_norm(fused_lstm.LSTM(3, 4), "weight_hh_l0")
    model = nn.ModuleList([OfTheUsers(3, 4), normed])
    fused_lstm.prepare(model)
    assert type(model[0]) is OfTheUsers
    assert model[1] is normed


def test_resets_among_rows_of_unequal_length():
    """Resets come in the order of x, which is sorted and packed."""
    module = fused_lstm.LSTM(3, 4, batch_first=True)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([2, 6, 4])
    resets = torch.rand(3, 6) < 0.4
    with torch.no_grad():
        expected = module(x, lengths=lengths, resets=resets)[0]
    y = fused_lstm.prepare(module)(x, lengths=lengths, resets=resets)[0]
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-6)


def test_wrong_state_dicts_are_named():
    module = fused_lstm.quantize(nn.LSTM(5, 6))
    right = module.state_dict()
    x = torch.randn(2, 1, 5)
    before = module(x)[0]
    with pytest.raises(
        RuntimeError, match=r"weight_hh_l0: got shape \(24, 7\); expected \(24, 6\)"
    ):
        module.load_state_dict(nn.LSTM(5, 6).state_dict() | {"weight_hh_l0": torch.zeros(24, 7)})
    assert torch.equal(module(x)[0], before), "a part of it was taken"
    with pytest.raises(RuntimeError, match="weight_ih_l0_scale"):
        module.load_state_dict({k: v for k, v in right.items() if k != "weight_ih_l0_scale"})
    with pytest.raises(RuntimeError, match=r"Missing key.*bias_hh_l0"):
        module.load_state_dict({k: v for k, v in right.items() if k != "bias_hh_l0"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*more"):
        module.load_state_dict(right | {"more": torch.zeros(1)})
    assert torch.equal(module(x)[0], before)


def every_way_to_change(module: nn.Module) -> None:
    """Change weights as a version counter sees it, and as it does not."""
    with torch.no_grad():
        module.weight_ih_l0.mul_(2)
    module.weight_hh_l0.data.add_(1)
    module.bias_ih_l0.detach().numpy()[:] = 3
    module.bias_hh_l0.data = torch.zeros(24)
    with torch.inference_mode():
        module.weight_ih_l1.zero_()
    module.weight_hh_l1 = nn.Parameter(torch.zeros(24, 6))


def test_it_has_the_weights_of_its_moment():
    """Nothing is kept that could become older: a change of the layer is seen by nothing of it."""
    module, x = nn.LSTM(5, 6, 2), torch.randn(4, 2, 5)
    prepared = fused_lstm.prepare(module)
    before = prepared(x)[0]
    every_way_to_change(module)
    assert torch.equal(prepared(x)[0], before)
    assert not torch.equal(fused_lstm.prepare(module)(x)[0], before)


def test_what_it_has_unpacked_is_of_the_weights_it_has_now():
    """A CPU with AMX reads bfloat16 weights of many rows as they were before they were packed."""
    layer, other = (fused_lstm.prepare(nn.LSTM(5, 6), torch.bfloat16) for _ in range(2))
    layer._unpack()
    layer.load_state_dict(other.state_dict())
    for mine, theirs in zip(layer._unpack(), other._unpack(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.is_contiguous()  # or each call would copy it


def test_it_is_copied_pickled_and_cast():
    prepared, x = fused_lstm.prepare(nn.LSTM(5, 6, 2)), torch.randn(4, 2, 5)
    y = prepared(x)[0]
    file = io.BytesIO()
    torch.save(prepared, file)
    file.seek(0)
    for other in (copy.deepcopy(prepared), torch.load(file, weights_only=True)):
        assert torch.equal(other(x)[0], y)
    assert prepared.to(torch.bfloat16)(x.bfloat16())[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("of", "asked", "is_in"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float16, None, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
    ],
    ids=str,
)
def test_its_dtype(of, asked, is_in):
    module = nn.LSTM(5, 6, dtype=of)
    prepared = fused_lstm.prepare(module, asked)
    assert prepared.state_dict()["weight_hh_l0"].dtype == is_in
    assert prepared(torch.randn(2, 1, 5, dtype=of))[0].dtype == of
    assert fused_lstm.prepare(module, asked).state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("module", [nn.LSTM(16, 13, bias=False), nn.LSTM(16, 14, proj_size=13)])
def test_a_state_of_another_size_is_refused(module, dtype):
    """Packed rows are a multiple of 16: of 13 units or of 14, they have as many bytes."""
    prepared = fused_lstm.prepare(copy.deepcopy(module), dtype)
    h = torch.zeros(1, 2, 14)
    with pytest.raises(ValueError, match=r"h_0: got shape \[1, 2, 14\]; expected \[1, 2, 13\]"):
        prepared(torch.randn(3, 2, 16), (h, h))


def test_a_graph_has_it():
    """A graph of torch.export has the operator, and gives the same for other sizes."""
    prepared = fused_lstm.prepare(nn.LSTM(5, 6, 2))
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    program = torch.export.export(prepared, (torch.randn(4, 3, 5),), dynamic_shapes=({0: T, 1: B},))
    x = torch.randn(7, 2, 5)
    assert torch.equal(program.module()(x)[0], prepared(x)[0])
    graphs = [m.graph for m in program.graph_module.modules() if hasattr(m, "graph")]
    calls = {str(n.target) for graph in graphs for n in graph.nodes if n.op == "call_function"}
    assert "fused_lstm_native.prepared_lstm.default" in calls


def test_explain_says_it():
    said = fused_lstm.explain(fused_lstm.quantize(nn.Sequential(nn.LSTM(3, 4))))
    assert said == {"0": "native, with weights of torch.int8 packed once, for inference"}


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"dtype: got torch\.float64; expected None or one of"):
        fused_lstm.prepare(nn.LSTM(3, 4), torch.float64)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.LSTM(3, 4), nn.Sequential(fused_lstm.GRU(4, 4), nn.RNN(4, 4))
        self.again, self.odd = self.first, fused_lstm.LSTM(3, 4, peephole=True)


def test_a_model_keeps_its_places(caplog):
    model = Model()
    with caplog.at_level(logging.WARNING, "fused_lstm"):
        assert fused_lstm.quantize(model) is model
    assert isinstance(model.first, Prepared)
    assert model.again is model.first
    assert isinstance(model.inner[0], Prepared)
    assert isinstance(model.inner[1], Prepared)
    assert isinstance(model.odd, fused_lstm.LSTM)
    (left,) = [record.getMessage() for record in caplog.records]
    assert left.startswith("left odd, a LSTM: its cell has options")


# Cells of one to four gates of x and h: of three, two that are a pair, three with a pair, one; with
# weights of a unit, inputs, a gate of x alone, products inside the step; and two of these.
TOLD = (
    "lltm",
    "mgu",
    "gru",
    "rnn",
    "ind_rnn",
    "cfc",
    "nbrc",
    "gru_reset_before",
    "highway",
    "time_lstm",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@cells_in_turn("name", {name: name for name in TOLD})
def test_a_cell_of_ones_own(every_isa, name, dtype):
    """The layer with the weights that a state_dict has; products round x and h besides."""
    cell = zoo.ALL[name]
    layers, inputs = 1 if cell.inputs else 2, {n: torch.rand(4, 3, 1) for n in cell.inputs}
    layer = fused_lstm.Recurrent(cell, 5, 21, layers, bidirectional=True, engine="native")
    prepared, x = Prepared(layer, dtype), torch.randn(4, 3, 5)
    weights = prepared.state_dict()
    for key, weight in weights.items():
        scale = weights.get(f"{key}_scale")
        value = weight.float() if scale is None else weight.float() * scale[:, None]
        if not key.endswith("_scale"):
            layer.get_parameter(key).data.copy_(value)
    allowed = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.int8: 3e-2}[dtype]
    lengths = torch.tensor([4, 2, 3])
    with torch.no_grad():
        for given in ({}, {"lengths": lengths}, {"resets": torch.rand(4, 3) > 0.5}):
            given |= inputs
            leaves = (torch.utils._pytree.tree_leaves(m(x, **given)) for m in (prepared, layer))
            for found, wanted in zip(*leaves, strict=True):
                assert (found - wanted).abs().max() <= allowed * max(1, wanted.abs().max())


@fused_lstm.cell(states="c", products={"u": 2}, weights="w")
def of_two_columns(f, g, *, c, w, u):
    a, b = u(torch.tanh(g))
    c = torch.sigmoid(f + a) * c + torch.tanh(b * w)
    return torch.tanh(c), c


@pytest.mark.parametrize("name", ["of_two_columns", "gru_reset_before", "ind_rnn", "lltm"])
def test_a_cell_without_biases_and_other_weights_between_two_calls(name):
    """Vectors of a unit, and products' biases, are joined once for the weights that there are."""
    cell, x = zoo.ALL.get(name, of_two_columns), torch.randn(4, 3, 5)
    for bias in (False, True):
        first, second = (fused_lstm.Recurrent(cell, 5, 21, 2, bias) for _ in range(2))
        prepared = fused_lstm.prepare(first)
        assert isinstance(prepared, Prepared)
        for layer in (first, second):
            prepared.load_state_dict(layer.state_dict())
            with torch.no_grad():
                torch.testing.assert_close(prepared(x)[0], layer(x)[0], rtol=1e-5, atol=1e-6)


@fused_lstm.cell(states={"c": 0.5})
def begins_elsewhere(f, g, *, c):
    c = torch.sigmoid(f) * c + torch.tanh(g)
    return torch.tanh(c), c


def test_a_stream_of_a_cell_with_inputs():
    prepared = fused_lstm.prepare(fused_lstm.Recurrent(zoo.cfc_backbone, 3, 4))
    x, dt = torch.randn(3, 2, 3), torch.rand(3, 2, 1)
    stream = fused_lstm.Streaming(prepared, 2)
    found = torch.stack([stream(row, dt=own) for row, own in zip(x, dt, strict=True)])
    torch.testing.assert_close(found, prepared(x, dt=dt)[0])
    with pytest.raises(ValueError, match="inputs: got none; expected the cell's: dt"):
        stream(x[0])


def test_a_cell_of_ones_own_is_pickled_and_streamed(tmp_path):
    """Another process compiles the cell, or finds it compiled, when it loads the layer."""
    prepared, x = fused_lstm.prepare(fused_lstm.Recurrent(zoo.lltm, 3, 4)), torch.randn(3, 2, 3)
    y = prepared(x)[0]
    stream = fused_lstm.Streaming(prepared, 2)
    assert torch.equal(torch.stack([stream(row) for row in x]), y)
    file = str(tmp_path / "layer.pt")
    torch.save((prepared, x, y), file)
    code = (
        f"import torch; layer, x, y = torch.load({file!r}, weights_only=False)\n"
        "assert torch.equal(layer(x)[0], y)"
    )
    fresh.python(code, fresh.CELLS)


@pytest.mark.parametrize(
    ("name", "units", "why"),
    [
        ("sru", None, "4 gates of x and 0 of h, not one to four of each"),
        ("ran", None, "gates of one of x and h do not come last"), ("rhn", None, "several states"),
        ("cfc_backbone", {"a": 9}, "other widths than hidden_size"),
        (begins_elsewhere, None, "or one that begins at another value than 0"),
    ],
)  # fmt: skip
def test_which_cells_are_left(caplog, name, units, why):
    cell = zoo.ALL[name] if isinstance(name, str) else name
    layer = fused_lstm.Recurrent(cell, 3, 4, units=units)
    with caplog.at_level(logging.WARNING, "fused_lstm"):
        assert fused_lstm.prepare(layer) is layer
    assert re.search(f"left the model, a Recurrent: its .*{why}", caplog.text)
    with pytest.raises(ValueError, match="module: got Recurrent, which is left: its"):
        Prepared(layer)


def test_who_computes_weights_at_each_call_is_left(caplog):
    """weight_norm and prune make a weight in a hook: until a call it is that of the last one."""
    plain, normed, pruned = nn.LSTM(3, 4), nn.LSTM(3, 4), fused_lstm.GRU(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would have weight_norm's successor
        torch.nn.utils.weight_norm(normed, "weight_hh_l0")
    prune.random_unstructured(pruned, "weight_hh_l0", 0.5)
    with torch.no_grad():
        normed.weight_hh_l0_g.mul_(3)  # the hook has not run since
        pruned.weight_hh_l0_orig.mul_(3)
    hooked = nn.LSTM(3, 4)
    hooked.register_forward_hook(lambda *_: None)
    model, x = nn.ModuleList([plain, normed, pruned, hooked]), torch.randn(2, 1, 3)
    with caplog.at_level(logging.WARNING, "fused_lstm"):
        fused_lstm.prepare(model)
    assert [type(layer) for layer in model] == [Prepared, nn.LSTM, fused_lstm.GRU, nn.LSTM]
    left = [record.getMessage() for record in caplog.records]
    for line, name in zip(left, ("1", "2", "3"), strict=True):
        assert line.startswith(f"left {name}, a ")
        assert "hook" in line
    with pytest.raises(ValueError, match="module: got LSTM, which is left: it has a forward pre-"):
        Prepared(normed)
    with torch.no_grad():
        expected = [layer(x)[0] for layer in (normed, pruned)]
    torch.nn.utils.remove_weight_norm(normed, "weight_hh_l0")
    prune.remove(pruned, "weight_hh_l0")
    fused_lstm.prepare(model)
    for layer, y in zip(model[1:3], expected, strict=True):
        assert isinstance(layer, Prepared)
        torch.testing.assert_close(layer(x)[0], y, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_the_inputs_width_is_checked(dtype):
    """Of packed columns there are some more, which no x may fill."""
    prepared = fused_lstm.prepare(nn.LSTM(16, 5, bias=False, batch_first=True), dtype)
    for width in (13, 14, 15, 17):
        with pytest.raises(ValueError, match=rf"input: .*{width}\]; expected \[B, T, I\].*I = 16"):
            prepared(torch.randn(1, 2, width))
        packed = pack_padded_sequence(torch.randn(1, 2, width), torch.tensor([2]), True)
        with pytest.raises(ValueError, match=rf"input: got shape \[2, {width}\]; .* I = 16"):
            prepared(packed)
    x = torch.randn(1, 2, 16)
    for size in (4, 6, 8):
        for name, other in ("h_0", 1), ("c_0", 0):
            states = [torch.zeros(1, 1, 5), torch.zeros(1, 1, 5)]
            states[1 - other] = torch.zeros(1, 1, size)
            with pytest.raises(ValueError, match=rf"{name}: got shape \[1, 1, {size}\]; expected"):
                prepared(x, tuple(states))


def test_it_is_asked_what_nn_lstm_is_asked():
    prepared = fused_lstm.prepare(nn.LSTM(3, 4, 2, bidirectional=True, dropout=0.5))
    prepared.flatten_parameters()
    assert (prepared.bidirectional, prepared.bias, prepared.dropout) == (True, True, 0.0)
    assert not fused_lstm.prepare(nn.GRU(3, 4, bias=False)).bias


def test_unbatched_lengths_and_resets():
    module = fused_lstm.LSTM(3, 4)
    prepared, x = fused_lstm.prepare(module), torch.randn(5, 3)
    resets = torch.tensor([False, True, False, False, True])
    for rows in ({"resets": resets}, {"lengths": torch.tensor(3)}):
        with torch.no_grad():
            expected = module(x, **rows)[0]
        torch.testing.assert_close(prepared(x, **rows)[0], expected, rtol=0, atol=2e-6)


WRONG = {
    "no c": (
        lambda p: p(torch.zeros(2, 1, 3), (torch.zeros(1, 1, 4), None)),
        "c_0: got NoneType; expected a tensor",
    ),
    "no pair": (
        lambda p: p(torch.zeros(2, 1, 3), torch.zeros(1, 1, 4)),
        "hx: got Tensor; expected a pair",
    ),
    "one dimension": (
        lambda p: p(torch.zeros(3)),
        r"input: got shape \[3\]; expected \[T, B, I\] or \[T, I\] with I = 3",
    ),
    "no tensor": (lambda p: p([1.0]), "input: got list; expected a tensor"),
    "state's rank": (
        lambda p: p(torch.zeros(2, 3), (torch.zeros(1, 1, 4),) * 2),
        r"h_0: got shape \[1, 1, 4\]; expected \[L \* D, H\]",
    ),
    "on meta": (
        lambda p: p(torch.zeros(2, 1, 3), (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4).to("meta"))),
        "c0: got device meta; expected cpu",
    ),
    "lengths twice": (
        lambda p: p(
            pack_padded_sequence(torch.zeros(2, 1, 3), torch.tensor([2])), lengths=torch.tensor([2])
        ),
        "lengths: got a tensor; expected None with a PackedSequence",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(fused_lstm.prepare(nn.LSTM(3, 4)))


@pytest.mark.parametrize("weight_only", [False, True], ids=["", "weights alone"])
def test_sums_of_bytes_do_not_overflow(weight_only):
    """The deepest matrix whose sum an int32 holds, and one that is a column deeper."""
    deepest = 133_144
    module, x = nn.LSTM(deepest, 1), torch.ones(1, 1, deepest)
    with torch.no_grad():
        module.weight_ih_l0.fill_(1e-3)
        module.bias_ih_l0.fill_(-deepest / 1e3 + 0.5)
        expected = module(x)[0]
        y = fused_lstm.quantize(module, weight_only=weight_only)(x)[0]
        torch.testing.assert_close(y, expected, rtol=0, atol=0.02)
    deeper = nn.LSTM(deepest + 1, 1)
    if weight_only:
        fused_lstm.quantize(deeper, weight_only=True)
        return
    with pytest.raises(
        ValueError, match=r"weight_ih_l0: got 133,145 columns with torch\.int8; expected at most"
    ):
        fused_lstm.quantize(deeper)


@pytest.mark.parametrize("kind", [torch.int32, torch.float16, torch.float64, "shape"], ids=str)
def test_scales_are_checked_when_they_are_loaded(kind):
    module = fused_lstm.quantize(nn.LSTM(5, 6))
    state, x = module.state_dict(), torch.randn(2, 1, 5)
    before, scale = module(x)[0], state["weight_hh_l0_scale"]
    state["weight_hh_l0_scale"] = scale[:-1] if kind == "shape" else scale.to(kind)
    with pytest.raises(
        RuntimeError, match=r"weight_hh_l0_scale: got torch\..*; expected torch\.fl"
    ):
        module.load_state_dict(state)
    assert torch.equal(module(x)[0], before)


def test_wrong_arguments_are_named():
    quantized = fused_lstm.quantize(nn.LSTM(3, 4))
    with pytest.raises(ValueError, match=r"x: got dtype Double"):
        quantized(torch.randn(2, 2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"h_0: got shape \[1, 1, 4\]; expected \[1, 2, 4\]"):
        quantized(torch.randn(2, 2, 3), (torch.zeros(1, 1, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(ValueError, match=r"weight_only: got True with dtype torch.bfloat16"):
        fused_lstm.prepare(nn.LSTM(3, 4), torch.bfloat16, weight_only=True)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_many_rows_of_bfloat16_are_the_layers(cell):
    """They meet weights that are unpacked once, until others are loaded."""
    if native.OPS.isa() not in MANY_ROWS:
        pytest.skip(f"not measured on {native.OPS.isa()}")
    layers = [
        getattr(fused_lstm, cell)(
            24, 33, 2, dtype=torch.bfloat16, bidirectional=True, engine="native"
        )
        for _ in range(2)
    ]
    prepared = fused_lstm.prepare(copy.deepcopy(layers[0]))
    x, lengths = torch.randn(13, 12, 24).bfloat16(), torch.randint(1, 14, (12,))
    lengths[0] = 13
    with torch.no_grad():
        for layer in layers:
            prepared.load_state_dict(layer.state_dict())
            for rows in ({}, {"lengths": lengths}):
                assert torch.equal(prepared(x, **rows)[0], layer(x, **rows)[0])
    assert len(pickle.dumps(prepared)) < 1.5 * sum(w.nbytes for w in prepared.weights)


class Tagger(nn.Module):
    """An embedding, a recurrent layer of a kind, and a linear layer."""

    def __init__(self, kind: str, **options) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.recurrent = getattr(nn, kind)(8, 6, 2, bidirectional=True, **options)
        self.tags = nn.Linear(2 * (options.get("proj_size") or 6), 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.tags(self.recurrent(self.embed(words))[0])


def test_it_cannot_be_trained():
    """In training mode a call is an error, and in evaluation a backward through it is one."""
    model, words = fused_lstm.prepare(Tagger("LSTM")).eval(), torch.randint(10, (5, 2))
    with pytest.raises(RuntimeError, match="a Prepared layer: got a call to be trained"):
        model(words).sum().backward()
    packed = pack_padded_sequence(torch.randn(5, 2, 8, requires_grad=True), [5, 3])
    y, (h_n, _) = model.recurrent(packed)
    for result in (y.data, h_n):
        with pytest.raises(RuntimeError, match="a Prepared layer: got a call to be trained"):
            result.sum().backward()
    model.train()
    with pytest.raises(RuntimeError, match="a Prepared layer: got a call to be trained"):
        model(words)
    with torch.no_grad():  # asks for no gradient
        model(words)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"dropout": 0.3}), ("LSTM", {"proj_size": 4}), ("GRU", {"batch_first": True}),
        ("RNN", {"nonlinearity": "relu", "bias": False}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_torchs_layer_comes_back(kind, options, dtype):
    model = Tagger(kind, **options)
    before, first = copy.deepcopy(model), model.recurrent
    fused_lstm.prepare(model, dtype)
    rounded = model.recurrent.state_dict()
    assert fused_lstm.conversions(model, back=True) == {"recurrent": None}
    assert fused_lstm.convert(model, back=True) is model
    after = model.recurrent
    assert type(after) is type(first)
    assert repr(after) == repr(first)
    for name, weight in before.recurrent.state_dict().items():
        again = after.state_dict()[name]
        scale = rounded.get(f"{name}_scale")
        steps = 0 if scale is None else scale.max() / 2
        expected = weight.to(torch.bfloat16) if dtype == torch.bfloat16 else weight
        torch.testing.assert_close(again, expected, rtol=0, atol=float(steps) * 1.001)
    model.float()(torch.randint(10, (5, 2))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_cell_that_torch_lacks_does_not_come_back():
    model = nn.Sequential(fused_lstm.LSTM(3, 4, reverse=True), nn.LSTM(4, 4))
    fused_lstm.prepare(model)
    prepared = list(model)
    with pytest.raises(ValueError, match=r"reverse: got True; expected False for nn\.LSTM"):
        fused_lstm.convert(model, back=True)
    assert list(model) == prepared
