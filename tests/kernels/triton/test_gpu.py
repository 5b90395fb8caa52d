"""What only a GPU can show: the compiled kernels at real sizes, many times, in graphs and streams.

`make gpu` runs these first. A hang here is a barrier that some program never reached: see
docs/gpu.md for how to find it.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fused_lstm
import heads
from fused_lstm import reference
from fused_lstm.call.spec import Spec
from tolerance import GPU, GPU_NORM, GPU_WEIGHTS, assert_close, error_norm, near

pytestmark = pytest.mark.gpu

PRECISIONS = {
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}
SHAPES = {  # T, B, I, H, L
    "small": (20, 20, 200, 200, 2),
    "medium": (35, 20, 650, 650, 2),
    "large": (35, 20, 1500, 1500, 2),
    "odd": (7, 3, 5, 63, 3),
    "one": (1, 1, 1, 1, 1),
    "batch in blocks": (5, 150, 33, 130, 2),
    "streamed": (9, 20, 64, 2048, 1),
    "long": (1024, 16, 512, 512, 1),
    "alone": (20, 600, 33, 64, 1),  # a program has a lane to itself
}
fuses = pytest.mark.parametrize("fuse", ["pointwise", "hoisted", "steps", "layers"])
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@contextlib.contextmanager
def tf32(allowed: bool):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def make(shape, dtype: torch.dtype, fuse: str, proj_size: int = 0):
    """nn.LSTM in float64 with weights that `dtype` holds, ours with the same, x and the state."""
    T, B, I, H, L = shape
    own = {"engine": "triton", "fuse": fuse, "dtype": dtype}
    ours = fused_lstm.LSTM(I, H, L, proj_size=proj_size, device="cuda", **own)
    exact = nn.LSTM(I, H, L, proj_size=proj_size, device="cuda", dtype=torch.float64)
    exact.load_state_dict({k: v.double() for k, v in ours.state_dict().items()})
    x = torch.randn(T, B, I, device="cuda", dtype=dtype)
    sizes = proj_size or H, H
    state = tuple(torch.randn(L, B, size, device="cuda", dtype=dtype) for size in sizes)
    return exact, ours, x, state


def everything(module: nn.Module, x: Tensor, state: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Outputs, final state and all gradients, by name."""
    inputs = [t.detach().requires_grad_() for t in (x, *state)]
    y, (h_n, c_n) = module(inputs[0], (inputs[1], inputs[2]))
    outputs = {"y": y, "h_n": h_n, "c_n": c_n}
    grads = [
        torch.linspace(-1, 1, o.numel(), device="cuda").cos().reshape(o.shape)
        for o in outputs.values()
    ]
    grads = [g.to(y.dtype) for g in grads]
    names = ["x", "h_0", "c_0", *(name for name, _ in module.named_parameters())]
    found = torch.autograd.grad(list(outputs.values()), [*inputs, *module.parameters()], grads)
    named = zip(names, found, strict=True)
    return {k: v.detach() for k, v in outputs.items()} | {f"{k}.grad": v for k, v in named}


def assert_near(actual: dict, expected: dict, precision: str, rounded: dict | None = None) -> None:
    """Compare by norm. rounded: PyTorch's results at this precision; twice its error is allowed."""
    for name, value in expected.items():
        allowed = GPU_NORM[precision]
        if rounded is not None:
            allowed = max(allowed, 2 * error_norm(rounded[name], value))
        error = error_norm(actual[name], value)  # NaN where it is not finite
        assert error <= allowed, f"{name}: {error:.2g} of its norm; {allowed:.2g} is allowed"


@fuses
@shapes
@pytest.mark.parametrize("precision", PRECISIONS)
def test_is_nn_lstm_in_float64(shape, precision, fuse):
    if fuse in ("pointwise", "hoisted") and shape[0] > 100:
        pytest.skip("a thousand steps of launches prove nothing more")
    dtype, allowed = PRECISIONS[precision]
    with tf32(allowed):
        exact, ours, x, state = make(shape, dtype, fuse)
        actual = everything(ours, x, state)
        expected = everything(exact, x.double(), tuple(s.double() for s in state))
    assert_near(actual, expected, precision)


@fuses
def test_float64(fuse):
    exact, ours, x, state = make((4, 3, 5, 70, 2), torch.float64, fuse)
    actual, expected = everything(ours, x, state), everything(exact, x, state)
    for name, value in expected.items():
        assert_close(actual[name], value, name)


@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize(
    ("shape", "proj_size"),
    [
        ("small", 0),
        ("medium", 0),
        ("large", 0),
        ("streamed", 0),
        ("alone", 0),
        ("small", 90),
        ("large", 512),
    ],
)
def test_200_launches_give_the_same_bits(shape, proj_size, fuse):
    """A race or a lost store shows as a difference sooner or later, a lost arrival as a hang."""
    _, ours, x, state = make(SHAPES[shape], torch.bfloat16, fuse, proj_size)
    first = everything(ours, x, state)
    for repeat in range(200):
        again = everything(ours, x, state)
        for name, value in first.items():
            assert torch.equal(again[name], value), f"{name} in repeat {repeat}"


@pytest.mark.parametrize("shape", ["medium", "batch in blocks"])
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("rows", ["plain", "ragged", "both"])
def test_h_by_its_phase_has_the_barriers_bits(rows, precision, shape, monkeypatch):
    """Run 200 launches whose words of h say which step they are of; h0 has a NaN, and is large.

    Bits are the same where no multiplication is fused with an addition: of two that are added the
    compiler fuses either.
    """
    from fused_lstm.triton import launch, op
    from fused_lstm.triton.plan import has_phase

    (T, B, I, H, L), (dtype, allowed) = SHAPES[shape], PRECISIONS[precision]
    own = {"engine": "triton", "fuse": "steps", "bidirectional": rows == "both"}
    ours = fused_lstm.LSTM(I, H, L, device="cuda", dtype=dtype, **own)
    lanes = L * (2 if rows == "both" else 1)
    x = torch.randn(T, B, I, device="cuda", dtype=dtype)
    state = tuple(3 * torch.randn(lanes, B, H, device="cuda", dtype=dtype) for _ in range(2))
    state[0][0, -1, 1] = torch.nan
    more = {}
    if rows != "plain":
        more["lengths"] = torch.arange(B) % T + 1
        more["resets"] = torch.rand(T, B, device="cuda") < 0.2
    chosen, options, phased = op.plan_of, launch.options, []
    unfused = lambda plan: options(plan) | {"enable_fp_fusion": False}  # noqa: E731
    monkeypatch.setattr(launch, "options", unfused)

    def at_the_barrier(*arguments, **options):
        return chosen(*arguments, **options)

    def by_phase(*arguments, **options):
        plan = replace(chosen(*arguments, **options), phase=True)
        phased.append(has_phase(plan, Spec()))
        return plan

    def call() -> dict[str, Tensor]:
        with tf32(allowed), torch.no_grad():
            y, (h_n, c_n) = ours(x, state, **more)
        return {"y": y, "h_n": h_n, "c_n": c_n}

    monkeypatch.setattr(op, "plan_of", at_the_barrier)  # launches that no other test compiled
    expected = call()
    monkeypatch.setattr(op, "plan_of", by_phase)
    actual = call()
    if not any(phased):
        pytest.skip("on this card its weights stream")
    for repeat in range(200):
        for name, value in expected.items():
            same = (actual[name] == value) | (actual[name].isnan() & value.isnan())
            assert same.all(), f"{name} in launch {repeat}"
        actual = call()


@pytest.mark.parametrize("fuse", ["steps", "layers"])
def test_two_streams_at_once(fuse):
    """Each launch has counters of its own."""
    _, ours, x, state = make(SHAPES["small"], torch.float32, fuse)
    expected = everything(ours, x, state)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    found = []
    for _ in range(20):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(everything(ours, x, state))
    torch.cuda.synchronize()
    for one in found:
        for name, value in expected.items():
            assert torch.equal(one[name], value), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@fuses
def test_a_gpu_that_is_not_the_current_one(fuse):
    _, ours, x, state = make(SHAPES["odd"], torch.float32, fuse)
    expected = everything(ours, x, state)
    other = torch.device("cuda", 1)
    assert torch.cuda.current_device() == 0
    moved = everything(ours.to(other), x.to(other), tuple(s.to(other) for s in state))
    for name, value in expected.items():
        assert moved[name].device == other, name
        torch.testing.assert_close(moved[name].to(value.device), value, **near(GPU), msg=name)


@fuses
def test_a_cuda_graph_replays_it(fuse):
    _, ours, x, state = make(SHAPES["small"], torch.float16, fuse)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            everything(ours, x, state)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything(ours, x, state)
    for _ in range(3):
        x.normal_()
        graph.replay()
        torch.cuda.synchronize()
        expected = everything(ours, x, state)
        for name, value in expected.items():
            assert torch.equal(captured[name], value), name


def test_dropout_in_the_wavefront_is_the_references():
    T, B, I, H, L = 6, 20, 33, 130, 3
    _, ours, x, (h0, c0) = make((T, B, I, H, L), torch.float32, "layers")
    weights = [w.detach() for w in ours._flat_weights]
    seed = torch.tensor([2**45 + 3], device="cuda")
    ops = torch.ops.fused_lstm_triton
    with torch.no_grad(), tf32(False):
        ours(x, (h0, c0))  # registers the operators
        y, *_ = ops.lstm(x, h0, c0, weights, 0.4, seed, "layers", True)
        expected, *_ = reference.lstm(x, h0, c0, weights, 0.4, seed)
    torch.testing.assert_close(y, expected, **near(GPU))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@fuses
def test_both_directions_and_rows_that_end_are_nn_lstms(fuse, packed, bidirectional):
    T, B, I, H, L = 9, 40, 33, 200, 2
    exact = nn.LSTM(I, H, L, bidirectional=bidirectional, device="cuda", dtype=torch.float64)
    own = {"engine": "triton", "fuse": fuse, "device": "cuda"}
    ours = fused_lstm.LSTM(I, H, L, bidirectional=bidirectional, **own)
    ours.load_state_dict(exact.state_dict())
    x, lengths = torch.randn(T, B, I, device="cuda"), torch.randint(1, T + 1, (B,))
    lengths[0] = T
    pack = lambda t: nn.utils.rnn.pack_padded_sequence(t, lengths, enforce_sorted=False)  # noqa: E731
    y, (h_n, c_n) = exact(pack(x.double()))
    y, _ = nn.utils.rnn.pad_packed_sequence(y)
    with tf32(False):
        if packed:
            found, states = ours(pack(x))
            found, _ = nn.utils.rnn.pad_packed_sequence(found)
        else:
            found, states = ours(x, lengths=lengths)
        found.cos().sum().backward()
    y.cos().sum().backward()
    for name, a, b in zip(("y", "h_n", "c_n"), (found, *states), (y, h_n, c_n), strict=True):
        torch.testing.assert_close(a.double(), b, **near(GPU), msg=name)
    for (name, a), b in zip(ours.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, **near(GPU_WEIGHTS), msg=name)


@pytest.mark.parametrize("directions", [1, 2], ids=["one", "both"])
@pytest.mark.parametrize("ragged", [False, True], ids=["all", "rows that end or begin anew"])
@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_projected_h_is_the_references(precision, fuse, ragged, directions):
    T, B, I, H, P, L = 9, 40, 33, 200, 90, 2
    (dtype, allowed), D = PRECISIONS[precision], directions
    sizes = {"proj_size": P, "bidirectional": D == 2}
    weights = nn.LSTM(I, H, L, device="cuda", dtype=dtype, **sizes).parameters()
    lanes, rows = {"directions": D}, (T, B)
    if ragged:
        lanes["batch_sizes"] = torch.tensor([40, 40, 33, 32, 20, 3, 1, 1, 1])
        rows = (int(lanes["batch_sizes"].sum()),)
        lanes["not_reset"] = torch.rand(D, *rows, device="cuda") > 0.2
    shapes = (*rows, I), (L * D, B, P), (L * D, B, H)
    inputs = [torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes]
    inputs = [t.detach().requires_grad_() for t in (*inputs, *weights)]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    outputs = reference.lstm(*wide[:3], wide[3:], **lanes)
    by = [torch.linspace(-1, 1, o.numel(), device="cuda").cos().view_as(o) for o in outputs]
    wanted = torch.autograd.grad(outputs, wide, [g.double() for g in by])
    with tf32(allowed):
        operator = torch.ops.fused_lstm_triton.lstm
        found = operator(*inputs[:3], inputs[3:], 0.0, None, fuse, True, **lanes)[:3]
        grads = torch.autograd.grad(found, inputs, [g.to(dtype) for g in by])
    actual, expected = dict(enumerate((*found, *grads))), dict(enumerate((*outputs, *wanted)))
    assert_near(actual, expected, precision)


@fuses
def test_resets_are_the_references(fuse):
    T, B, I, H, L = 9, 40, 33, 200, 2
    _, ours, x, state = make((T, B, I, H, L), torch.float32, fuse)
    resets = torch.rand(T, B, device="cuda") < 0.3
    with tf32(False), torch.no_grad():
        found = ours(x, state, resets=resets)
        weights = list(ours.parameters())
        expected = reference.lstm(x, *state, weights, not_reset=~resets[None])
    for name, a, b in zip(("y", "h_n", "c_n"), (found[0], *found[1]), expected, strict=True):
        torch.testing.assert_close(a, b, **near(GPU), msg=name)


@pytest.mark.parametrize("proj_size", [0, 90])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_launch_a_step_is_the_same_as_one_launch(direction, proj_size, monkeypatch):
    """What runs where the programs do not all fit on the GPU at once."""
    from fused_lstm.triton import devices, op

    _, ours, x, state = make((5, 20, 64, 200, 2), torch.float32, "layers", proj_size)
    with tf32(False):
        expected = everything(ours, x, state)
    chosen, current = op.plan_of, devices.current

    def one_sm(fuse, made_for, *others, **options):
        if made_for != direction:
            return chosen(fuse, made_for, *others, **options)
        tiny = lambda device: replace(current(device), sms=1)  # noqa: E731
        with monkeypatch.context() as patch:
            patch.setattr(devices, "current", tiny)
            return chosen(fuse, made_for, *others, **options)

    monkeypatch.setattr(op, "plan_of", one_sm)
    with tf32(False):
        actual = everything(ours, x, state)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, **near(GPU), msg=name)


@fuses
def test_compile_without_a_break(fuse):
    _, ours, x, state = make(SHAPES["small"], torch.float32, fuse)
    compiled = torch.compile(ours, fullgraph=True)
    y, _ = compiled(x, state)
    torch.testing.assert_close(y, ours(x, state)[0])


@pytest.mark.parametrize("allowed", [True, False], ids=["tf32", "ieee"])
def test_float32_is_as_precise_as_cudnns(allowed):
    """The error's size says which of the two ran: nn.LSTM's and ours, by the same switch."""
    errors = []
    with tf32(allowed):
        exact, ours, x, state = make(SHAPES["medium"], torch.float32, "layers")
        plain = nn.LSTM(650, 650, 2, device="cuda")
        plain.load_state_dict(ours.state_dict())
        expected = exact(x.double(), tuple(s.double() for s in state))[0]
        errors = [(m(x, state)[0] - expected).abs().max().item() for m in (ours, plain)]
    assert all((error > 1e-5) == allowed for error in errors), errors


def test_benchs_nn_lstm_has_its_weights_in_one_buffer():
    from bench.cases import Shape
    from bench.contenders import NN_LSTM
    from bench.layers import local, make_problem, module_of

    problem = make_problem(Shape(2, 3, 64, 64, 2), "cuda", torch.float16)
    weights = module_of(NN_LSTM, problem).parameters()
    assert len({w.untyped_storage().data_ptr() for w in weights}) == 1
    assert {"forward graph", "step graph"} <= local(NN_LSTM, problem).modes.keys()


@pytest.mark.parametrize("fuse", ["steps", "layers"])
def test_autocast(fuse):
    _, ours, x, state = make(SHAPES["small"], torch.float32, fuse)
    with torch.autocast("cuda", torch.bfloat16):
        y, _ = ours(x, state)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert ours.weight_hh_l0.grad.dtype == torch.float32


@pytest.mark.parametrize("fuse", ["steps", "layers"])
def test_gradcheck_twice(fuse):
    _, ours, x, state = make((2, 2, 3, 3, 2), torch.float64, fuse)
    x.requires_grad_()

    def run(x):
        return ours(x, state)[0]

    assert torch.autograd.gradcheck(run, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x,), fast_mode=True)


@pytest.mark.parametrize(("B", "H", "L"), [(20, 200, 1), (1, 50, 3)], ids=["small", "odd"])
def test_a_new_length_needs_no_new_kernel(B, H, L):
    """Lanes of 50 units, of which only the first begins where 16 bytes divide the address."""
    from fused_lstm.triton import forward

    _, ours, x, state = make((4, B, H, H, L), torch.bfloat16, "steps")
    ours(x, state)

    def compiled() -> int:
        caches = forward.lstm_forward_kernel.device_caches.values()
        return sum(len(cache[0]) for cache in caches)

    before = compiled()
    for T in (1, 2, 9, 16, 35):
        ours(torch.randn(T, B, H, device="cuda", dtype=torch.bfloat16), state)
    assert compiled() == before


@pytest.mark.parametrize("directions", [1, 2], ids=["one", "both"])
@pytest.mark.parametrize("projected", [0, 90])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", [False, True], ids=["pointwise options", "and layer_norm"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cell_is_the_references(precision, norm, training, projected, directions):
    """With rows that end and begin anew; one seed draws the same masks here and there."""
    B, I, H, L, P, D = 40, 33, 200, 2, projected or 200, directions
    dtype, allowed = PRECISIONS[precision]
    cell = Spec(
        layer_norm=norm, peephole=True, zoneout=(0.2, 0.3), recurrent_dropout=0.3,
    )  # fmt: skip
    own = {"proj_size": projected, "bidirectional": D == 2, **cell.cell_options()}
    weights = fused_lstm.LSTM(I, H, L, device="cuda", dtype=dtype, engine="triton", **own)
    sizes = torch.tensor([40, 40, 33, 32, 20, 3, 1, 1, 1])
    lanes, rows = {"directions": D, "batch_sizes": sizes}, int(sizes.sum())
    lanes["not_reset"] = torch.rand(D, rows, device="cuda") > 0.2
    shapes = (rows, I), (L * D, B, P), (L * D, B, H)
    inputs = [torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes]
    inputs = [t.detach().requires_grad_() for t in (*inputs, *weights.parameters())]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    seed = torch.tensor([2**45 + 3], device="cuda") if training else None
    outputs = reference.lstm(*wide[:3], wide[3:], 0.0, seed, **lanes, cell=cell)
    by = [torch.linspace(-1, 1, o.numel(), device="cuda").cos().view_as(o) for o in outputs]
    wanted = torch.autograd.grad(outputs, wide, [g.double() for g in by])
    with tf32(allowed):
        given = *inputs[:3], inputs[3:], 0.0, seed, "layers", True
        found = torch.ops.fused_lstm_triton.lstm(*given, **lanes, **cell.schema)[:3]
        grads = torch.autograd.grad(found, inputs, [g.to(dtype) for g in by])
    actual, expected = dict(enumerate((*found, *grads))), dict(enumerate((*outputs, *wanted)))
    assert_near(actual, expected, precision)


HEADS = {  # T, B, H, N
    "a program a head": (20, 20, 128, 8),
    "FlashRNN's": (64, 16, 768, 1),
    "two blocks a program": (9, 70, 1000, 2),
    "many tiles of batch": (9, 600, 512, 2),
    "odd": (7, 3, 201, 3),
}


@pytest.mark.parametrize("shape", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_heads_are_the_loops(precision, cell, shape):
    (T, B, H, N), (dtype, allowed) = shape, PRECISIONS[precision]
    module = heads.MAKE[cell](33, H, num_heads=N, engine="triton", device="cuda", dtype=dtype)
    x = torch.randn(T, B, 33, device="cuda", dtype=dtype)
    rows = {"lengths": torch.randint(1, T + 1, (B,)), "resets": torch.rand(T, B) < 0.2}
    rows["resets"] = rows["resets"].to("cuda")
    with tf32(allowed):
        actual = heads.results(module, x, **rows)
        module.engine = "loop"
        expected = heads.results(module.double(), x.double(), **rows)
    assert_near(actual, expected, precision)


def test_200_launches_of_a_shared_head_give_the_same_bits():
    """A lost arrival among a head's programs shows as a hang."""
    T, B, H, N = HEADS["FlashRNN's"]
    module = heads.MAKE["slstm"](33, H, num_heads=N, engine="triton", device="cuda")
    x = torch.randn(T, B, 33, device="cuda")
    first = heads.results(module, x)
    for repeat in range(200):
        for name, value in heads.results(module, x).items():
            assert torch.equal(value, first[name]), f"{name} in repeat {repeat}"


COUNTED = {
    "coupled": Spec(coupled=True),
    "gru": Spec("gru"),
    "rnn_tanh": Spec("rnn_tanh"),
    "rnn_relu": Spec("rnn_relu"),
}


@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize("cell", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize("shape", ["medium", "odd", "large"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cell_of_other_gates_is_the_references(precision, shape, cell, fuse):
    """Coupled gates, nn.GRU's and nn.RNN's: as many rows as they have gates."""
    T, B, I, H, L = SHAPES[shape]
    dtype, allowed = PRECISIONS[precision]
    G, inputs = cell.gates * H, [(T, B, I), (L, B, H), (L, B, H)]
    for layer in range(L):
        inputs += [(G, I if layer == 0 else H), (G, H), (G,), (G,)]
    tensors = [torch.randn(size, device="cuda") for size in inputs]
    tensors = [t if n < 3 else t / H**0.5 for n, t in enumerate(tensors)]
    tensors = [t.to(dtype) for t in tensors]

    def everything_of(tensors: list[torch.Tensor], run) -> dict[int, torch.Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        outputs = run(*leaves[:3], leaves[3:])
        by = [torch.linspace(-1, 1, o.numel(), device="cuda").cos().view_as(o) for o in outputs]
        by = [g.to(dtype).to(o.dtype) for g, o in zip(by, outputs, strict=True)]
        options = {"allow_unused": True, "materialize_grads": True}  # nn.RNN has no c
        return dict(enumerate((*outputs, *torch.autograd.grad(outputs, leaves, by, **options))))

    def triton(*given) -> tuple[torch.Tensor, ...]:
        return torch.ops.fused_lstm_triton.lstm(*given, 0.0, None, fuse, True, **cell.schema)[:3]

    def plain(*given) -> tuple[torch.Tensor, ...]:
        return reference.lstm(*given, cell=cell)

    with tf32(allowed):
        expected = everything_of([t.double() for t in tensors], plain)
        actual, rounded = everything_of(tensors, triton), None
        if cell.cell == "rnn_relu":  # rounding moves some sums past zero, where its gradient jumps
            rounded = everything_of(tensors, plain)
    assert_near(actual, expected, precision, rounded)
