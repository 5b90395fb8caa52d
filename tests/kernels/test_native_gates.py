"""`native` counts a cell's gates: its operators as a GRU and as an RNN against PyTorch's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_lstm import native, reference
from fused_lstm.rows import reset_mask
from fused_lstm.spec import Spec
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)

RATES = [0.0] * 4
THEIRS = {
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **how: nn.RNN(*sizes, nonlinearity="relu", **how),
}


def kernel(name: str, *arguments, **options):
    """Call a kernel itself, below what autograd makes of it."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(native.OPS, name).default(*arguments, **options)


each_cell = pytest.mark.parametrize("cell", THEIRS)


class Case(NamedTuple):
    T: int = 5
    B: int = 4
    I: int = 3
    H: int = 7
    L: int = 2
    bidirectional: bool = False
    bias: bool = True
    lengths: bool = False
    resets: bool = False
    fuse: str = "layers"


CASES = {
    "plain": Case(),
    "one": Case(1, 1, 1, 1, 1),
    "short, units of many vectors": Case(3, 2, 9, 71),
    "no bias": Case(bias=False),
    "no bias, short": Case(T=2, B=2, bias=False),
    "more rows than a tile": Case(4, 33, 5, 18, 1),
    "panels of one, two, three and four blocks": Case(20, 3, 70, 150, 1),
    "deep": Case(9, 6, 35, 40, 4),
    "steps": Case(9, 20, 35, 40, 2, fuse="steps"),
    "bidirectional": Case(9, 8, 5, 19, 2, bidirectional=True),
    "bidirectional, short": Case(3, 4, 5, 19, 2, bidirectional=True),
    "lengths": Case(11, 7, 5, 33, 2, bidirectional=True, lengths=True),
    "resets": Case(11, 7, 5, 33, 2, resets=True),
    "resets, short": Case(4, 3, 5, 33, 2, resets=True),
    "all": Case(11, 20, 5, 33, 3, bidirectional=True, lengths=True, resets=True),
}


def problem(cell: str, case: Case, dtype: torch.dtype = torch.float64, seed: int = 0):
    """PyTorch's module, x packed or not, h0, batch_sizes, resets [T, B] or None."""
    torch.manual_seed(seed)
    how = {"bidirectional": case.bidirectional, "bias": case.bias, "dtype": dtype}
    module = THEIRS[cell](case.I, case.H, case.L, **how)
    x = torch.randn(case.T, case.B, case.I, dtype=dtype)
    h0 = torch.randn(case.L * (1 + case.bidirectional), case.B, case.H, dtype=dtype)
    sizes = resets = None
    if case.resets:
        resets = torch.rand(case.T, case.B) < 0.3
    if case.lengths:
        lengths = torch.randint(1, case.T + 1, (case.B,)).sort(descending=True).values
        lengths[0] = case.T
        x, sizes, *_ = nn.utils.rnn.pack_padded_sequence(x, lengths)
    return module, x, h0, sizes, resets


def expected(module: nn.RNNBase, x: Tensor, h0: Tensor, sizes, resets) -> tuple[Tensor, Tensor]:
    """y, as x is, and h_n: PyTorch's module row by row and, between resets, part by part."""
    if resets is None and sizes is None:
        return module(x, h0)
    if resets is None:
        y, h_n = module(nn.utils.rnn.PackedSequence(x, sizes), h0)
        return y.data, h_n
    T, B = resets.shape
    D = 1 + module.bidirectional
    lengths = [T] * B if sizes is None else [int((sizes > b).sum()) for b in range(B)]
    padded = x if sizes is None else nn.utils.rnn.pad_packed_sequence(
        nn.utils.rnn.PackedSequence(x, sizes))[0]  # fmt: skip
    rows, last = [], []
    for b, n in enumerate(lengths):
        below, ends = padded[:n, b], []
        for layer in range(module.num_layers):
            halves = []
            for d in range(D):
                one = lane_of(module, layer, d)
                state, made = h0[layer * D + d, b], [None] * n
                for t in reversed(range(n)) if d else range(n):
                    first = t + 1 if d else t  # nothing crosses between it and the one before
                    if first < n and resets[first, b]:
                        state = torch.zeros_like(state)
                    made[t], state = one(below[t : t + 1], state[None])
                    state = state[0]
                halves.append(torch.cat(made))
                ends.append(state)
            below = torch.cat(halves, -1)
        rows.append(below)
        last.append(torch.stack(ends))
    y = nn.utils.rnn.pad_sequence(rows)
    if sizes is not None:
        y = nn.utils.rnn.pack_padded_sequence(y, torch.tensor(lengths)).data
    return y, torch.stack(last, 1)


def lane_of(module: nn.RNNBase, layer: int, direction: int) -> Callable:
    """One layer in one direction, on the same parameters."""
    end = f"_l{layer}" + "_reverse" * direction
    names = [n for n in dict(module.named_parameters()) if n.endswith(end)]
    weights = {n[: -len(end)] + "_l0": getattr(module, n) for n in names}
    inputs, H = weights["weight_ih_l0"].shape[1], module.hidden_size
    kind = nn.GRU if isinstance(module, nn.GRU) else nn.RNN
    how = {"bias": module.bias, "dtype": weights["weight_ih_l0"].dtype}
    if kind is nn.RNN:
        how["nonlinearity"] = module.nonlinearity
    one = kind(inputs, H, 1, **how)

    def run(x, h):
        return torch.func.functional_call(one, weights, (x, h))

    return run


def check(cell: str, case: Case, dtype: torch.dtype = torch.float64) -> None:
    """Values and gradients of the operators are PyTorch's, with what is saved and without."""
    module, x, h0, sizes, resets = problem(cell, case, dtype)
    x.requires_grad_()
    h0.requires_grad_()
    wanted, last = expected(module, x, h0, sizes, resets)
    dy, dh_n = torch.randn_like(wanted), torch.randn_like(last)
    weights = list(module.parameters())
    leaves = [x, h0, *weights]
    gradients = torch.autograd.grad([wanted, last], leaves, [dy, dh_n])

    x, h0, weights = x.detach(), h0.detach(), [w.detach() for w in weights]
    D = 1 + case.bidirectional
    not_reset = None
    if resets is not None:
        given = resets
        if sizes is not None:
            lengths = torch.tensor([int((sizes > b).sum()) for b in range(case.B)])
            given = nn.utils.rnn.pack_padded_sequence(resets, lengths).data
        not_reset = reset_mask(given, D, case.B, sizes)
    lanes = {
        "directions": D,
        "batch_sizes": sizes,
        "not_reset": not_reset,
        "cell": cell,
        "rates": RATES,
    }
    inputs = x, h0, h0, weights, 0.0, None, case.fuse
    with torch.no_grad():
        y, h_n, c_n, *_ = kernel("lstm", *inputs, False, **lanes)
        assert_close(y, wanted.detach(), "y of inference")
        y, h_n, c_n, *saved = kernel("lstm", *inputs, True, **lanes)
        for name, value in {"y": y, "h_n": h_n, "c_n": c_n}.items():
            assert_close(value, (wanted if name == "y" else last).detach(), name)
        # A gradient by c_n is one by h_n, and c0 is h0: half of it each way.
        dx, dh0, dc0, dweights = kernel(
            "lstm_backward", dy, dh_n / 2, dh_n / 2, *inputs, y, *saved, True, **lanes
        )
    names = ["x", "h0", *dict(module.named_parameters())]
    for name, one, other in zip(names, [dx, dh0 + dc0, *dweights], gradients, strict=True):
        assert_close(one, other, f"gradient by {name}")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@each_cell
def test_it_is_pytorchs(cell, case):
    check(cell, case)


@pytest.mark.parametrize("name", ["short, units of many vectors", "deep", "all"])
@each_cell
def test_float32(cell, name):
    check(cell, CASES[name], torch.float32)


@pytest.mark.parametrize("name", ["plain", "short, units of many vectors", "deep", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_cell
def test_each_instruction_set(isa, cell, name, dtype):
    check(cell, CASES[name], dtype)


def outcome(cell: str, dtype: torch.dtype, case: Case, ours: bool, seed: int) -> dict[str, Tensor]:
    """Values and gradients in float64: PyTorch's, or the operators'."""
    module, x, h0, _, _ = problem(cell, case, torch.bfloat16, seed)
    module, x, h0 = module.to(dtype), x.to(dtype), h0.to(dtype)
    names = ["x", "h0", *dict(module.named_parameters())]
    dy = torch.randn(case.T, case.B, case.H, dtype=torch.bfloat16).to(dtype)
    if not ours:
        x.requires_grad_()
        h0.requires_grad_()
        y, h_n = module(x, h0)
        gradients = torch.autograd.grad([y], [x, h0, *module.parameters()], [dy])
    else:
        weights = [w.detach() for w in module.parameters()]
        inputs = x, h0, h0, weights, 0.0, None, "layers"
        y, h_n, _, *saved = kernel("lstm", *inputs, True, cell=cell, rates=RATES)
        dx, dh0, dc0, dweights = kernel(
            "lstm_backward", dy, None, None, *inputs, y, *saved, True, cell=cell, rates=RATES
        )
        gradients = dx, dh0 + dc0, *dweights
    found = {"y": y, "h_n": h_n} | dict(zip(names, gradients, strict=True))
    return {name: value.detach().double() for name, value in found.items()}


@pytest.mark.parametrize("sizes", [(9, 6), (2, 3)], ids=["", "a short call"])
@each_cell
def test_bfloat16_is_as_near_as_pytorchs(cell, sizes, bf16_isa):
    """To float64, of weights and inputs that bfloat16 has. A unit of a ReLU may fall on the other
    side of 0, so it is the mean of ten seeds that is compared.
    """
    before, errors = native.OPS.isa(), {}
    native.OPS.use_isa(bf16_isa)
    try:
        for seed in range(10):
            case = Case(*sizes, 19, 35, 2)
            wanted = outcome(cell, torch.float64, case, False, seed)
            ours = outcome(cell, torch.bfloat16, case, True, seed)
            theirs = outcome(cell, torch.bfloat16, case, False, seed)
            for name, value in wanted.items():
                pair = ((of[name] - value).norm() / value.norm() for of in (ours, theirs))
                errors.setdefault(name, []).append([error.item() for error in pair])
    finally:
        native.OPS.use_isa(before)
    for name, pairs in errors.items():
        mine, other = torch.tensor(pairs).mean(0).tolist()
        assert mine <= 1.25 * other + 2e-3, f"{name}: {mine:.3g} against {other:.3g}"


@pytest.mark.parametrize("threads", [1, 2])
@each_cell
def test_threads_give_the_same_bits(cell, threads):
    case, found = Case(13, 21, 70, 80, 2), []
    module, x, h0, _, _ = problem(cell, case, torch.float32)
    weights, before = [w.detach() for w in module.parameters()], torch.get_num_threads()
    for count in (threads, 1):
        torch.set_num_threads(count)
        try:
            inputs = x, h0, h0, weights, 0.0, None, "steps"
            y, h_n, _, *saved = kernel("lstm", *inputs, True, cell=cell, rates=RATES)
            dy = torch.ones_like(y)
            dx, dh0, _, dweights = kernel(
                "lstm_backward", dy, None, None, *inputs, y, *saved, True, cell=cell, rates=RATES
            )
        finally:
            torch.set_num_threads(before)
        found.append([y, h_n, dx, dh0, *dweights])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# --- what a GRU may have more ---

OPTIONS = {
    "layer_norm": ("layer_norm,gru", {}),
    "zoneout": ("gru", {"zoneout": (0.4, 0.0)}),
    "recurrent_dropout": ("gru", {"recurrent_dropout": 0.4}),
    "all": ("layer_norm,gru", {"zoneout": (0.3, 0.0), "recurrent_dropout": 0.4}),
}


def written_out(
    x: Tensor, h0: Tensor, weights: list[Tensor], cell: Spec, norm: bool, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A stack of GRU layers with masks and layer norm, a step at a time: y, h_n."""
    (L, B, H), T = h0.shape, len(x)
    per_lane, last = len(weights) // L, []
    for layer in range(L):
        w_ih, w_hh, *others = weights[layer * per_lane : (layer + 1) * per_lane]
        gains = [others.pop(), others.pop()] if norm else []
        b_ih, b_hh = others or [torch.zeros(3 * H, dtype=x.dtype)] * 2
        draws = reference.draw(cell, seed, layer, L, T, B, H, H)
        h, y = h0[layer], []
        for t in range(T):
            fed = h if draws.recurrent is None else h * draws.recurrent.to(h.dtype)
            by_x, by_h = x[t] @ w_ih.T, fed @ w_hh.T
            if norm:
                by_x = F.layer_norm(by_x, by_x.shape[1:]) * gains[1]
                by_h = F.layer_norm(by_h, by_h.shape[1:]) * gains[0]
            (x_r, x_z, x_n), (h_r, h_z, h_n) = (by_x + b_ih).chunk(3, 1), (by_h + b_hh).chunk(3, 1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            new = (1 - z) * torch.tanh(x_n + r * h_n) + z * h
            kept = draws.at(t).zoneout_h
            kept = 0.0 if kept is None else kept
            kept = kept.to(h.dtype) if isinstance(kept, Tensor) else kept
            h = kept * h + (1 - kept) * new
            y.append(h)
        x = torch.stack(y)
        last.append(h)
    return x, torch.stack(last)


@pytest.mark.parametrize("bias", [True, False], ids=["", "no bias"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [Case(7, 5, 4, 19, 2), Case(2, 3, 4, 19, 2)], ids=["", "short"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_gru_with_options_is_the_one_written_out(options, case, training, bias):
    name, rates = OPTIONS[options]
    cell, norm = Spec(**rates), "layer_norm" in name
    seed = torch.tensor([12345]) if training else None
    torch.manual_seed(1)
    weights = []
    for layer in range(case.L):
        inputs = case.H if layer else case.I
        shapes = [(3 * case.H, inputs), (3 * case.H, case.H)]
        shapes += [(3 * case.H,)] * (2 * bias + 2 * norm)
        weights += [torch.randn(shape, dtype=torch.float64) * 0.5 for shape in shapes]
    x = torch.randn(case.T, case.B, case.I, dtype=torch.float64)
    h0 = torch.randn(case.L, case.B, case.H, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (x, h0, *weights)]
    wanted, last = written_out(leaves[0], leaves[1], leaves[2:], cell, norm, seed)
    dy, dh_n = torch.randn_like(wanted), torch.randn_like(last)
    gradients = torch.autograd.grad([wanted, last], leaves, [dy, dh_n])
    how = {"cell": name, "rates": [*cell.zones, cell.recurrent_dropout, 0.0]}
    inputs = x, h0, h0, weights, 0.0, seed, "layers"
    y, *_ = kernel("lstm", *inputs, False, **how)
    assert_close(y, wanted.detach(), "y of inference")
    y, h_n, c_n, *saved = kernel("lstm", *inputs, True, **how)
    for what, value in {"y": y, "h_n": h_n, "c_n": c_n}.items():
        assert_close(value, (wanted if what == "y" else last).detach(), what)
    dx, dh0, dc0, dweights = kernel(
        "lstm_backward", dy, dh_n / 2, dh_n / 2, *inputs, y, *saved, True, **how
    )
    found = [dx, dh0 + dc0, *dweights]
    for n, (one, other) in enumerate(zip(found, gradients, strict=True)):
        assert_close(one, other, f"gradient {n}")


GATES = {"": (4, 4), "coupled": (3, 3), "gru": (3, 4), "rnn_tanh": (1, 0)}


@pytest.mark.parametrize("cell", GATES)
def test_weights_and_what_is_saved_have_the_gates_that_there_are(cell):
    """Their shapes, and those that the operator's fake says."""
    gates, saved = GATES[cell]
    T, B, I, H = 6, 3, 5, 11
    weights = [torch.randn(gates * H, I), torch.randn(gates * H, H)]
    options = {"cell": cell, "rates": RATES} if cell else {}

    def run(make):
        x, h0, *given = map(make, [torch.randn(T, B, I), torch.randn(1, B, H), *weights])
        return kernel("lstm", x, h0, h0, given, 0.0, None, "layers", True, **options)

    found = run(lambda t: t)
    assert found[5].shape == ((1, T, B, saved * H) if saved else (0,))
    with torch._subclasses.FakeTensorMode() as mode:
        faked = run(mode.from_tensor)
    assert [t.shape for t in faked] == [t.shape for t in found]
    more = [torch.randn(gates * H + H, n) for n in (I, H)]
    x, h0 = torch.randn(T, B, I), torch.randn(1, B, H)
    with pytest.raises(RuntimeError, match=re.escape(f"expected [{gates * H}, {I}]")):
        kernel("lstm", x, h0, h0, more, 0.0, None, "layers", True, **options)


@pytest.mark.parametrize(
    ("cell", "rates", "message"),
    [
        ("gru,peephole", RATES, "cell: got 'gru,peephole'"),
        ("peephole,gru", RATES, "got 'peephole,gru'; expected layer_norm, peephole"),
        ("gru", [0.0, 0.0, 0.0, 0.5], "candidate_dropout 0.5; expected 0 for a GRU"),
        ("rnn_tanh", [0.5, 0.0, 0.0, 0.0], "expected 0 for rnn_tanh"),
        ("slstm", RATES, "cell: got 'slstm'"),  # which the operator recurrence has
        ("layer_norm,coupled", RATES, "cell: got 'layer_norm,coupled'"),
    ],
)
def test_errors_say_what_a_cell_cannot_have(cell, rates, message):
    weights = [torch.randn(3 * 4, 4)] * 2
    x, h0 = torch.randn(2, 1, 4), torch.randn(1, 1, 4)
    with pytest.raises(RuntimeError, match=message):
        kernel("lstm", x, h0, h0, weights, 0.0, None, "layers", False, cell=cell, rates=rates)
