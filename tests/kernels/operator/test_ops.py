"""The operators: torch.library's own checks, torch.compile, and the fused pointwise kernels."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from cases import assert_autocasts, rungs
from fused_lstm import reference, zoo
from tolerance import assert_close


@pytest.fixture(params=["triton", "native"])
def ops(request):
    """An engine's operators, registered by a first call."""
    why = fused_lstm.available_engines("cpu")[request.param]
    if why is not None:
        pytest.skip(f"{request.param}: {why}")
    fused_lstm.LSTM(1, 1, engine=request.param, fuse="pointwise")(torch.zeros(1, 1, 1))
    return getattr(torch.ops, f"fused_lstm_{request.param}")


def cell_inputs(B: int, H: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    gates = torch.randn(B, 4 * H, dtype=dtype, requires_grad=True)
    c = torch.randn(B, H, dtype=reference.state_dtype(dtype), requires_grad=True)
    return gates, c


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("B", "H"), [(1, 1), (3, 5), (7, 130), (65, 63), (20, 650)])
def test_cell_is_the_references(ops, B, H, dtype):
    gates, c = cell_inputs(B, H, dtype)
    actual, expected = ops.cell(gates, c), reference.cell(gates, c)
    weights = torch.randn(2, B, H, dtype=dtype)
    by_kernel = torch.autograd.grad(actual, (gates, c), list(weights))
    by_autograd = torch.autograd.grad(expected, (gates, c), list(weights))
    names = ("h", "c_next", "dgates", "dc")
    pairs = zip(names, (*actual, *by_kernel), (*expected, *by_autograd), strict=True)
    for name, found, wanted in pairs:
        assert_close(found, wanted, name)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 88.0, 100.0, 1e4])
def test_cell_at_extreme_gates(ops, size):
    """No exp overflows and no difference of two ones becomes a NaN."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    gates = (signs.repeat(3, 1) * size).requires_grad_()
    c = torch.tensor([-50.0, 1e-3, 50.0]).repeat_interleave(16)[:, None].requires_grad_()
    h, c_next = ops.cell(gates, c)
    dgates, dc = torch.autograd.grad((h, c_next), (gates, c), [torch.ones_like(h)] * 2)
    gates64, c64 = (t.detach().double().requires_grad_() for t in (gates, c))
    expected = reference.cell(gates64, c64)
    by_autograd = torch.autograd.grad(expected, (gates64, c64), [torch.ones_like(c64)] * 2)
    names, wanted = ("h", "c_next", "dgates", "dc"), (*expected, *by_autograd)
    for name, found, value in zip(names, (h, c_next, dgates, dc), wanted, strict=True):
        assert_close(found, value.float(), name)


def test_cell_takes_views_that_are_not_contiguous(ops):
    gates, c = cell_inputs(6, 5, torch.float64)
    found = ops.cell(gates[::2], c.T.contiguous().T[::2])
    for name, actual, expected in zip(
        ("h", "c_next"), found, reference.cell(gates[::2], c[::2]), strict=True
    ):
        assert_close(actual, expected, name)


LAYOUTS = {
    "contiguous": lambda t: t,
    "permuted": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:1].expand_as(t),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@each_layout
def test_opcheck_cell(ops, layout):
    gates, c = (layout(t.detach()).requires_grad_() for t in cell_inputs(3, 5, torch.float64))
    torch.library.opcheck(ops.cell, (gates, c))


@each_layout
def test_opcheck_cell_backward(ops, layout):
    tensors = [layout(torch.randn(3, columns)) for columns in (20, 5, 5, 5, 5)]
    torch.library.opcheck(ops.cell_backward, tensors)


def lstm_inputs(layout, T=2, B=2, I=5, H=4, L=2) -> tuple:
    sizes = [(T, B, I), (L, B, H), (L, B, H)]
    weights = [
        (4 * H, I),
        (4 * H, H),
        (4 * H,),
        (4 * H,),
        (4 * H, H),
        (4 * H, H),
        (4 * H,),
        (4 * H,),
    ]
    x, h0, c0 = (layout(torch.randn(size)) for size in sizes)
    return x, h0, c0, [layout(torch.randn(size)) for size in weights]


@pytest.mark.parametrize(
    ("layout", "save"),
    list(zip(LAYOUTS.values(), (True, False, True, False), strict=True)),
    ids=LAYOUTS,
)
def test_opcheck_lstm(ops, layout, save, whole):
    if ops.name.endswith("triton") and layout is not LAYOUTS["contiguous"] and not whole:
        pytest.skip("long in the interpreter, and any layout is made contiguous below: --slow")
    x, h0, c0, weights = lstm_inputs(layout)
    tensors = [t.requires_grad_(save) for t in (x, h0, c0, *weights)]
    torch.library.opcheck(ops.lstm, (*tensors[:3], tensors[3:], 0.0, None, "layers", save))


@pytest.mark.parametrize(
    ("layout", "needs_dx"),
    list(zip(LAYOUTS.values(), (True, False, True, False), strict=True)),
    ids=LAYOUTS,
)
def test_opcheck_lstm_backward(ops, layout, needs_dx, whole):
    if ops.name.endswith("triton") and layout is not LAYOUTS["contiguous"] and not whole:
        pytest.skip("long in the interpreter: --slow")
    x, h0, c0, weights = lstm_inputs(layout)
    seed = torch.tensor([3])
    y, h_n, _, *saved = ops.lstm(x, h0, c0, weights, 0.5, seed, "layers", True)
    grads = [layout(torch.randn_like(t)) for t in (y, h_n)]
    saved = [layout(t) for t in (y, *saved)]
    torch.library.opcheck(
        ops.lstm_backward,
        (*grads, None, x, h0, c0, weights, 0.5, seed, "layers", *saved, needs_dx),
    )


def test_results_are_contiguous_whatever_the_inputs_are(ops):
    x, h0, c0, weights = lstm_inputs(LAYOUTS["permuted"])
    outputs = ops.lstm(x, h0, c0, weights, 0.0, None, "layers", True)
    y, h_n, c_n, *saved = outputs
    grads = [LAYOUTS["permuted"](t) for t in (y, h_n, c_n)]
    *states, dweights = ops.lstm_backward(
        *grads, x, h0, c0, weights, 0.0, None, "layers", y, *saved, True
    )
    assert all(t.is_contiguous() for t in (*outputs, *states, *dweights))


@pytest.mark.parametrize(
    ("batch_first", "dynamic"),
    [(False, False), (True, True)],
    ids=["time-first-static", "batch-first-dynamic"],
)
@pytest.mark.parametrize(
    ("engine", "fuse"), rungs("loop", "cudnn", "compile", top=True, slow=("triton",))
)
def test_inductor_trains(engine, fuse, batch_first, dynamic):
    """Where x needs a gradient and arrives permuted, as behind a convolution."""
    torch._dynamo.reset()
    module = fused_lstm.LSTM(5, 4, 2, batch_first=batch_first, engine=engine, fuse=fuse)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic)
    for T, B in ((3, 2), (4, 3)) if dynamic else ((3, 2),):
        x = torch.randn(B, 5, T).permute((0, 2, 1) if batch_first else (2, 0, 1))
        h0, c0 = (torch.randn(B, 2, 4).transpose(0, 1) for _ in range(2))
        found = []
        for run in (module, compiled):
            leaves = [t.detach().requires_grad_() for t in (x, h0, c0)]
            y, (h_n, c_n) = run(leaves[0], tuple(leaves[1:]))
            loss = y.sin().sum() + (h_n * c_n).sum()
            found.append([y, h_n, c_n, *torch.autograd.grad(loss, [*leaves, *module.parameters()])])
        for n, (actual, expected) in enumerate(zip(*reversed(found), strict=True)):
            assert_close(actual, expected, f"result {n}")


@pytest.mark.parametrize(  # tests/conformance has the same in layers, with lengths
    ("engine", "fuse"), rungs("cudnn", "compile", but=("none", "hoisted", "layers"))
)
def test_torch_compile_traces_without_a_break(engine, fuse):
    module = fused_lstm.LSTM(3, 4, 2, engine=engine, fuse=fuse)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 2, 3)
    grads = []
    for run in (module, compiled):
        module.zero_grad()
        run(x)[0].sin().sum().backward()
        grads.append({name: p.grad.clone() for name, p in module.named_parameters()})
    for name, grad in grads[0].items():
        assert_close(grads[1][name], grad, name)


def test_torch_compile_knows_what_a_normalized_cell_keeps(ops):
    """Behind the states lie W x and R h; of cells with sums, which have no norm, numbers."""
    module = fused_lstm.Recurrent(zoo.rhn, 2, 6, engine=ops.name.split("_")[-1], layer_norm=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x, found = torch.randn(3, 1, 2), []
    for run in (module, compiled):
        module.zero_grad()
        _, _, states = run(x, return_states=True)
        sum(state.sin().sum() for state in states).backward()
        found.append([*states, *(p.grad for p in module.parameters())])
    for n, (actual, expected) in enumerate(zip(*reversed(found), strict=True)):
        assert_close(actual, expected, f"result {n}")


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile"))
def test_two_runs_give_the_same_bits(engine, fuse):
    module = fused_lstm.LSTM(17, 30, 2, engine=engine, fuse=fuse)
    x, bits = torch.randn(4, 3, 17), []
    for _ in range(2):
        module.zero_grad()
        y, _ = module(x)
        y.sum().backward()
        bits.append([y.detach(), *(p.grad.clone() for p in module.parameters())])
    assert all(map(torch.equal, *bits))


@pytest.mark.parametrize(("engine", "fuse"), rungs("compile", "cudnn"))
def test_autocast_on_a_cpu_gives_bfloat16(engine, fuse):
    if engine == "triton":
        pytest.skip("Triton's interpreter has no bfloat16 products")
    module = fused_lstm.LSTM(5, 8, 2, engine=engine, fuse=fuse)
    assert_autocasts(module, torch.randn(3, 2, 5))
