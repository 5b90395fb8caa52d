"""Told cells, and calls that are large, compiled or ragged, as only a GPU can show them.

`make gpu` runs these with test_gpu.py's.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fused_lstm
import heads
import sum_cells
from bench import zoo
from test_gpu import PRECISIONS, assert_near, everything, make, tf32
from tolerance import GPU, GPU_NORM, error_norm, near

pytestmark = pytest.mark.gpu

# A state c; eight gates and a pair; three states and logarithms; a scan with weights of a unit; an
# input; two states that begin at other values than 0; h beside c; a pair times a pair; peepholes;
# all other functions; a product inside the step, of two columns, of four; an input beside one; sums
# and maxima over units, which share meetings, around a product, and without a gate of h.
TOLD = ("lltm", "nas", "slstm", "sru", "cfc", "normalized", "rhn", "mi_rnn", "peephole",
        "functions", "gru_reset_before", "highway", "multiplicative_lstm",
        "cfc_backbone", "norm_of_c", "norms_around_a_product", "sums_of_states", "a_state_of_rows",
        "without_a_gate_of_h")  # fmt: skip
CELLS = {name: sum_cells.CELLS.get(name) or getattr(zoo, name) for name in (*TOLD, "lstm", "mgu")}
told = pytest.mark.parametrize("cell", TOLD)
OPTIONS = {
    "lltm": ({"proj_size": 90}, {"layer_norm": True}, {"num_heads": 8}),
    "nas": ({"layer_norm": True},),
    "mgu": ({"layer_norm": True}, {"num_heads": 8}),
    "slstm": ({"num_heads": 8},),
    "normalized": ({"proj_size": 90}, {"num_heads": 2}),
}


def make_told(cell: str, precision: str, sizes: tuple[int, ...], **options) -> fused_lstm.Recurrent:
    """A module of a cell; sizes: I, H, L."""
    options |= {"device": "cuda", "dtype": PRECISIONS[precision][0]}
    return fused_lstm.Recurrent(CELLS[cell], *sizes, engine="triton", **options)


def inputs_of(cell: str, precision: str, T: int, B: int, I: int) -> tuple[Tensor, dict]:
    """x, and what the cell has as inputs."""
    x = torch.randn(T, B, I, device="cuda", dtype=PRECISIONS[precision][0])
    names = CELLS[cell].inputs
    return x, {name: torch.rand(T, B, 1, device="cuda", dtype=x.dtype) for name in names}


def assert_is_the_loop(module: nn.Module, precision: str, x: Tensor, **call) -> None:
    """Compare a call's results and gradients with the loop's, in float64.

    Where the cell divides or multiplies its gates rounding grows: of the loop's own at the
    precision twice as much is allowed.
    """
    with tf32(PRECISIONS[precision][1]):
        actual = heads.results(module, x, **call)
        module.engine, module.fuse = "loop", None
        rounded = heads.results(module, x, **call)
        for name, value in call.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                call[name] = value.double()
        expected = heads.results(module.double(), x.double(), **call)
    assert_near(actual, expected, precision, rounded)


@told
@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_told_cell_is_the_loops(precision, fuse, cell):
    layers = 1 if CELLS[cell].inputs else 2
    module = make_told(cell, precision, (33, 200, layers), fuse=fuse)
    x, inputs = inputs_of(cell, precision, 9, 40, 33)
    assert_is_the_loop(module, precision, x, **inputs)


@told
@pytest.mark.parametrize("directions", [1, 2], ids=["one", "both"])
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_told_cell_whose_rows_end_or_begin_anew(precision, directions, cell):
    """In training; a cell whose states do not begin at zero has no resets."""
    module = make_told(cell, precision, (33, 200), bidirectional=directions == 2)
    T, B = 9, 40
    x, inputs = inputs_of(cell, precision, T, B, 33)
    lengths = torch.randint(1, T + 1, (B,))
    if cell == "normalized":
        assert_is_the_loop(module, precision, x, lengths=lengths)
        return
    resets = torch.rand(T, B, device="cuda") < 0.2
    assert_is_the_loop(module, precision, x, lengths=lengths, resets=resets, **inputs)


@pytest.mark.parametrize("fuse", ["steps", "layers"])
@pytest.mark.parametrize("cell", ["nn.LSTM's", "lltm", "multiplicative_lstm", "heads"])
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_reversed_lanes_whose_loss_reads_every_state(precision, cell, fuse):
    options = {"fuse": fuse, "reverse": True}
    if cell in ("nn.LSTM's", "heads"):
        where = {"device": "cuda", "dtype": PRECISIONS[precision][0], "engine": "triton"}
        N = 8 if cell == "heads" else 1
        module = fused_lstm.LSTM(33, 200, 2, num_heads=N, **where, **options)
    else:
        module = make_told(cell, precision, (33, 200, 2), **options)
    x, lengths = inputs_of("lltm", precision, 9, 40, 33)[0], torch.randint(1, 10, (40,))
    assert_is_the_loop(module, precision, x, lengths=lengths, return_states=True)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(cell, each, id=f"{cell}-{name}")
        for cell, found in OPTIONS.items()
        for each in found
        for name in each
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_told_cell_with_an_option(precision, cell, options):
    module = make_told(cell, precision, (33, 512), **options)
    assert_is_the_loop(module, precision, inputs_of(cell, precision, 9, 20, 33)[0])


@pytest.mark.parametrize("H", [64, 256])
@pytest.mark.parametrize("cell", ["lstm", "lltm", "slstm", "sru"])
def test_thousands_of_rows_that_begin_anew(cell, H):
    module = make_told(cell, "bf16", (33, H))
    T, B = 5, 4096
    resets = torch.rand(T, B, device="cuda") < 0.2
    assert_is_the_loop(module, "bf16", inputs_of(cell, "bf16", T, B, 33)[0], resets=resets)


@told
def test_200_launches_of_a_told_cell_give_the_same_bits(cell):
    """A race or a lost store shows as a difference sooner or later, a lost arrival as a hang."""
    module = make_told(cell, "bf16", (33, 650))
    x, inputs = inputs_of(cell, "bf16", 20, 20, 33)
    first = heads.results(module, x, **inputs)
    for repeat in range(200):
        for name, value in heads.results(module, x, **inputs).items():
            assert torch.equal(value, first[name]), f"{name} in repeat {repeat}"


def test_two_cells_of_one_name():
    """Each has a kernel of its own, though Triton names both alike."""
    modules = []
    for factor in (0.5, 0.25):

        def leak(a, *, h, factor=factor):
            return torch.tanh(a) + factor * h

        cell = fused_lstm.cell(states="h")(leak)
        modules.append(fused_lstm.Recurrent(cell, 33, 64, engine="triton", device="cuda"))
    x = torch.randn(9, 20, 33, device="cuda")
    for module in modules:
        assert_is_the_loop(module, "fp32", x)


@pytest.mark.parametrize("fuse", ["steps", "layers"])
def test_a_compiled_training_step(fuse):
    _, ours, x, state = make((9, 20, 64, 200, 2), torch.float32, fuse)
    with tf32(False):
        expected = everything(ours, x, state)
        actual = everything(torch.compile(ours, fullgraph=True), x, state)
    for name, value in expected.items():
        name = name if name in actual else f"_orig_mod.{name}"
        torch.testing.assert_close(actual[name], value, **near(GPU), msg=name)


def test_gates_above_2_to_the_31_elements():
    """The second half of the steps is a call of its own, whose offsets are small.

    Without a GPU only its kernels are compiled, which know no T.
    """
    T, B, H = (1100, 1024, 512) if torch.cuda.is_available() else (4, 1024, 512)
    if torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("its tensors take 25 GB")
    module = fused_lstm.LSTM(64, H, engine="triton", device="cuda", dtype=torch.bfloat16)
    x = torch.randn(T, B, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    y, _ = module(x)
    with torch.no_grad():
        half = module(x[: T // 2])[1]
    later = x[T // 2 :].detach().requires_grad_()
    y_later, _ = module(later, half)
    assert error_norm(y[T // 2 :], y_later) <= GPU_NORM["bf16"]
    (dx,) = torch.autograd.grad(y[T // 2 :].float().sum(), x)
    (dx_later,) = torch.autograd.grad(y_later.float().sum(), later)
    assert error_norm(dx[T // 2 :], dx_later) <= GPU_NORM["bf16"]


@pytest.mark.parametrize("make_module", [fused_lstm.LSTM, fused_lstm.GRU], ids=["lstm", "gru"])
@pytest.mark.parametrize("fuse", ["steps", "layers"])
def test_one_step_in_a_graph_is_the_modules(fuse, make_module):
    module = make_module(64, 200, 2, engine="triton", fuse=fuse, device="cuda").eval()
    x, state, expected = torch.randn(4, 1, 3, 64, device="cuda"), None, []
    with torch.no_grad():
        for one in x:
            y, state = module(one, state)
            expected.append(y)
        step, state = fused_lstm.graphed(module, x[0]), None
        for one, right in zip(x, expected, strict=True):
            y, state = step(one, state)
            assert torch.equal(y, right)
        assert torch.equal(step(x[0])[0], expected[0])  # from zeros, which no call has written over
    with pytest.raises(ValueError, match="input, state: got"):
        step(x[0, :, :2])
