"""FlashRNN's function on our kernels, beside the package's own backend `vanilla`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fused_lstm import native
from tolerance import assert_close

flashrnn: Any = pytest.importorskip("flashrnn", reason="the package flashrnn is not there")
from fused_lstm.integrations import flashrnn as ours  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
# Function -> states, gates of x, of h, of the bias.
SIZES = {"lstm": (2, 4, 4, 4), "slstm": (4, 4, 4, 4), "elman": (1, 1, 1, 1), "gru": (1, 3, 3, 4)}
T, B, N, K = 7, 3, 2, 5


def leaves(function: str, dtype: torch.dtype, T: int = T) -> dict[str, torch.Tensor]:
    S, of_x, of_h, of_bias = SIZES[function]
    made = {
        "Wx": torch.randn(B, T, of_x, N, K, dtype=dtype),
        "R": torch.randn(of_h, N, K, K, dtype=dtype) * 0.5,
        "b": torch.randn(of_bias, N, K, dtype=dtype),
        "states": torch.randn(S, B, 1, N, K, dtype=dtype),
    }
    if function == "slstm":  # FlashRNN's n is never below 1
        made["states"][2] = made["states"][2].abs() + 1
    return made


def config(function: str, **options: Any) -> Any:
    options = {"backend": "vanilla", "dtype": "float32"} | options
    return flashrnn.FlashRNNConfig(function=function, num_heads=N, head_dim=K, **options)


def answers(tensors: dict, of_config: Any, which: str) -> dict[str, torch.Tensor]:
    """Return states, the last ones, and gradients of a loss on `which` of them."""
    own = {name: leaf.clone().requires_grad_() for name, leaf in tensors.items()}
    every, last = flashrnn.flashrnn(**own, function=of_config.function, config=of_config)
    weights = torch.linspace(-1, 1, last.numel(), dtype=last.dtype).view_as(last)
    loss = (every if which == "all" else every[0]).sin().sum() + (last * weights).sum()
    loss.backward()
    found = {"every": every.detach(), "last": last.detach()}
    return found | {f"{name}.grad": leaf.grad for name, leaf in own.items()}


@pytest.mark.parametrize("which", ["h", "all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("function", SIZES)
def test_values_and_gradients_are_the_packages(function, dtype, which):
    torch.manual_seed(4)
    tensors = leaves(function, dtype)
    expected = answers(tensors, config(function), which)
    with ours.install():
        got = answers(tensors, config(function, backend="cuda_fused"), which)
    for name, value in got.items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("function", SIZES)
@pytest.mark.parametrize("case", ["one step", "no states", "layouts"])
def test_shapes(function, case):
    torch.manual_seed(4)
    tensors, options = leaves(function, torch.float64, T=1 if case == "one step" else T), {}
    if case == "no states":
        del tensors["states"]
    if case == "layouts":
        options = {"input_shape": "TBGHD", "recurrent_shape": "HGDP", "output_shape": "STBHD"}
        tensors["Wx"] = tensors["Wx"].transpose(0, 1).contiguous()
        tensors["R"] = tensors["R"].transpose(0, 1).contiguous()
        tensors["states"] = tensors["states"].transpose(1, 2).contiguous()
    expected = answers(tensors, config(function, **options), "h")
    with ours.install():
        got = answers(tensors, config(function, **options), "h")
    for name, value in got.items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tirex_2_gives_what_it_gives(dtype):
    """The model's outputs, and each gradient: of its input, and of each weight by name."""
    pytest.importorskip("tirex2", reason="the package tirex-2 is not there")
    from bench import adopted
    from bench.cases import Shape

    torch.manual_seed(4)
    model = adopted.tirex2(Shape(5, 3, adopted.PATCH, 32, 12)).to(dtype)
    for name, weight in model.named_parameters():
        if name.endswith("_recurrent_kernel_"):
            torch.nn.init.normal_(weight, std=0.2)  # which the package begins with 0
    x = torch.randn(3, 5 * adopted.PATCH, dtype=dtype).cumsum(1).requires_grad_()
    # Two series of one group, of which the second is known in advance: its blocks run both ways.
    batch = {
        "x": x, "group_vector": torch.tensor([0, 0, 1]),
        "target_mask": torch.tensor([True, False, True]),
    }  # fmt: skip

    def results() -> dict[str, torch.Tensor]:
        y = model(batch)
        named = {"x": x} | dict(model.named_parameters())
        grads = torch.autograd.grad(y.sin().sum(), [*named.values()])
        return {"y": y.detach()} | dict(zip(named, grads, strict=True))

    expected, calls = results(), []
    run = ours._run
    with pytest.MonkeyPatch.context() as patched, ours.install():
        patched.setattr(ours, "_run", lambda *a: calls.append(1) or run(*a))
        got = results()
    assert len(calls) == 12  # six sLSTM blocks, forwards and backwards in time
    largest = max(value.abs().max() for name, value in expected.items() if name != "y")
    # TiRex's own float32 gradients are 1.4e-4 from those in float64, ours 1.3e-4.
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-4}[dtype]
    for name, value in got.items():
        # A gradient that is zero but for rounding is compared with the largest one's rounding.
        right = expected[name]
        allowed = tolerance * max(right.abs().max(), 1e-3 * largest)
        assert (value - right).abs().max() <= allowed, name


def test_a_recurrent_gradient_is_clipped():
    torch.manual_seed(4)
    tensors = leaves("slstm", torch.float64)
    with ours.install():
        free, tight = (
            answers(tensors, config("slstm", gradient_recurrent_clipval=clip), "h")
            for clip in (None, 1e-3)
        )
    assert_close(free["every"], tight["every"], "states")
    assert (free["Wx.grad"] - tight["Wx.grad"]).abs().max() > 1e-3


def test_what_ours_has_not_runs_the_packages_code():
    told = config("lstm", constants={"a": 1.0})
    assert ours.why_theirs(told, CPU) == "its config has constants"
    assert ours.why_theirs(config("lstm"), torch.device("cuda")) == "it is on cuda"
    assert ours.why_theirs(config("lstm"), CPU) is None
    before = ours.package._get_kernel
    with ours.install():
        assert ours.package._get_kernel is ours.kernel
    assert ours.package._get_kernel is before is ours.THEIRS
